"""vLLM's ``--speculative-config`` as ``SpeculationOptions``.

Names are those of vLLM's ``SpeculativeConfig``. Nothing is dropped in silence: a key sets an option, or is taken
without effect with a note that says why, or is refused with the reason, or is unknown.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass, field
from typing import Any

import msgspec

from paceline.errors import InvalidRequestError

PARAM = "speculative_config"

#: vLLM's methods that are a drafter here.
METHODS = {"ngram": "ngram", "ngram_gpu": "ngram", "suffix": "suffix", "draft_model": "model"}

#: vLLM's methods that are not.
_LATER = ("eagle", "eagle3", "medusa", "mtp", "mlp_speculator", "dflash", "dspark")
_NEVER = {
    "extract_hidden_states": "it is no way to speculate",
    "custom_class": "code named by a configuration is never run",
}


@dataclass(frozen=True, slots=True)
class _Key:
    """A key that sets ``option``. ``drafter``: the only one that it concerns."""

    option: str
    kind: type
    drafter: str | None = None
    least: float | None = None


_KINDS = {int: "a whole number", float: "a number", str: "a text"}
KEYS = {
    "num_speculative_tokens": _Key("max_draft", int, None, 1),
    "model": _Key("draft_model", str, "model"),
    "prompt_lookup_min": _Key("ngram_min", int, "ngram", 1),
    "prompt_lookup_max": _Key("ngram_max", int, "ngram", 1),
    "suffix_decoding_max_tree_depth": _Key("suffix_max_depth", int, "suffix", 1),
    "suffix_decoding_max_spec_factor": _Key("suffix_max_factor", float, "suffix", 0),
    "suffix_decoding_min_token_prob": _Key("suffix_min_probability", float, "suffix", 0),
    "suffix_decoding_max_cached_requests": _Key("suffix_max_cached_tokens", int, "suffix", 0),
}

_CONTROLLER = "how many tokens are drafted is decided anew in every step, from measured costs"
_GPU = "it concerns kernels that this engine does not have"
_DRAFT_MODEL = "the draft model runs as its files say, on the target's backend"
NO_EFFECT = {
    "disable_by_batch_size": _CONTROLLER,
    "speculative_disable_by_batch_size": _CONTROLLER,
    "num_speculative_tokens_per_batch_size": _CONTROLLER,
    "enable_adaptive_verification": _CONTROLLER,
    "enforce_eager": _GPU,
    "moe_backend": _GPU,
    "attention_backend": _GPU,
    "disable_padded_drafter_batch": _GPU,
    "disable_eagle_block_drop": _GPU,
    "use_local_argmax_reduction": _GPU,
    "index_share_for_mtp_iteration": _GPU,
    "dspark_draft_topk": _GPU,
    "quantization": _DRAFT_MODEL,
    "kv_cache_dtype": _DRAFT_MODEL,
    "draft_load_config": _DRAFT_MODEL,
    "max_model_len": "drafts go as far as the target's context",
    "disable_logprobs": "logprobs are the same with and without drafts",
    "disable_log_stats": "metrics are always counted",
}

_CHANGES_TEXT = "it would change the text that the model gives; here speculation never does"
_NO_REVISION = "give the draft model as a folder or file of the wanted revision"
_ONE_DEVICE = "the draft model runs where the target does"

#: Key: (values that change nothing, why any other is refused).
REFUSED: dict[str, tuple[tuple[Any, ...], str]] = {
    "revision": ((), _NO_REVISION),
    "code_revision": ((), "code of models is never run"),
    "draft_tensor_parallel_size": ((1,), _ONE_DEVICE),
    "tensor_parallel_size": ((1,), _ONE_DEVICE),
    "parallel_drafting": ((False,), "draft models propose one token after the other"),
    "use_heterogeneous_vocab": ((False,), "the draft model must have the target's vocabulary"),
    "speculative_token_tree": ((), "drafters choose the shape of their drafts"),
    "rejection_sample_method": (("standard", "strict"), "only 'standard' keeps the text as it is without drafts"),
    "acceptance_method": (("rejection_sampler",), _CHANGES_TEXT),
    "draft_sample_method": ((), "use --sampling exact or coupled"),
    "synthetic_acceptance_rates": ((), _CHANGES_TEXT),
    "synthetic_acceptance_length": ((), _CHANGES_TEXT),
    "posterior_threshold": ((), _CHANGES_TEXT),
    "posterior_alpha": ((), _CHANGES_TEXT),
}


@dataclass(slots=True)
class VllmConfig:
    """``options``: fields of ``SpeculationOptions`` that were set, ``sources``: the key that set each. ``notes``: what
    was given and has no effect, with the reason."""

    options: dict[str, Any] = field(default_factory=dict)
    sources: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def set(self, option: str, value: Any, key: str) -> None:
        self.options[option], self.sources[option] = value, key


def parse(text: str) -> VllmConfig:
    """Reads the JSON. Raises ``InvalidRequestError`` naming the key, its value and what is possible."""
    try:
        data = msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeEncodeError, RecursionError) as error:
        raise _error(f"not valid JSON: {error}") from None
    if not isinstance(data, dict):
        raise _error(f"a JSON object is needed, got {text.strip()[:80]}")
    given = {key: value for key, value in data.items() if value is not None}
    _check_names(data.keys())
    config = VllmConfig()
    drafter = _drafter(given, config)
    for key, value in given.items():
        if key in KEYS:
            _take(key, value, drafter, config)
        elif key in NO_EFFECT:
            config.notes.append(f"{key} has no effect: {NO_EFFECT[key]}")
        elif key in REFUSED and not _among(value, REFUSED[key][0]):
            raise _error(f"{key} {value!r} is not supported: {REFUSED[key][1]}")
    _complete_ngram(config)
    return config


def _error(problem: str) -> InvalidRequestError:
    return InvalidRequestError(f"{PARAM}: {problem}", param=PARAM)


def _among(value: Any, values: tuple[Any, ...]) -> bool:
    return any(value == other and type(value) is type(other) for other in values)


def _check_names(names: Any) -> None:
    known = ["method", *KEYS, *NO_EFFECT, *REFUSED]
    for name in names:
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
            hint = f"; did you mean {close[0]!r}?" if close else f"; keys with an effect: method, {', '.join(KEYS)}"
            raise _error(f"unknown key {name!r}{hint}")


def _drafter(given: dict[str, Any], config: VllmConfig) -> str:
    """The drafter that the method names. As in vLLM, a model without a method is a draft model, or is named ngram."""
    method = given.get("method")
    if method is None:
        if "model" not in given:
            raise _error(f"method is missing; there are {', '.join(METHODS)}")
        method = "ngram" if given["model"] in ("ngram", "[ngram]") else "draft_model"
    if method in _LATER or (isinstance(method, str) and method.endswith("_mtp")):
        raise _error(f"method {method!r} is not supported yet; there are {', '.join(METHODS)}")
    if isinstance(method, str) and method in _NEVER:
        raise _error(f"method {method!r} is not supported: {_NEVER[method]}; there are {', '.join(METHODS)}")
    if not isinstance(method, str) or method not in METHODS:
        raise _error(f"method must be one of {', '.join(METHODS)}, got {method!r}")
    if method == "ngram_gpu":
        config.notes.append("method 'ngram_gpu' is the same as 'ngram' here")
    config.set("speculate", (METHODS[method],), "method" if "method" in given else "model")
    return METHODS[method]


def _take(key: str, value: Any, drafter: str, config: VllmConfig) -> None:
    """Checks one key that sets an option, and sets it."""
    rule = KEYS[key]
    if rule.kind is float and type(value) is int:
        value = float(value)
    if not _among(type(value), (rule.kind,)):
        raise _error(f"{key} must be {_KINDS[rule.kind]}, got {value!r}")
    if rule.least is not None and value < rule.least:
        raise _error(f"{key} must be at least {rule.least}, got {value!r}")
    if rule.drafter not in (None, drafter):
        config.notes.append(f"{key} has no effect: it concerns the drafter {rule.drafter!r}, not {drafter!r}")
    elif key == "suffix_decoding_max_cached_requests" and value > 0:
        config.notes.append(f"{key} has no effect: the cache is bounded in tokens here, not in requests")
    else:
        config.set(rule.option, value, key)


def _complete_ngram(config: VllmConfig) -> None:
    """As in vLLM, one length alone is the only one."""
    lengths = ("ngram_min", "ngram_max")
    for one, other in (lengths, lengths[::-1]):
        if one in config.options and other not in config.options:
            config.set(other, config.options[one], config.sources[one])
