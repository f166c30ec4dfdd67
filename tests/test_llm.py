"""``paceline.LLM``: the engine in the caller's process, on a tiny random model."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from itertools import zip_longest

import msgspec
import pytest
import torch

import paceline
from paceline import LLM, InvalidRequestError, PacelineError, SamplingParams, SpeculationOptions, Speculative
from tiny_tokenizer import save_tiny_tokenizer

GREEDY = SamplingParams(temperature=0.0, max_tokens=12, ignore_eos=True)
ONE_BY_ONE = msgspec.structs.replace(GREEDY, speculative=Speculative(enabled=False))
PROMPTS = ["The first", "Another one, longer than the first", "x", "in the end"]


@pytest.fixture(scope="module")
def folder(tiny_checkpoint):
    path = tiny_checkpoint("smollm2")
    save_tiny_tokenizer(path)
    return path


@pytest.fixture(scope="module")
def llm(folder):
    with LLM(str(folder), backend="torch", threads=1, kv_blocks=64, max_rows=32, max_running=3, max_queue=2) as llm:
        yield llm


def test_outputs_come_in_the_order_of_the_prompts(llm) -> None:
    outputs = llm.generate(PROMPTS * 3, GREEDY)  # more than the engine takes at once
    assert [output.prompt for output in outputs] == PROMPTS * 3
    alone = [llm.generate(prompt, GREEDY)[0].outputs[0].text for prompt in PROMPTS]
    assert [output.outputs[0].text for output in outputs] == alone * 3
    assert all(output.finished for output in outputs)


def test_prompts_may_be_texts_or_token_ids(llm) -> None:
    ids = llm.tokenizer.encode("The first")
    texts = {llm.generate(prompt, GREEDY)[0].outputs[0].text for prompt in ("The first", ids, ["The first"], [ids])}
    assert len(texts) == 1
    assert llm.generate([], GREEDY) == []
    mixed = llm.generate(["The first", ids], GREEDY)
    assert [output.prompt for output in mixed] == ["The first", None]
    assert mixed[0].prompt_ids == mixed[1].prompt_ids == ids


def test_each_prompt_may_have_its_own_parameters(llm) -> None:
    outputs = llm.generate(["a", "b"], [GREEDY, SamplingParams(n=2, max_tokens=3, ignore_eos=True)])
    assert [[len(sequence.token_ids) for sequence in output.outputs] for output in outputs] == [[12], [3, 3]]
    with pytest.raises(InvalidRequestError, match="got 1 for 2"):
        llm.generate(["a", "b"], [GREEDY])


def test_a_seed_makes_samples_repeatable_and_no_seed_does_not(llm) -> None:
    seeded = SamplingParams(seed=7, max_tokens=20, ignore_eos=True)
    first, second = llm.generate(["a", "a"], seeded)
    assert first.outputs[0].token_ids == second.outputs[0].token_ids
    free = SamplingParams(temperature=2.0, max_tokens=40, ignore_eos=True, n=2)  # hot: no two alike by chance
    texts = {tuple(sequence.token_ids) for output in llm.generate(["a", "a"], free) for sequence in output.outputs}
    assert len(texts) == 4


def test_a_stop_string_ends_the_sequence_in_the_engine_too(llm) -> None:
    whole = llm.generate("in the", GREEDY)[0].outputs[0]
    stop = whole.text[4:6]
    before = llm.stats.generation_tokens
    output = llm.generate("in the", SamplingParams(temperature=0.0, max_tokens=90, ignore_eos=True, stop=(stop,)))[0]
    assert output.outputs[0].stop_reason == stop
    assert whole.text.startswith(output.outputs[0].text)
    assert llm.stats.generation_tokens - before <= len(whole.token_ids)
    assert llm.stats.running == 0


def test_stream_gives_the_text_piece_by_piece(llm) -> None:
    parts = list(llm.generate_stream("The first", ONE_BY_ONE))
    assert [len(part.token_ids) for part in parts] == [1] * 12
    assert "".join(part.text for part in parts) == llm.generate("The first", GREEDY)[0].outputs[0].text
    assert [part.finish_reason for part in parts] == [None] * (len(parts) - 1) + ["length"]


def test_streams_can_be_consumed_in_turn(llm) -> None:
    streams = [llm.generate_stream(prompt, GREEDY) for prompt in PROMPTS[:2]]
    texts = ["", ""]
    for pair in zip_longest(*streams):  # one may have its text in fewer pieces, by drafts
        for i, part in enumerate(pair):
            texts[i] += part.text if part else ""
    assert texts == [output.outputs[0].text for output in llm.generate(PROMPTS[:2], GREEDY)]


def test_closing_a_stream_ends_its_sequence(llm) -> None:
    stream = llm.generate_stream("x", SamplingParams(max_tokens=100, ignore_eos=True))
    next(stream)
    assert llm.stats.running == 1
    stream.close()
    assert llm.stats.running == 0


def test_chat_is_the_template_and_then_generate(llm) -> None:
    messages = [{"role": "user", "content": "Hi"}]
    prompt = "user: Hi\nassistant: "
    expected = llm.generate([llm.tokenizer.encode(prompt, add_special_tokens=False)], GREEDY)[0].outputs[0].text
    assert llm.chat(messages, GREEDY)[0].outputs[0].text == expected
    both = llm.chat([messages, messages], GREEDY)
    assert [output.outputs[0].text for output in both] == [expected, expected]
    assert "".join(part.text for part in llm.chat_stream(messages, GREEDY)) == expected


@pytest.mark.parametrize(
    ("prompt", "params", "message"),
    [
        ("", {}, "the prompt is empty"),
        ([1, 999], {}, "vocabulary of 160"),
        ([5] * 100, {"max_tokens": 100}, "context length is 128 tokens"),
        ("a", {"temperature": -1.0}, "temperature must be"),
    ],
)
def test_what_cannot_be_served_is_refused_before_anything_runs(prompt, params, message, llm) -> None:
    steps = llm.stats.steps
    with pytest.raises(InvalidRequestError, match=message):
        llm.generate(["fine", prompt], [GREEDY, SamplingParams(**params)])
    assert llm.stats.steps == steps


def test_bad_words_do_not_occur(llm) -> None:
    text = llm.generate("in the", GREEDY)[0].outputs[0].text
    word = text.strip()[0]
    params = SamplingParams(temperature=0.0, max_tokens=12, ignore_eos=True, bad_words=(word,))
    ids = set(llm.tokenizer.encode(word)) | set(llm.tokenizer.encode(" " + word))
    assert len(ids) < 3
    output = llm.generate("in the", params)[0].outputs[0]
    assert llm.tokenizer.encode(word)[0] not in output.token_ids


def test_a_report_says_what_speculation_did(llm) -> None:
    params = SamplingParams(n=2, seed=1, max_tokens=12, ignore_eos=True, speculative=Speculative(report=True))
    output = llm.generate("in the", params)[0]
    report = output.speculation
    assert report.prefill_steps <= 2
    assert sum(report.histogram) == report.steps > 0
    assert sum(length * steps for length, steps in enumerate(report.histogram)) + report.prefill_steps == 24
    for sequence in output.outputs:
        assert len(sequence.sources) == len(sequence.token_ids)
        assert sequence.speculation.accepted == len([source for source in sequence.sources if source])
    last = list(llm.generate_stream("in the", SamplingParams(max_tokens=5, speculative=Speculative(report=True))))[-1]
    assert last.speculation.steps > 0
    assert llm.generate("in the", GREEDY)[0].speculation is None


def test_a_drafter_that_is_not_there_is_refused_with_those_that_are(llm) -> None:
    with pytest.raises(InvalidRequestError, match="no drafter 'eagle3'; it has"):
        llm.generate("x", SamplingParams(speculative=Speculative(drafters=("eagle3",))))


def test_options_of_speculation_are_checked_before_the_model_is_looked_for() -> None:
    with pytest.raises(InvalidRequestError, match="speculate must be 'auto', 'off' or names of drafters"):
        LLM("/no/such/model", speculation=SpeculationOptions(speculate="magic"))


def test_choices_are_spelled_for_the_engine(llm, monkeypatch) -> None:
    seen = []
    monkeypatch.setattr(type(llm._engine), "add", lambda self, request: seen.append(request.params) or 1 / 0)
    with pytest.raises(ZeroDivisionError):
        llm.generate("x", SamplingParams(choice=("in", "the")))
    expected = tuple(tuple(llm.tokenizer.encode(text, add_special_tokens=False)) for text in ("in", "the"))
    assert seen[0].choice_ids == expected


def test_ctrl_c_between_steps_leaves_the_engine_usable(llm, request) -> None:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where tests run in the background
    request.addfinalizer(lambda: signal.signal(signal.SIGINT, before))
    expected = llm.generate("x", GREEDY)[0].outputs[0].text
    timer = threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        while True:
            llm.generate(PROMPTS, SamplingParams(max_tokens=100, ignore_eos=True))
    assert llm.stats.running == llm.stats.waiting == 0
    assert llm.generate("x", GREEDY)[0].outputs[0].text == expected
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_torch_threads_of_the_caller_stay_as_they_are(llm) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        llm.generate("x", GREEDY)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_progress_goes_to_standard_error(llm, capfd) -> None:
    llm.generate(PROMPTS, GREEDY, progress=True)
    shown = capfd.readouterr()
    assert "4/4" in shown.err and shown.out == ""


def test_choices_are_told_with_their_reasons(llm, folder) -> None:
    assert llm.info.backend == "torch" and llm.info.path == str(folder)
    assert {"model", "backend", "threads", "kv_cache"} <= {choice.name for choice in llm.info.choices}
    assert all(choice.reason for choice in llm.info.choices)


def test_a_closed_llm_says_so(folder) -> None:
    llm = LLM(str(folder), backend="torch", threads=1, kv_blocks=16)
    llm.close()
    llm.close()
    with pytest.raises(PacelineError, match="closed"):
        llm.generate("x", GREEDY)


def test_unknown_options_are_refused() -> None:
    with pytest.raises(TypeError, match="colour"):
        LLM("x", colour="red")


def test_package_root_is_light() -> None:
    code = (
        "import sys, paceline; assert 'torch' not in sys.modules and 'msgspec' not in sys.modules; print(dir(paceline))"
    )
    shown = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert "LLM" in shown
    with pytest.raises(AttributeError, match="nothing"):
        paceline.nothing  # noqa: B018


def test_the_servers_side_of_the_boundary_does_not_import_torch() -> None:
    code = "import sys, paceline.server.engine_client, paceline.engine.output; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
