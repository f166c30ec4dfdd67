"""Settings as users write them, and which of them promise the same answers."""

from __future__ import annotations

import pytest

from paceline.bench.quality.settings import parse_setting, parse_settings
from paceline.engine.options import EngineOptions
from paceline.errors import InvalidRequestError
from paceline.speculation.options import SpeculationOptions


def test_a_setting_becomes_engine_options():
    setting = parse_setting("speculation=suffix+ngram, prefix-cache=off,threads=1,kv-cache-dtype=f32,model=/m.gguf")
    assert setting.engine_options() == {
        "speculation": SpeculationOptions(speculate=("suffix", "ngram")),
        "prefix_cache": False,
        "threads": 1,
        "kv_cache_dtype": "f32",
        "model": "/m.gguf",
    }
    EngineOptions(**setting.engine_options())
    assert parse_setting("base").engine_options() == {}


def test_only_what_changes_numbers_takes_the_promise_away():
    def numerics(text):
        return parse_setting(text).numerics

    assert numerics("base") == numerics("speculation=off,prefix-cache=off,threads=1,max-running=2,max-rows=64") == ()
    assert numerics("backend=torch") == numerics("speculation=off,backend=torch") != ()
    assert len({numerics("base"), numerics("backend=torch"), numerics("kv-cache-dtype=f32"), numerics("model=x")}) == 4


def test_a_running_server_can_be_asked_for_no_drafts_only():
    assert parse_setting("base").request_fields() == {}
    assert parse_setting("speculation=auto").request_fields() == {}
    assert parse_setting("speculation=off").request_fields() == {"speculative": {"enabled": False}}
    assert parse_setting("speculation=suffix").request_fields() == {"speculative": {"drafters": ["suffix"]}}
    with pytest.raises(InvalidRequestError, match="prefix-cache is chosen when a server starts"):
        parse_setting("prefix-cache=off").request_fields()


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("fast", "not KEY=VALUE"),
        ("speed=2", "one of the keys speculation, prefix-cache"),
        ("threads=0", "threads must be a positive number, got '0'"),
        ("prefix-cache=no", "prefix-cache must be on or off, got 'no'"),
        ("kv-cache-dtype=int4", "must be one of f32, f16, bf16, got 'int4'"),
        ("speculation=warp", "names of drafters"),
        ("threads=1,threads=2", "threads is set twice"),
        ("base,threads=1", "'base' is not KEY=VALUE"),
    ],
)
def test_a_wrong_setting_is_told_with_what_is_allowed(text, told):
    with pytest.raises(InvalidRequestError, match=told):
        parse_setting(text)


def test_a_setting_named_twice_is_measured_once():
    assert [setting.name for setting in parse_settings(["base", "threads=1", "base"])] == ["base", "threads=1"]
