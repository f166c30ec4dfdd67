"""What is read from an answer, and what counts as right."""

from __future__ import annotations

from decimal import Decimal

import pytest

from paceline.bench.quality.judges import entities_in, final_number, judge_entities, judge_number, judge_text
from paceline.bench.quality.tasks import Counts, micro_f1


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("16 - 3 = <<16-3=13>>13\n#### 18", "18"),
        ("#### $70,000", "70000"),
        ("#### -5.", "-5"),
        ("#### 7\nQuestion 12: 99", "7"),
        ("so he has 4 apples, or 3.50 dollars.", "3.50"),
        ("it costs $1,234.5 in all", "1234.5"),
        ("a profit of -$20", "-20"),
    ],
)
def test_the_final_number_is_the_marked_one_or_else_the_last(text, number):
    assert final_number(text) == Decimal(number)


def test_a_text_without_a_number_has_none():
    assert final_number("I do not know.") is None


def test_numbers_are_compared_as_numbers():
    assert judge_number("The answer is 18.0", "#### 18") == Counts(1, 1, 1)
    assert judge_number("The answer is 18.5", "#### 18") == Counts(0, 1, 1)
    assert judge_number("no idea", "#### 18") == Counts(0, 1, 1, readable=False)


def test_texts_are_compared_without_spaces_around_them():
    assert judge_text(" B", " B").perfect and judge_text("B\n", " B").perfect
    assert not judge_text(" b", " B").perfect
    assert judge_text("  ", " B") == Counts(0, 1, 1, readable=False)


ROME = '{"text": "Rome", "type": "location"}'
GOLD = f'[{ROME}, {ROME}, {{"text": "UN", "type": "organization"}}]'


def test_entities_count_as_often_as_they_stand_there():
    answer = 'Here: [{"text": "Rome", "type": "location"}, {"text": "UN", "type": "person"}] and more'
    assert judge_entities(answer, GOLD) == Counts(hits=1, guesses=2, golds=3)
    assert judge_entities(GOLD, GOLD).perfect


def test_an_entry_of_another_form_is_a_wrong_guess():
    assert judge_entities('["Rome", {"text": "UN"}, 3]', GOLD) == Counts(0, 3, 3)


@pytest.mark.parametrize("answer", ["Rome and the UN", '[{"text": "Rome"', ""])
def test_an_answer_that_is_no_list_found_nothing(answer):
    assert entities_in(answer) is None
    assert judge_entities(answer, GOLD) == Counts(0, 0, 3, readable=False)


def test_no_entities_is_an_answer():
    assert judge_entities("[]", "[]") == Counts(0, 0, 0)


def test_micro_f1_pools_counts():
    # precision 3/5, recall 3/4: F1 = 2 * 3 / (5 + 4)
    assert micro_f1([Counts(1, 2, 3), Counts(2, 3, 1)]) == pytest.approx(6 / 9)
    assert micro_f1([Counts(1, 1, 1), Counts(0, 1, 1), Counts(0, 1, 1), Counts(1, 1, 1)]) == 0.5
    assert micro_f1([Counts(0, 0, 0)]) == 1.0
