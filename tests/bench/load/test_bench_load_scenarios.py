"""Texts of scenarios: where they come from, how long they are, and that none is asked twice."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from paceline.bench.load.lengths import TokenEstimate, characters, fit
from paceline.bench.load.loads import Load
from paceline.bench.load.scenarios import NAMED_SCENARIOS, SCENARIOS, Pool, Texts, own_rows, texts_of, user
from paceline.bench.load.settings import Settings
from paceline.bench.load.workloads import ScenarioWorkload
from paceline.bench.prompts import DataError

SHARED = Path(__file__).parents[4] / "shared" / "data"
PERSON = {
    "name": "Ada", "age": 30, "gender": "Woman", "job_title": "Engineer", "job_industry": "Tech",
    "dating_location": "Lisbon", "hometown_location": "Porto", "interests": ["Chess", "Tea"], "values": ["Kindness"],
    "languages_spoken": ["English"], "religious_beliefs": "None", "politics": "Liberal",
    "mbti_personality_type": "INTJ",
    "dating_intentions": "Long term",
    "partner_preferences": {
        "gender": "Man", "minimum_age": 28, "maximum_age": 35, "minimum_height": "5'6\"", "maximum_height": "6'2\"",
        "politics": ["Liberal"], "interests": ["Tea"], "values": ["Kindness"], "smoking": "No", "drinking": "No",
    },
}  # fmt: skip
SENTENCE = "\n".join(f"{word} X X {tag}" for word, tag in [("Ada", "B-PER"), *[(f"word{i}", "O") for i in range(9)]])


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A small folder in the layout of the data sets."""
    (tmp_path / "preference_matching").mkdir()
    people = [{**PERSON, "name": name} for name in ("Ada", "Bo", "Cy")]
    (tmp_path / "preference_matching" / "profiles.jsonl").write_text("\n".join(map(json.dumps, people)))
    (tmp_path / "conllpp").mkdir()
    sentences = [SENTENCE.replace("word1", f"train{number}") for number in range(8)]
    with gzip.open(tmp_path / "conllpp" / "conllpp_train.txt.gz", "wt") as file:
        file.write("\n\n".join(sentences))
    (tmp_path / "conllpp" / "conllpp_dev.txt").write_text("\n\n".join([SENTENCE, SENTENCE.replace("word1", "dev1")]))
    (tmp_path / "alpaca_eval").mkdir()
    questions = [{"dataset": "d", "instruction": f"What is number {number}?"} for number in range(5)]
    (tmp_path / "alpaca_eval" / "instructions.jsonl").write_text("\n".join(map(json.dumps, questions)))
    return tmp_path


def test_an_estimate_is_the_line_through_counted_texts() -> None:
    texts = [user("x" * size) for size in (100, 200, 400)]
    estimate = fit(texts, [30, 50, 90])
    assert (estimate.base, estimate.per_character, estimate.counted) == (pytest.approx(10), pytest.approx(0.2), 3)
    assert estimate.tokens(user("x" * 300)) == pytest.approx(70)
    assert estimate.characters_for(70) == 300
    assert estimate.characters_for(5) == 1  # shorter than the template: at least one character


def test_without_a_count_four_characters_are_a_token() -> None:
    assert fit([], []).tokens(user("x" * 40)) == 10
    assert "does not count" in str(fit([], []))


def test_texts_of_one_length_or_a_senseless_line_give_a_mean() -> None:
    assert fit([user("x" * 100)] * 3, [20, 30, 40]).per_character == pytest.approx(0.3)
    backwards = fit([user("x" * 100), user("x" * 200)], [50, 40])
    assert (backwards.base, backwards.per_character) == (0.0, pytest.approx(0.3))


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
def test_generated_prompts_have_the_named_length_and_differ(scenario) -> None:
    texts = texts_of(scenario, None, seed=3)
    assert "generated English" in texts.origin
    assert len({characters(sample) for sample in texts.samples()}) > 10  # lengths to fit a line through
    estimate = TokenEstimate(20, 0.22)
    prompts = texts.fitting(estimate, scenario.prompt_tokens)
    for prompt in prompts[:200]:
        assert estimate.tokens(prompt) == pytest.approx(scenario.prompt_tokens, abs=8)
        assert scenario.task in prompt[0]["content"]
    assert len({prompt[0]["content"] for prompt in prompts[:200]}) >= 190
    assert texts_of(scenario, None, seed=4).fitting(estimate, scenario.prompt_tokens)[0] != prompts[0]


def test_scenarios_read_the_layouts_of_the_data_sets(data: Path) -> None:
    preference, ner, qa = (texts_of(NAMED_SCENARIOS[name], data, 0) for name in ("preference", "ner", "qa"))
    assert len(preference.prompts) == 6  # every person with every other one
    shown = [prompt[0]["content"] for prompt in preference.prompts]
    assert all("First person: " in text and "score from 1 to 10" in text for text in shown)
    assert any("First person: Bo, 30, Woman" in text and "Second person: Cy" in text for text in shown)
    assert {tuple(message["role"] for message in prompt) for prompt in ner.prompts} == {("user", "assistant", "user")}
    assert len(ner.prompts) == 10
    assert json.loads(ner.prompts[0][1]["content"]) == [{"text": "Ada", "type": "person"}]
    assert sorted(prompt[0]["content"] for prompt in qa.prompts)[0] == "What is number 0?"
    assert all(str(data) in texts.origin for texts in (preference, ner, qa))


def test_a_folder_without_the_set_says_so_and_has_generated_texts(tmp_path: Path) -> None:
    texts = texts_of(NAMED_SCENARIOS["ner"], tmp_path, 0)
    assert "generated English" in texts.origin and "conllpp_train.txt.gz is missing" in texts.origin
    assert texts.fitting(TokenEstimate(), 120)


def test_texts_far_from_the_length_are_not_asked() -> None:
    texts = Texts("here", [user("x" * size) for size in (100, 390, 400, 410, 900)])
    assert [characters(p) for p in texts.fitting(TokenEstimate(), 100)] == [390, 400, 410]
    assert len(texts.fitting(TokenEstimate(), None)) == 5
    with pytest.raises(DataError, match="no text of here is near 1000 tokens"):
        texts.fitting(TokenEstimate(), 1000)


def test_texts_that_do_not_fit_the_context_are_left_out() -> None:
    texts = Texts("here", [user("x" * size) for size in (40, 80, 400)])
    assert len(texts.pool(TokenEstimate(), None, room=30).prompts) == 2
    assert texts.left_out == 1
    with pytest.raises(DataError, match="leaves 5 tokens beside an answer"):
        Texts("here", [user("x" * 400)]).pool(TokenEstimate(), None, room=5)


def test_a_pool_repeats_only_when_it_is_empty_and_counts_it() -> None:
    pool = Pool([user(str(number)) for number in range(5)])
    taken = [*pool.take(3), *pool.take(2)]
    assert [prompt[0]["content"] for prompt in taken] == list("01234")
    assert pool.repeated == 0
    assert [prompt[0]["content"] for prompt in pool.take(7)] == list("0123401")
    assert pool.repeated == 7


def test_points_of_all_variants_take_different_prompts_and_adapters_take_turns() -> None:
    texts = Texts("here", [user(f"prompt {number}") for number in range(40)])
    settings = Settings(duration=None, requests=6)
    rate, closed = Load("rate", 5), Load("concurrency", 2)
    base = ScenarioWorkload("n", "t", texts, None, 7, [""], [rate, closed], settings)
    mixed = ScenarioWorkload("n + a", "t", texts, None, 7, ["", "a"], [rate], settings)
    for workload in (base, mixed):
        workload.fit(TokenEstimate(), None)
    points = [base.shots(rate, 0), base.shots(closed, 0), mixed.shots(rate, 0), base.shots(rate, 1)]
    prompts = [shot.messages[0]["content"] for shots in points for shot in shots]
    assert len(prompts) == len(set(prompts)) == 24
    assert [shot.adapter for shot in points[2]] == ["", "a", "", "a", "", "a"]
    assert [shot.at for shot in points[1]] == [0.0] * 6
    assert [shot.at for shot in points[0]] != [shot.at for shot in points[3]]  # each repeat has its own arrivals
    assert all(shot.max_tokens == 7 and not shot.ignore_eos for shots in points for shot in shots)


def test_own_rows_are_asked_up_to_the_last_answer(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    talk = [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}, {"role": "assistant", "content": "a"}]
    path.write_text("\n".join(map(json.dumps, [{"prompt": "p"}, {"messages": talk}, {"messages": talk[:2]}])))
    assert own_rows(path).prompts == [user("p"), talk[:2], talk[:2]]


ONLY_AN_ANSWER = '{"messages": [{"role": "assistant", "content": "x"}]}'


@pytest.mark.parametrize("row", ['{"text": "x"}', '{"messages": []}', ONLY_AN_ANSWER, "[1]"])
def test_rows_of_another_form_are_refused_with_their_number(tmp_path: Path, row: str) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"prompt": "p"}\n' + row)
    with pytest.raises(DataError, match=r"rows\.jsonl, row 2"):
        own_rows(path)


def test_real_data_gives_prompts_of_the_named_lengths() -> None:
    if not SHARED.is_dir():
        pytest.skip(f"{SHARED} is missing")
    for scenario in SCENARIOS:
        texts = texts_of(scenario, SHARED, 0)
        assert str(SHARED) in texts.origin and len(texts.fitting(TokenEstimate(30, 0.22), scenario.prompt_tokens)) > 300
