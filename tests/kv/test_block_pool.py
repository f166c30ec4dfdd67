"""Blocks of one cache group: references, names, eviction."""

from __future__ import annotations

import pytest

from paceline.kv.block_pool import BlockPool


def references(pool: BlockPool, **held: int) -> list[int]:
    counts = [0] * pool.num_blocks
    for block, count in held.items():
        counts[int(block[1:])] = count
    return counts


def test_every_block_is_handed_out_once() -> None:
    pool = BlockPool(5)
    assert sorted(pool.allocate() for _ in range(5)) == [0, 1, 2, 3, 4]
    assert pool.num_free == 0 and pool.num_used == 5
    pool.check_integrity([1] * 5)


def test_a_released_block_without_a_name_is_reused_before_untouched_memory() -> None:
    pool = BlockPool(3)
    block = pool.allocate()
    pool.release(block)
    assert pool.allocate() == block


def test_a_freed_named_block_stays_findable_until_it_is_evicted() -> None:
    pool = BlockPool(2)
    block = pool.allocate()
    pool.publish(block, b"a")
    pool.release(block)
    assert pool.find(b"a") == block and pool.num_free == 2
    pool.allocate()  # the untouched one
    assert pool.find(b"a") == block
    assert pool.allocate() == block
    assert pool.find(b"a") is None
    pool.check_integrity([1, 1])


def test_remembered_blocks_are_evicted_before_more_memory_than_the_warm_share_is_touched() -> None:
    pool = BlockPool(4, warm_blocks=2)
    blocks = [pool.allocate(), pool.allocate()]
    for block, name in zip(blocks, (b"a", b"b"), strict=True):
        pool.publish(block, name)
        pool.release(block)
    assert [pool.allocate(), pool.allocate()] == blocks
    assert sorted([pool.allocate(), pool.allocate()]) == [2, 3]  # what runs may have all of it
    pool.check_integrity([1] * 4)


def test_the_least_recently_freed_name_is_evicted_first() -> None:
    pool = BlockPool(3)
    blocks = [pool.allocate() for _ in range(3)]
    for block, name in zip(blocks, (b"a", b"b", b"c"), strict=True):
        pool.publish(block, name)
    for index in (1, 0, 2):
        pool.release(blocks[index])
    pool.hold(blocks[1])  # used again, so the newest when freed again
    pool.release(blocks[1])
    assert [pool.allocate() for _ in range(3)] == [blocks[0], blocks[2], blocks[1]]


def test_a_held_block_is_never_evicted() -> None:
    pool = BlockPool(2)
    block = pool.allocate()
    pool.publish(block, b"a")
    pool.hold(block)
    pool.release(block)
    assert pool.allocate() != block and pool.num_free == 0
    assert pool.find(b"a") == block


def test_the_first_block_of_a_name_stays_the_findable_one() -> None:
    pool = BlockPool(2)
    first, second = pool.allocate(), pool.allocate()
    pool.publish(first, b"a")
    pool.publish(second, b"a")
    pool.release(second)
    assert pool.find(b"a") == first
    pool.check_integrity(references(pool, b0=1))


def test_releasing_more_often_than_holding_is_an_error() -> None:
    pool = BlockPool(1)
    block = pool.allocate()
    pool.release(block)
    with pytest.raises(AssertionError, match="released more often"):
        pool.release(block)


def test_naming_a_named_block_again_is_an_error() -> None:
    pool = BlockPool(1)
    block = pool.allocate()
    pool.publish(block, b"a")
    with pytest.raises(AssertionError, match="immutable"):
        pool.publish(block, b"b")


def test_integrity_check_finds_a_wrong_count() -> None:
    pool = BlockPool(2)
    pool.allocate()
    with pytest.raises(AssertionError, match="reference counts"):
        pool.check_integrity([0, 0])


def test_forget_free_evicts_all_names_that_nobody_holds() -> None:
    pool = BlockPool(3)
    held, freed = pool.allocate(), pool.allocate()
    pool.publish(held, b"held")
    pool.publish(freed, b"freed")
    pool.release(freed)
    pool.forget_free()
    assert pool.find(b"freed") is None and pool.find(b"held") == held
    pool.check_integrity(references(pool, b0=1))
