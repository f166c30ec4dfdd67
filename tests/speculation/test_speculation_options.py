"""What may be set about speculation, and in which words other things are refused."""

from __future__ import annotations

import msgspec
import pytest

from paceline.errors import InvalidRequestError
from paceline.speculation.options import DRAFTER_NAMES, SpeculationOptions


def test_defaults_are_valid_and_allow_every_drafter() -> None:
    options = SpeculationOptions()
    options.validate()
    assert options.drafters == DRAFTER_NAMES


@pytest.mark.parametrize(
    ("speculate", "drafters"),
    [("off", ()), ("suffix", ("suffix",)), (("ngram", "suffix"), ("ngram", "suffix"))],
)
def test_drafters_are_those_that_are_named(speculate, drafters) -> None:
    options = SpeculationOptions(speculate=speculate)
    options.validate()
    assert options.drafters == drafters


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"speculate": "sufix"},
            r"'auto', 'off' or names of drafters \(suffix, ngram, grammar, model, turbo\), got 'sufix'",
        ),
        ({"speculate": ()}, "got none"),
        ({"speculate": ("off", "suffix")}, "'off' stands alone"),
        ({"speculate": ("model",)}, "the drafter 'model' needs a draft_model"),
        ({"speculate": ("suffix",), "draft_model": "x"}, "draft_model 'x' is for the drafter 'model'"),
        ({"draft_model": " "}, "draft_model must be the name of a model, got ' '"),
        ({"max_draft": 64}, "max_draft must be between 0 and 63, got 64"),
        ({"max_draft": -1}, "max_draft must be between 0 and 63, got -1"),
        ({"sampling": "loose"}, "sampling must be one of exact, coupled, got 'loose'"),
        ({"suffix_max_depth": 0}, "suffix_max_depth must be between 1 and 1024"),
        ({"suffix_max_factor": 0.0}, "suffix_max_factor must be positive"),
        ({"suffix_min_probability": float("nan")}, "suffix_min_probability must be between 0 and 1"),
        ({"ngram_min": 3, "ngram_max": 2}, r"ngram_max must be at least ngram_min \(3\), got 2"),
    ],
)
def test_what_cannot_be_is_refused_with_value_and_limit(fields, message) -> None:
    with pytest.raises(InvalidRequestError, match=message) as caught:
        SpeculationOptions(**fields).validate()
    assert caught.value.param in fields or caught.value.param == "draft_model"


def test_a_draft_model_may_be_given_with_auto_and_with_off() -> None:
    for speculate in ("auto", "off"):
        SpeculationOptions(speculate=speculate, draft_model="x").validate()


def test_options_survive_the_process_boundary() -> None:
    for options in (SpeculationOptions(), SpeculationOptions(speculate=("suffix", "ngram"), max_draft=0, ngram_max=9)):
        assert msgspec.json.decode(msgspec.json.encode(options), type=SpeculationOptions) == options
