"""Bytes and operations of products, attention and whole steps."""

from __future__ import annotations

import pytest

from paceline.bench.roofline.model_work import HEAD, Attention, ModelWork, Weight
from paceline.bench.roofline.work import Work


def attention(*windows: int) -> Attention:
    """Two query heads of 4 numbers on one key head, in 2 bytes a number."""
    return Attention(heads=2, kv_heads=1, head_dim=4, windows=windows, item=2, arithmetic="f32")


def test_a_product_reads_its_weight_once_and_multiplies_every_row() -> None:
    weight = Weight("down", outputs=10, inputs=20, nbytes=150, arithmetic="int8", count=3)
    assert weight.work(1) == Work(450, {"int8": 2 * 200 * 3})
    assert weight.work(7) == Work(450, {"int8": 7 * 2 * 200 * 3})
    assert weight.parameters == weight.active_parameters == 600
    assert weight.work(0) == Work(0, {"int8": 0})


def test_logits_are_written_to_memory() -> None:
    head = Weight(HEAD, outputs=1000, inputs=10, nbytes=5000, arithmetic="int8", selected=1)
    assert head.work(7, logit_rows=3) == head.work(3)
    assert head.work(3).nbytes == 5000 + 3 * 1000 * 4


def test_what_stands_behind_the_last_attention_sees_rows_with_logits_only() -> None:
    down = Weight("down", outputs=10, inputs=20, nbytes=150, arithmetic="int8", count=3, selected=1)
    assert down.work(7, logit_rows=2) == Work(450, {"int8": 2 * 200 * (2 * 7 + 2)})
    assert down.work(7, logit_rows=0) == Work(300, {"int8": 2 * 200 * 2 * 7})
    assert down.work(7) == Work(450, {"int8": 2 * 200 * 3 * 7})


def test_rows_read_more_experts_but_multiply_by_few() -> None:
    experts = Weight("experts", outputs=10, inputs=10, nbytes=100, arithmetic="bf16", experts=8, chosen=2)
    assert experts.experts_read(1) == pytest.approx(2)
    assert experts.experts_read(2) == pytest.approx(8 * (1 - (6 / 8) ** 2))
    assert experts.experts_read(1000) == pytest.approx(8)
    assert experts.work(5).ops == {"bf16": 2 * 100 * 2 * 5}
    assert experts.parameters == 800
    assert experts.active_parameters == 200


@pytest.mark.parametrize("window", [0, 1, 3, 8, 100])
@pytest.mark.parametrize(("rows", "context"), [(1, 0), (1, 7), (5, 0), (4, 2), (6, 20)])
def test_attention_counts_every_key_that_a_row_sees(window: int, rows: int, context: int) -> None:
    seen, read = 0, set()
    for row in range(context, context + rows):
        keys = range(max(0, row + 1 - window) if window else 0, row + 1)
        seen += len(keys)
        read |= set(keys)
    work = attention(window).work(rows, context)
    assert work.ops == {"f32": 4 * 2 * 4 * seen}
    assert work.nbytes == len(read) * 2 * 1 * 4 * 2


def test_a_cache_keeps_the_window_of_a_windowed_layer() -> None:
    assert attention(0, 3, 3).cache_bytes(10) == (10 + 3 + 3) * 16
    assert attention(0, 3, 3).cache_bytes(2) == (2 + 2 + 2) * 16


def test_a_step_has_products_of_all_rows_and_attention_of_each_sequence() -> None:
    body = Weight("q, k, v", outputs=10, inputs=10, nbytes=100, arithmetic="int8", count=2)
    head = Weight(HEAD, outputs=50, inputs=10, nbytes=500, arithmetic="int8", selected=1)
    model = ModelWork([body, head], attention(0, 0))
    products, attend = model.step(sequences=3, rows=2, context=5)
    assert products == body.work(6) + head.work(6)
    assert attend == attention(0, 0).work(2, 5) * 3
    assert model.step(3, 2, 5, logit_rows=3)[0] == body.work(6) + head.work(3)
    assert model.num_layers == 2


def test_a_long_prompt_reads_the_weights_once_for_each_chunk_and_the_head_once() -> None:
    body = Weight("down", outputs=10, inputs=10, nbytes=100, arithmetic="int8")
    head = Weight(HEAD, outputs=50, inputs=10, nbytes=500, arithmetic="int8", selected=1)
    steps = ModelWork([body, head], attention(0)).prefill(tokens=10, chunk=4)
    assert [products.nbytes for products, _ in steps] == [100, 100, 100 + 500 + 200]
    keys = [sum(range(1, 5)), sum(range(5, 9)), sum(range(9, 11))]
    assert [attend.ops["f32"] for _, attend in steps] == [4 * 2 * 4 * count for count in keys]
