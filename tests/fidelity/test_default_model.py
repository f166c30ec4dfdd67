"""Fifty greedy texts of the default model against transformers on the same dequantized weights.

The engine's own backend writes the texts. Transformers reads each of them once and tells, at every position, which
token it would have chosen after the same text; so does every backend. They must agree wherever the gap between
transformers' two best logits is above the numeric noise. *Noise* is measured here: the standard deviation, over all
positions, of how far a backend shifts that gap.

Measured on two cores of a Zen 4:

* torch, everything float32: noise 7e-6 (sums in another order), no disagreement in 1400 positions.
* cpu: noise 0.15, disagreements at 3% of the positions, in near-ties (0.55 at most; half of all gaps are above 1).
  Matrix products round the activations to 8 bits in groups of 32, as every engine does that multiplies 4-bit weights
  in integers: the torch backend with the same rounding has a noise of 0.17. A float16 cache adds 0.002.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from paceline.backends.base import CacheDtype
from paceline.backends.registry import get_backend
from paceline.errors import PacelineError
from paceline.models.checkpoint import open_checkpoint
from paceline.models.loading import load_model
from paceline.models.tokenizer import load_tokenizer
from paged_runner import PagedRunner

pytestmark = pytest.mark.model

NEW_TOKENS = 28
SIGNIFICANT = 5.0  # gaps this many times the noise count
TASKS = ["What is the capital of", "Tell me a short story about", "List three facts about", "Explain to a child:"]
SUBJECTS = ["France", "a red balloon", "the ocean", "winter mornings", "bicycles", "computers", "a lost dog", "jazz"]
SUBJECTS += ["bread", "the moon", "gravity", "old maps"]
PROMPTS = [f"{task} {subject}" for task in TASKS for subject in SUBJECTS] + ["Write a haiku.", "What is 17 + 25?"]


@dataclass(frozen=True)
class Candidate:
    """A backend, and the noise that it may have."""

    backend: str
    cache: CacheDtype
    most_noise: float
    options: dict[str, bool] = field(default_factory=dict)

    def runner(self, model: Path) -> PagedRunner:
        backend = get_backend(self.backend, **self.options)
        loaded = load_model(model, backend, context_length=256)
        return PagedRunner(loaded, backend, dtype=self.cache, num_blocks=6 * len(PROMPTS), max_rows=512)


CPU = Candidate("cpu", "f16", most_noise=0.2)
TORCH = Candidate("torch", "f32", most_noise=1e-4, options={"row_invariant": False})


@pytest.fixture(scope="module")
def prompts(default_model: Path) -> list[list[int]]:
    tokenizer = load_tokenizer(default_model)
    assert len(PROMPTS) == 50
    turn = "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n"
    return [tokenizer.encode(turn.format(prompt)) for prompt in PROMPTS]


@pytest.fixture(scope="module")
def transformers_model(default_model: Path) -> LlamaForCausalLM:
    """``LlamaForCausalLM`` in float32 on the weights of the GGUF file."""
    checkpoint = open_checkpoint(default_model)
    with torch.device("meta"):
        model = LlamaForCausalLM(LlamaConfig(**checkpoint.config))
    matrices = {name for name, parameter in model.named_parameters() if parameter.dim() == 2}
    weights = {
        name: checkpoint.get(name).dequantize().clone() if name in matrices else checkpoint.get_tensor(name)
        for name in checkpoint.names()
    }
    weights["lm_head.weight"] = weights["model.embed_tokens.weight"]
    model.load_state_dict(weights, assign=True)
    model.model.rotary_emb = type(model.model.rotary_emb)(model.config)  # its tables are not in the checkpoint
    checkpoint.close()
    return model.eval()


@pytest.fixture(scope="module")
def writer(default_model: Path) -> tuple[Candidate, PagedRunner]:
    """The backend that writes the texts: the native one where there is one."""
    try:
        return CPU, CPU.runner(default_model)
    except PacelineError:
        return TORCH, TORCH.runner(default_model)


@pytest.fixture(scope="module")
def texts(writer: tuple[Candidate, PagedRunner], prompts: list[list[int]]) -> list[list[int]]:
    """``NEW_TOKENS`` greedy tokens for each prompt, all prompts decoded together."""
    runner, logits = writer[1], []
    for chunks in in_groups(prompts):
        ends = torch.tensor([len(tokens) for _, tokens in chunks]).cumsum(0) - 1
        logits.append(runner.step(chunks, wanted=ends.tolist()))
    written = [[token] for token in torch.cat(logits).argmax(dim=-1).tolist()]
    while len(written[0]) < NEW_TOKENS:
        best = runner.step([(index, text[-1:]) for index, text in enumerate(written)]).argmax(dim=-1)
        for text, token in zip(written, best.tolist(), strict=True):
            text.append(token)
    return written


@pytest.fixture(scope="module")
def expected(transformers_model: LlamaForCausalLM, prompts: list[list[int]], texts: list[list[int]]) -> torch.Tensor:
    """Logits of transformers [texts, new tokens, vocabulary] for each new token, given the tokens before it."""
    rows = []
    for chunks in in_groups(inputs_of(prompts, texts)):
        longest = max(len(tokens) for _, tokens in chunks)
        padded = torch.tensor([tokens + [0] * (longest - len(tokens)) for _, tokens in chunks])  # never seen: causal
        with torch.no_grad():
            hidden = transformers_model.model(input_ids=padded, use_cache=False).last_hidden_state
            for row, (_, tokens) in zip(hidden, chunks, strict=True):
                rows.append(transformers_model.lm_head(row[len(tokens) - NEW_TOKENS : len(tokens)]))
    return torch.stack(rows)


def inputs_of(prompts: list[list[int]], texts: list[list[int]]) -> list[list[int]]:
    """What is read to predict every token of each text."""
    return [prompt + text[:-1] for prompt, text in zip(prompts, texts, strict=True)]


def in_groups(sequences: list[list[int]], size: int = 8) -> list[list[tuple[int, list[int]]]]:
    numbered = list(enumerate(sequences))
    return [numbered[start : start + size] for start in range(0, len(numbered), size)]


def read(runner: PagedRunner, inputs: list[list[int]]) -> torch.Tensor:
    """Our logits [texts, new tokens, vocabulary] when the texts are read in large chunks."""
    parts = []
    for chunks in in_groups(inputs):
        ends = torch.tensor([len(tokens) for _, tokens in chunks]).cumsum(0)
        wanted = [row for end in ends.tolist() for row in range(end - NEW_TOKENS, end)]
        parts.append(runner.step(chunks, wanted=wanted).unflatten(0, (len(chunks), NEW_TOKENS)))
    return torch.cat(parts)


@pytest.mark.parametrize("candidate", [TORCH, CPU], ids=lambda candidate: candidate.backend)
def test_fifty_greedy_texts_equal_transformers_above_the_noise(
    candidate: Candidate,
    default_model: Path,
    prompts: list[list[int]],
    texts: list[list[int]],
    expected: torch.Tensor,
    writer: tuple[Candidate, PagedRunner],
) -> None:
    try:
        runner = candidate.runner(default_model)
    except PacelineError as error:
        pytest.skip(str(error))
    ours = read(runner, inputs_of(prompts, texts))
    if candidate is writer[0] and candidate is CPU:
        assert ours.argmax(dim=-1).tolist() == texts, "a text read in chunks is not the text written step by step"

    best = expected.topk(2, dim=-1)
    gap = best.values[..., 0] - best.values[..., 1]
    our_gap = ours.gather(2, best.indices)
    noise = (our_gap[..., 0] - our_gap[..., 1] - gap).std().item()
    agree = ours.argmax(dim=-1) == best.indices[..., 0]
    significant = gap > SIGNIFICANT * noise
    widest = gap[~agree].max().item() if not agree.all() else 0.0
    summary = (
        f"{candidate.backend}: noise {noise:.2e}, {int((~agree).sum())} disagreements up to a gap of {widest:.3f}, "
        f"{significant.float().mean():.1%} of positions significant"
    )
    print(summary)
    assert noise < candidate.most_noise, summary
    assert agree[significant].all(), summary
    assert significant.float().mean() > 0.5, f"hardly any position can tell an error: {summary}"
