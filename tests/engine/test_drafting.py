"""What is left of a draft that asks for more than can be of use."""

from __future__ import annotations

import pytest
from fake_drafters import TreeDrafter
from fake_model import EOS, fake_spec, make_engine, make_request, prompt_of, reference_output, serve

from paceline.engine.batch_builder import depths
from paceline.engine.drafting import fit_draft
from paceline.engine.sequence import Sequence
from paceline.kv.cache import BlockTable
from paceline.speculation.draft import Draft

CHAIN = Draft(tuple(range(30)), "test")
TREE = Draft(tuple(range(30)), "test", tuple(i // 2 - 1 for i in range(30)))


def make_sequence(length: int, computed: int, limit: int = 256, **params: object) -> Sequence:
    request = make_request("r", prompt_of(length), **params)
    sequence = Sequence(request, 0, BlockTable(1), limit=limit, eos_ids=frozenset({EOS}), serial=0)
    sequence.computed = computed
    return sequence


def test_a_draft_that_fits_is_left_alone() -> None:
    sequence = make_sequence(10, 9)
    assert fit_draft(CHAIN, sequence, 256) is CHAIN
    assert fit_draft(TREE, sequence, 256) is TREE
    assert fit_draft(None, sequence, 256) is None
    assert fit_draft(Draft((), "test"), sequence, 256) is None


@pytest.mark.parametrize(("left", "useful"), [(1, 0), (2, 1), (10, 9)])
def test_a_chain_ends_before_the_last_token_that_the_sequence_may_take(left: int, useful: int) -> None:
    draft = fit_draft(CHAIN, make_sequence(10, 9, max_tokens=left), 256)
    assert (0 if draft is None else len(draft)) == useful


def test_a_draft_never_leaves_the_block_table() -> None:
    draft = fit_draft(TREE, make_sequence(50, 49, limit=64), 64)
    assert draft is not None and len(draft) == 14


def test_a_tree_counts_its_sequences_known_rows() -> None:
    draft = fit_draft(TREE, make_sequence(50, 0), 256)
    assert draft is not None and len(draft) == 14
    assert fit_draft(TREE, make_sequence(64, 0), 256) is None
    assert fit_draft(CHAIN, make_sequence(64, 0), 256) is CHAIN


def test_trees_behind_long_prompts_stay_within_the_limit_of_rows() -> None:
    request = make_request("r", prompt_of(120), max_tokens=30, ignore_eos=True)
    known = {("r", 0): reference_output(fake_spec(), request)}
    engine, _ = make_engine(drafter=TreeDrafter(known, 3), max_rows=80)
    assert serve(engine, request)["r", 0].token_ids == known["r", 0]


def test_depth_counts_from_the_last_known_token() -> None:
    assert depths(CHAIN.trim(3)) == [1, 2, 3]
    assert depths(Draft((1, 2, 3, 4), "test", (-1, 0, -1, 1))) == [1, 2, 1, 3]
