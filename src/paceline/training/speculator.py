"""The speculator in torch, for training: the maths of ``SpeculatorModel.build``, for many blocks of a text at once.

One layer needs of the known tokens nothing but keys and values. So a text's rows go through the layer's first half
once, and only blocks of ``positions`` rows, each starting at an *anchor* (the last known token of an imagined step), go
through the rest.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paceline.speculation.drafters.turbo_format import SpeculatorConfig
from paceline.training.architecture import TargetTables

_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "silu": F.silu,
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
}


@dataclass(frozen=True, slots=True)
class BlockLogits:
    """Of ``[texts, anchors, positions]``: logits over the draft vocabulary without the Markov term, and of survival."""

    tokens: Tensor  # [..., vocab_size]
    survival: Tensor  # [...]


class Speculator(nn.Module):
    """``embedding``: the target's table, float ``[vocabulary, hidden]``, never trained. Parameters have the names of
    ``SpeculatorConfig.shapes``; ``tokens`` and ``state_scale`` are fixed."""

    tokens: Tensor
    state_scale: Tensor
    embedding: Tensor

    def __init__(self, config: SpeculatorConfig, tensors: Mapping[str, Tensor], embedding: Tensor) -> None:
        super().__init__()
        self.config = config
        for name in config.shapes():
            tensor = tensors[name].detach().clone()
            if name in ("tokens", "state_scale"):
                self.register_buffer(name, tensor)
            else:
                self.register_parameter(name, nn.Parameter(tensor.float()))
        self.register_buffer("embedding", embedding, persistent=False)
        self.register_buffer("inv_freq", torch.tensor(config.rope.inv_freq), persistent=False)

    def tensors(self) -> dict[str, Tensor]:
        """What ``write_speculator`` writes."""
        return {name: tensor.detach() for name, tensor in self.state_dict().items()}

    def forward(self, token_ids: Tensor, states: Tensor, anchors: Tensor, before: Tensor | None = None) -> BlockLogits:
        """``token_ids`` int64 ``[B, T]`` known tokens, ``states`` ``[B, T, state_width]``: row ``i`` holds the target's
        hidden states of the token *before* token ``i``. Nobody knows them for row 0, so nobody sees it. ``anchors``
        int64 ``[B, A]``: places of last known tokens, 1 at least. An anchor sees the ``window`` rows up to its own.
        ``before`` ``[B, A, positions]``: with it, logits have the Markov term (see ``markov``) of these tokens.
        """
        config = self.config
        known, x = self._rows(token_ids, states, anchors)
        places = torch.arange(token_ids.shape[1], device=token_ids.device)
        first = anchors.unsqueeze(-1) + torch.arange(config.positions, device=anchors.device)
        x = x + F.linear(self._attend(known, places, x, first, anchors), self.output)
        wide = self._norm(x, self.mlp_norm)
        gate = _ACTIVATIONS[config.activation](F.linear(wide, self.gate))
        x = x + F.linear(gate * F.linear(wide, self.up), self.down)
        x = self._norm(x, self.final_norm)
        survival = F.linear(x, self.survival).squeeze(-1)
        if before is None:
            return BlockLogits(F.linear(x, self.head), survival)
        # Both terms in one product: a sum of two would pass over every logit once more, there and back.
        joined = torch.cat([x, self._previous(before)], dim=-1)
        return BlockLogits(F.linear(joined, torch.cat([self.head, self.markov_next], dim=-1)), survival)

    def markov(self, before: Tensor) -> Tensor:
        """The term ``[..., vocab_size]`` that is added where the token before has index ``before`` of the draft
        vocabulary; zero for -1."""
        return F.linear(self._previous(before), self.markov_next)

    def _previous(self, before: Tensor) -> Tensor:
        return self.markov_previous[before.clamp(min=0)] * (before >= 0).unsqueeze(-1)

    def _rows(self, token_ids: Tensor, states: Tensor, anchors: Tensor) -> tuple[Tensor, Tensor]:
        """The layer's input: of known tokens ``[B, T, hidden]``, of blocks ``[B, A, positions, hidden]``.

        An RMS norm is a factor for each row, so it may come behind the product with ``from_states``. There the product
        of states ``s`` and a mask ``m`` is ``W s + W m``: mask rows need no product of their own, only the mean square
        of ``s + m``, and nothing as wide as the states has a gradient.
        """
        with torch.no_grad():
            scaled = states.float() * self.state_scale
            power = scaled.square().mean(dim=-1)
            if torch.is_autocast_enabled(scaled.device.type):
                scaled = scaled.to(torch.get_autocast_dtype(scaled.device.type))
        weight = self.from_states * self.state_norm
        token = F.linear(self._norm(F.embedding(token_ids, self.embedding), self.embedding_norm), self.from_embedding)
        product = F.linear(scaled, weight)
        eps = self.config.norm_eps
        known = token + product * (power + eps).rsqrt().unsqueeze(-1)

        def of_anchors(rows: Tensor) -> Tensor:
            return rows.gather(1, anchors.unsqueeze(-1).expand(-1, -1, rows.shape[-1])).unsqueeze(2)

        cross = F.linear(of_anchors(scaled), self.masks).squeeze(2).float() * (2 / self.config.state_width)
        square = power.gather(1, anchors).unsqueeze(-1) + cross + self.masks.square().mean(dim=-1)
        factor = (square.clamp(min=0) + eps).rsqrt().unsqueeze(-1)
        masked = of_anchors(token) + (of_anchors(product) + F.linear(self.masks, weight)) * factor
        return known, torch.cat([of_anchors(known), masked], dim=2)

    def _norm(self, x: Tensor, weight: Tensor) -> Tensor:
        return F.rms_norm(x.float(), weight.shape, weight, self.config.norm_eps)

    def _attend(self, known: Tensor, places: Tensor, x: Tensor, at: Tensor, anchors: Tensor) -> Tensor:
        """Rows ``x`` [B, A, P, hidden] at places ``at`` over ``known`` [B, T, hidden] up to their anchor, and the mask
        rows of their own block up to their own."""
        config = self.config
        heads, groups, dim = config.num_heads, config.num_kv_heads, config.head_dim
        batch, _, positions = at.shape
        sizes = [config.q_size, config.kv_size, config.kv_size]
        q, k_own, v_own = F.linear(self._norm(x, self.attention_norm), self.qkv).split(sizes, dim=-1)
        key_value = self.qkv[config.q_size :]
        k, v = F.linear(self._norm(known, self.attention_norm), key_value).split(sizes[1:], dim=-1)
        share = heads // groups
        q = self._rotate(q.unflatten(-1, (heads, dim)), at).unflatten(-2, (groups, share))
        k = self._rotate(k.unflatten(-1, (groups, dim)), places.expand(batch, -1))
        k_own = self._rotate(k_own.unflatten(-1, (groups, dim)), at)[:, :, 1:]
        v, v_own = v.unflatten(-1, (groups, dim)), v_own.unflatten(-1, (groups, dim))[:, :, 1:]
        to_known = torch.einsum("bapgsd,btgd->bapgst", q, k) * dim**-0.5
        to_own = torch.einsum("bapgsd,bamgd->bapgsm", q, k_own) * dim**-0.5
        reach = anchors[:, :, None, None]
        seen = (places > 0) & (places <= reach) & (places > at.unsqueeze(-1) - config.window)  # [B, A, P, T]
        to_known = to_known.masked_fill(~seen[:, :, :, None, None], float("-inf"))
        order = torch.arange(positions, device=at.device)
        later = order[1:] > order.unsqueeze(-1)  # [P, P - 1]
        to_own = to_own.masked_fill(later[:, None, None], float("-inf"))
        weights = torch.cat([to_known, to_own], dim=-1).softmax(dim=-1)
        seen_known, seen_own = weights.split([known.shape[1], positions - 1], dim=-1)
        out = torch.einsum("bapgst,btgd->bapgsd", seen_known, v) + torch.einsum("bapgsm,bamgd->bapgsd", seen_own, v_own)
        return out.flatten(3)

    def _rotate(self, x: Tensor, at: Tensor) -> Tensor:
        """Rotate-half pairing of ``x`` [..., heads, dim] by places ``at`` [...]."""
        angles = at.unsqueeze(-1).unsqueeze(-1).float() * self.inv_freq
        cos, sin = angles.cos(), angles.sin()
        left, right = x.chunk(2, dim=-1)
        return torch.cat([left * cos - right * sin, right * cos + left * sin], dim=-1)


RESIDUAL_SHARE = 0.2  # of the usual size, of what attention and MLP add at first


def new_tensors(
    config: SpeculatorConfig, tokens: Tensor, state_scale: Tensor, tables: TargetTables, seed: int
) -> dict[str, Tensor]:
    """Where training starts: head and last norm are the target's own (those rows of its head that are draft
    ``tokens``), all else is drawn. ``state_scale``: see ``states.state_scale``."""
    generator = torch.Generator().manual_seed(seed)
    tensors: dict[str, Tensor] = {}
    for name, shape in config.shapes().items():
        if name.endswith("norm"):
            tensors[name] = torch.ones(shape)
        elif name in ("survival", "markov_previous"):
            tensors[name] = torch.zeros(shape)
        else:
            tensors[name] = torch.randn(shape, generator=generator) * shape[-1] ** -0.5
    for name in ("output", "down"):
        tensors[name] *= RESIDUAL_SHARE
    tensors["tokens"], tensors["state_scale"] = tokens.long(), state_scale.float()
    if config.hidden_size == tables.head.shape[1]:
        tensors["head"], tensors["final_norm"] = tables.head[tokens].float(), tables.final_norm.float().clone()
    return tensors
