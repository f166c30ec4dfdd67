"""A model whose language is certain: every token has one successor, whatever stood before."""

from __future__ import annotations

from pathlib import Path

import torch

from tiny_models import VOCABULARY, tiny_model

FIRST, LAST = 3, 63  # the ids that occur


def successors() -> list[int]:
    """Of each token: one long cycle over all that occur."""
    order = torch.randperm(LAST - FIRST, generator=torch.Generator().manual_seed(5)) + FIRST
    following = [FIRST] * VOCABULARY
    for token, successor in zip(order.tolist(), order.roll(-1).tolist(), strict=True):
        following[token] = successor
    return following


def save_toy_model(folder: Path) -> None:
    """A tiny Llama whose layers hardly change the embedding, and whose head knows the successors."""
    model = tiny_model("llama")
    embedding = model.model.embed_tokens.weight.data
    with torch.no_grad():
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight *= 0.02
            layer.mlp.down_proj.weight *= 0.02
        model.model.norm.weight.fill_(1.0)
        model.lm_head.weight.zero_()
        for token, successor in enumerate(successors()):
            if FIRST <= token < LAST:
                model.lm_head.weight[successor] = 2.0 * embedding[token] / embedding[token].norm()
    model.save_pretrained(folder)


def prompts(count: int, length: int = 6) -> list[list[int]]:
    generator = torch.Generator().manual_seed(11)
    return torch.randint(FIRST, LAST, (count, length), generator=generator).tolist()
