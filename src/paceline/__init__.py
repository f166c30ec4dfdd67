"""Paceline: an LLM inference engine and server in which speculative decoding is the way decoding works.

``from paceline import LLM, SamplingParams`` works; names are imported when first used, so that ``import paceline``
costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from paceline.engine.output import RequestOutput, SequenceOutput
    from paceline.engine.speculation_report import SpeculationReport
    from paceline.errors import AdapterError, InvalidRequestError, ModelLoadError, PacelineError
    from paceline.llm import LLM
    from paceline.sampling.params import SamplingParams
    from paceline.sampling.speculative import Speculative
    from paceline.speculation.options import SpeculationOptions

__all__ = [
    "LLM",
    "AdapterError",
    "InvalidRequestError",
    "ModelLoadError",
    "PacelineError",
    "RequestOutput",
    "SamplingParams",
    "SequenceOutput",
    "SpeculationOptions",
    "SpeculationReport",
    "Speculative",
]

_HOME = {
    "LLM": "paceline.llm",
    "RequestOutput": "paceline.engine.output",
    "SequenceOutput": "paceline.engine.output",
    "SamplingParams": "paceline.sampling.params",
    "SpeculationOptions": "paceline.speculation.options",
    "SpeculationReport": "paceline.engine.speculation_report",
    "Speculative": "paceline.sampling.speculative",
    "AdapterError": "paceline.errors",
    "InvalidRequestError": "paceline.errors",
    "ModelLoadError": "paceline.errors",
    "PacelineError": "paceline.errors",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(_HOME[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
