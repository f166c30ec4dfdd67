"""Engine deltas become text: stop strings, finish reasons, offsets, whatever the deltas' sizes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from paceline.engine.detokenizer import TokenBytes
from paceline.engine.messages import Request, SequenceDelta, TokenLogprobs
from paceline.engine.output import RequestText, SequenceOutput
from paceline.sampling.params import SamplingParams


def make_tokenizer() -> Tokenizer:
    """One token a byte, and a few words of several characters."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = ["END", "xENDy", "\u0120STOP", "STO", "P!"]
    tokenizer = Tokenizer(models.BPE({token: i for i, token in enumerate([*alphabet, *words])}, []))
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken("<eos>", special=True)])
    return tokenizer


TOKENIZER = make_tokenizer()
EOS = TOKENIZER.token_to_id("<eos>")
TABLE = TokenBytes(TOKENIZER, {EOS})
BYTE = {TABLE[token]: token for token in range(256)}


def ids(text: str) -> list[int]:
    return [BYTE[bytes([byte])] for byte in text.encode()]


def token(name: str) -> int:
    return TOKENIZER.token_to_id(name)


def request(**params) -> Request:
    return Request(request_id="r", prompt_ids=[1], params=SamplingParams(**params), arrival_time=0.0)


def chunks(token_ids: list[int], size: int = 1, **last) -> list[SequenceDelta]:
    deltas = [SequenceDelta(request_id="r", token_ids=token_ids[i : i + size]) for i in range(0, len(token_ids), size)]
    for name, value in last.items():
        setattr(deltas[-1], name, value)
    return deltas


def run(deltas: list[SequenceDelta], **params) -> tuple[list[SequenceOutput], SequenceOutput]:
    """What a stream shows delta by delta, until the sequence is over, and the whole."""
    text = RequestText(request(**params), TABLE)
    shown = [part for delta in deltas if (part := text.add(delta)) is not None]
    return shown, text.output().outputs[0]


def test_stream_and_whole_have_the_same_text_and_tokens() -> None:
    shown, whole = run(chunks(ids("héllo"), finish_reason="length"))
    assert "".join(part.text for part in shown) == whole.text == "héllo"
    assert [token for part in shown for token in part.token_ids] == whole.token_ids == ids("héllo")
    assert (whole.finish_reason, whole.stop_reason) == ("length", None)


def test_stop_string_ends_the_text_before_it_and_is_never_shown() -> None:
    shown, whole = run(chunks(ids("good END bad")), stop=("END",))
    assert whole.text == "good "
    assert (whole.finish_reason, whole.stop_reason) == ("stop", "END")
    assert "".join(part.text for part in shown) == "good "
    assert not any("E" in part.text for part in shown)


def test_text_that_may_begin_a_stop_string_is_shown_once_it_does_not() -> None:
    shown, whole = run(chunks(ids("a STOP-sign")), stop=("STOPPED",))
    assert [part.text for part in shown] == ["a", " ", "", "", "", "", "STOP-", "s", "i", "g", "n"]
    assert whole.finish_reason is None


def test_text_held_back_is_shown_at_the_end() -> None:
    for reason in ("length", "abort"):
        shown, whole = run(chunks(ids("the EN"), finish_reason=reason), stop=("END",))
        assert whole.text == "the EN"
        assert shown[-1].text == "EN"


def test_stop_string_inside_one_token_is_cut_out_of_it() -> None:
    _, whole = run(chunks([*ids("a"), token("xENDy"), *ids("z")]), stop=("END",))
    assert whole.text == "ax"
    assert whole.token_ids == [*ids("a"), token("xENDy")]


def test_stop_string_across_tokens() -> None:
    deltas = chunks([*ids("a "), token("STO"), token("P!"), *ids("z")])
    _, whole = run(deltas, stop=("STOP",))
    assert whole.text == "a "
    _, whole = run(deltas, stop=("STOP",), include_stop_str_in_output=True)
    assert whole.text == "a STOP"


def test_stop_string_with_characters_of_several_bytes() -> None:
    _, whole = run(chunks(ids("日本語です")), stop=("語",))
    assert whole.text == "日本"


def test_the_stop_string_completed_first_wins_whatever_their_order() -> None:
    for stop in (("lo w", "ell"), ("ell", "lo w")):
        _, whole = run(chunks(ids("hello world"), size=11), stop=stop)
        assert (whole.text, whole.stop_reason) == ("h", "ell")


def test_of_stop_strings_that_end_together_the_longest_wins() -> None:
    _, whole = run(chunks(ids("a\n\nUser: b")), stop=("User:", "\n\nUser:"))
    assert (whole.text, whole.stop_reason) == ("a", "\n\nUser:")


@given(st.text("abX", max_size=20), st.lists(st.text("abX", min_size=1, max_size=3), max_size=3), st.integers(1, 9))
def test_result_does_not_depend_on_how_many_tokens_come_in_a_delta(text, stops, size) -> None:
    if not text:
        return
    params = {"stop": tuple(stops), "min_tokens": len(text) // 3}
    shown, whole = run(chunks(ids(text), size, finish_reason="length"), **params)
    _, one_by_one = run(chunks(ids(text), 1, finish_reason="length"), **params)
    assert whole == one_by_one
    assert "".join(part.text for part in shown) == whole.text


def test_stop_string_within_the_first_min_tokens_does_not_stop() -> None:
    _, whole = run(chunks(ids("END and END.")), stop=("END",), min_tokens=3)
    assert whole.text == "END and "
    _, whole = run(chunks(ids("END.")), stop=("END",), min_tokens=2)
    assert whole.text == "", "the string is completed by the third token, behind the first two"


def test_stop_token_is_not_shown_and_named_only_when_the_client_asked_for_it() -> None:
    stop = ids("!")[0]
    for size in (1, 9):
        deltas = chunks(ids("hi!"), size, finish_reason="stop", stop_token=stop)
        _, whole = run(deltas, stop_token_ids=(stop,))
        assert (whole.text, whole.finish_reason, whole.stop_reason) == ("hi", "stop", stop)
        assert whole.token_ids == ids("hi!")
        _, whole = run(deltas, stop_token_ids=(stop,), include_stop_str_in_output=True)
        assert whole.text == "hi!"


def test_end_of_sequence_is_not_shown_even_with_special_tokens() -> None:
    deltas = chunks([*ids("hi"), EOS], finish_reason="stop", stop_token=EOS)
    _, whole = run(deltas, skip_special_tokens=False)
    assert (whole.text, whole.stop_reason) == ("hi", None)


def test_an_ignored_end_of_sequence_is_shown_when_special_tokens_are() -> None:
    deltas = chunks([*ids("a"), EOS, *ids("b")], finish_reason="length")
    assert run(deltas, skip_special_tokens=False, ignore_eos=True)[1].text == "a<eos>b"
    assert run(deltas, ignore_eos=True)[1].text == "ab"


def test_stop_string_on_the_last_allowed_token_is_a_stop() -> None:
    _, whole = run(chunks(ids("a END"), finish_reason="length"), stop=("END",))
    assert (whole.text, whole.finish_reason, whole.stop_reason) == ("a ", "stop", "END")


def test_an_incomplete_character_at_the_end_is_dropped() -> None:
    _, whole = run(chunks(ids("ab日")[:-1], finish_reason="length"))
    assert whole.text == "ab"
    assert len(whole.token_ids) == 4


def test_offsets_say_where_each_token_begins_in_the_text() -> None:
    shown, whole = run(chunks([*ids("é"), token("xENDy"), *ids("日!")], size=2, finish_reason="length"))
    assert whole.text == "éxENDy日!"
    assert whole.text_offsets == [0, 0, 1, 6, 6, 6, 7]
    assert [offset for part in shown for offset in part.text_offsets] == whole.text_offsets


def test_logprobs_stay_with_their_tokens() -> None:
    deltas = chunks(ids("abEND cd"), size=3)
    for delta in deltas:
        delta.logprobs = [TokenLogprobs(token, -0.5, 1, [], []) for token in delta.token_ids]
    shown, whole = run(deltas, stop=("END",), logprobs=0)
    assert whole.logprobs is not None
    assert [entry.token_id for entry in whole.logprobs] == whole.token_ids == ids("abEND")
    assert whole.cumulative_logprob == pytest.approx(-2.5)
    assert [len(part.logprobs or []) for part in shown] == [3, 2]


def test_sequences_of_one_request_end_on_their_own() -> None:
    text = RequestText(request(n=2, stop=("b",)), TABLE)
    first = text.add(SequenceDelta(request_id="r", index=0, token_ids=ids("abc")))
    assert first is not None and first.finish_reason == "stop"
    assert text.add(SequenceDelta(request_id="r", index=0, token_ids=ids("late"))) is None
    assert not text.finished
    text.add(SequenceDelta(request_id="r", index=1, token_ids=ids("x"), finish_reason="length"))
    assert text.finished
    assert [output.text for output in text.output().outputs] == ["a", "x"]


def test_error_reaches_the_output() -> None:
    _, whole = run([SequenceDelta(request_id="r", finish_reason="error", error="out of memory")])
    assert (whole.finish_reason, whole.error) == ("error", "out of memory")


def test_facts_of_the_first_delta_are_kept() -> None:
    text = RequestText(request(), TABLE)
    text.add(SequenceDelta(request_id="r", token_ids=ids("a"), num_cached_tokens=16, queue_time=0.25))
    text.add(SequenceDelta(request_id="r", token_ids=ids("b"), num_cached_tokens=99, queue_time=9.0))
    output = text.output()
    assert (output.num_cached_tokens, output.queue_time) == (16, 0.25)
