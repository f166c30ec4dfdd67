"""What a speculator is trained to minimise, and what that is worth: how many of its tokens the target accepts."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from paceline.training.batches import BlockBatch
from paceline.training.speculator import BlockLogits, Speculator

SHARPNESS = 3.0  # of the change from KL to total variation as acceptance grows


@dataclass(frozen=True, slots=True)
class BlockLoss:
    """``total`` is what is minimised. By position ``[P]``: ``overlap``, the mean of ``sum(min(p, q))``, which is the
    acceptance of drawn drafts; ``hits``, the share of likeliest tokens that are the text's next one, which is that of
    greedy drafts once those before were right; ``counts``: blocks that have this position."""

    total: Tensor
    overlap: Tensor
    hits: Tensor
    counts: Tensor
    accepted: Tensor  # mean number of leading hits of a block


def block_loss(
    model: Speculator, batch: BlockBatch, gamma: float, least_kl: float = 0.5, survival_weight: float = 0.2
) -> BlockLoss:
    """A hybrid of KL divergence and total variation to the target's distribution ``p`` at each position,

        L * KL(p, q) + (1 - L) * TV(p, q),  L = max(least_kl, exp(-SHARPNESS * mean overlap of the position)),

    weighted ``exp(-(k - 1) / gamma)`` for position ``k``, and binary cross-entropy of the survival logit with whether
    the likeliest token is the text's. The Markov term is that of the text's own tokens: a position counts only where
    all before it were right. Tokens that cannot be drafted have ``q = 0``.
    """
    before = torch.cat([batch.before.unsqueeze(-1), batch.targets[..., :-1]], dim=-1)
    out: BlockLogits = model(batch.token_ids, batch.states, batch.anchors, before)
    logits = out.tokens.float()
    # Of the whole vocabulary only the normalisation is needed, and the tokens that the target thought of.
    normaliser = logits.logsumexp(dim=-1, keepdim=True)
    known = batch.top >= 0
    log_q_top = logits.gather(-1, batch.top.clamp(min=0)) - normaliser
    p = batch.top_probabilities * known
    kl = (p * (p.clamp(min=1e-9).log() - log_q_top)).sum(dim=-1)
    overlap = torch.minimum(p, log_q_top.exp() * known).sum(dim=-1)
    valid = batch.valid.float()
    counts = valid.sum(dim=(0, 1))
    each = counts.clamp(min=1.0)
    mean_overlap = (overlap * valid).sum(dim=(0, 1)) / each
    share = torch.exp(-SHARPNESS * mean_overlap.detach()).clamp(min=least_kl)
    with torch.no_grad():
        text = logits.gather(-1, batch.targets.clamp(min=0).unsqueeze(-1)).squeeze(-1)
        hits = (text >= logits.amax(dim=-1)) & (batch.targets >= 0) & batch.valid
    positions = torch.arange(model.config.positions, device=valid.device)
    weights = torch.exp(-positions / gamma) * (counts > 0)
    per_position = ((share * kl + (1 - share) * (1 - overlap)) * valid).sum(dim=(0, 1)) / each
    survival = F.binary_cross_entropy_with_logits(out.survival.float(), hits.float(), reduction="none")
    reached = torch.cat([torch.ones_like(hits[..., :1]), hits[..., :-1].cumprod(dim=-1).bool()], dim=-1) & batch.valid
    survival = (survival * valid).sum() / valid.sum().clamp(min=1.0)
    total = (weights * per_position).sum() / weights.sum() + survival_weight * survival
    blocks = batch.valid[..., 0].sum().clamp(min=1)
    accepted = (reached & hits).sum() / blocks
    return BlockLoss(total, mean_overlap.detach(), hits.sum(dim=(0, 1)) / each, counts, accepted.detach())
