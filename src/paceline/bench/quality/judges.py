"""From the text of an answer to what was right in it."""

from __future__ import annotations

import json
import re
from collections import Counter
from decimal import Decimal, InvalidOperation
from typing import Any

from paceline.bench.quality.tasks import Counts

_MARKED = re.compile(r"####\s*\$?(-?[\d.,]*\d)")  # gsm8k writes its result behind four hash signs
_NUMBER = re.compile(r"-?\$?\d[\d,]*(?:\.\d+)?")


def final_number(text: str) -> Decimal | None:
    """The number behind the first ``####``, or else the last number of the text; None where there is none."""
    marked = _MARKED.search(text)
    found = [marked.group(1)] if marked else _NUMBER.findall(text)[-1:]
    for number in found:
        try:
            return Decimal(number.replace(",", "").replace("$", ""))
        except InvalidOperation:
            return None
    return None


def judge_number(answer: str, gold: str) -> Counts:
    """Right if the final numbers are equal as numbers (18 and 18.0 are)."""
    found, wanted = final_number(answer), final_number(gold)
    assert wanted is not None, f"the right answer has no number: {gold!r}"
    return Counts(int(found == wanted), 1, 1, readable=found is not None)


def judge_text(answer: str, gold: str) -> Counts:
    """Right if the texts are equal but for spaces around them."""
    return Counts(int(answer.strip() == gold.strip()), 1, 1, readable=bool(answer.strip()))


def entities_in(text: str) -> Counter[tuple[str, str]] | None:
    """(text, type) of the first JSON list in a text, each as often as it stands there; None where there is no list.
    Entries of another form count under a type that no right answer has."""
    start = text.find("[")
    if start < 0:
        return None
    try:
        listed, _ = json.JSONDecoder().raw_decode(text[start:])
    except ValueError:
        return None
    return Counter(_entity(entry) for entry in listed)


def _entity(entry: Any) -> tuple[str, str]:
    if isinstance(entry, dict) and "text" in entry and "type" in entry:
        return str(entry["text"]), str(entry["type"])
    return str(entry), ""


def judge_entities(answer: str, gold: str) -> Counts:
    """Entities that have the right text and type. An answer without a list found nothing."""
    wanted = entities_in(gold)
    assert wanted is not None, f"the right answer is no list: {gold!r}"
    found = entities_in(answer)
    if found is None:
        return Counts(0, 0, wanted.total(), readable=False)
    return Counts((found & wanted).total(), found.total(), wanted.total())
