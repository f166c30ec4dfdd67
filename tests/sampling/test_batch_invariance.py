"""A row's token and logprobs are the same bits alone and in any batch, whatever the other rows ask for."""

from __future__ import annotations

import random

import pytest
import torch
from sampling_reference import row

from paceline.sampling.params import SamplingParams
from paceline.sampling.sampler import Sampler, SampleRow

KINDS = [
    SamplingParams(temperature=0.0),
    SamplingParams(temperature=0.0, logprobs=3),
    SamplingParams(),
    SamplingParams(temperature=1.7, logprobs=0),
    SamplingParams(temperature=0.7, top_p=0.9),
    SamplingParams(temperature=0.7, top_p=0.9, top_k=50, logprobs=5),
    SamplingParams(min_p=0.05),
    SamplingParams(typical_p=0.9),
    SamplingParams(top_k=40, repetition_penalty=1.2, frequency_penalty=0.1, logit_bias={0: 3.0}),
    SamplingParams(temperature=3.0, top_p=0.99, bad_words_ids=((0,),)),
]


def unaligned(values: torch.Tensor, offset: int) -> torch.Tensor:
    """The same rows in memory that starts ``offset`` floats later."""
    storage = torch.empty(values.numel() + offset)
    storage[offset:] = values.flatten()
    return storage[offset:].view(values.shape)


@pytest.mark.parametrize("size", [1, 2, 63, 65, 1000, 4099, 49_152])
def test_a_row_alone_equals_the_row_in_batches_of_many_shapes(size: int) -> None:
    rng = random.Random(size)
    count = 20 if size > 5000 else 40
    logits = torch.randn(count, size, generator=torch.Generator().manual_seed(size)) * 4
    rows = [
        row(KINDS[i % len(KINDS)], size, prompt=range(min(size, 9)), output=[0] * (i % 2), seed=i) for i in range(count)
    ]
    alone = []
    for i in range(count):
        output = Sampler(size).sample(logits[i : i + 1].clone(), rows[i : i + 1])
        alone.append((output.token_ids, output.errors, output.logprobs and output.logprobs[0]))
    sampler = Sampler(size)
    for _ in range(8 if size > 5000 else 25):
        chosen = [rng.randrange(count) for _ in range(rng.choice([1, 2, 3, 7, 16, 33, 40]))]
        batch = unaligned(logits[chosen], rng.randrange(17))
        output = sampler.sample(batch, [rows[i] for i in chosen])
        for place, i in enumerate(chosen):
            token, errors, logprobs = alone[i]
            assert output.token_ids[place] == token[0]
            assert (place in output.errors) == bool(errors)
            if logprobs is not None:
                assert output.logprobs is not None
                assert output.logprobs[place] == logprobs


def test_torch_threads_do_not_matter() -> None:
    logits = torch.randn(8, 30_000, generator=torch.Generator().manual_seed(0))
    rows: list[SampleRow] = [row(KINDS[i], 30_000, seed=i) for i in range(8)]
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        single = Sampler(30_000).sample(logits, rows)
        torch.set_num_threads(2)
        assert Sampler(30_000).sample(logits, rows) == single
    finally:
        torch.set_num_threads(threads)
