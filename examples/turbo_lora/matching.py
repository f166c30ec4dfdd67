"""Preference matching: what a person looks for and a candidate in, an explanation and a score as JSON out.

The data folder holds profiles.jsonl: profiles of people who do not exist, from generative-matchmaking
(github.com/daniel-deychakiwsky/generative-matchmaking, MIT). Score and explanation follow from the profiles'
attributes by the rule below, so every statement of an answer can be checked.
"""

from __future__ import annotations

import json
import random
import re
from collections import Counter
from collections.abc import Hashable, Iterator
from pathlib import Path
from typing import Any

SYSTEM = "Explain how well the candidate fits what the person looks for and score it from 0 to 10. Answer in JSON."
HELD_OUT = 5  # every fifth profile is for measuring only, as the one who looks and as the candidate

Profile = dict[str, Any]


def listed(items: list[str]) -> str:
    """A, B and C."""
    return " and ".join([", ".join(items[:-1]), items[-1]] if len(items) > 1 else items)


def prompt(wanted: Profile, candidate: Profile) -> str:
    """Both as text. What is wanted comes first: a service asks about many candidates for the same person."""
    return (
        f"Looks for: age {wanted['minimum_age']}-{wanted['maximum_age']}, "
        f"height {wanted['minimum_height']}-{wanted['maximum_height']}, "
        f"education {', '.join(wanted['education_level'])}, work in {', '.join(wanted['job_industry'])}, "
        f"exercise {wanted['exercise']}, drinking {wanted['drinking']}, {wanted['dating_intentions']}; "
        f"interests {', '.join(wanted['interests'])}; values {', '.join(wanted['values'])}.\n"
        f"Candidate: {candidate['name']}, age {candidate['age']}, height {candidate['height']}, "
        f"education {candidate['education_level']}, work in {candidate['job_industry']}, "
        f"exercise {candidate['exercise']}, drinking {candidate['drinking']}, {candidate['dating_intentions']}; "
        f"interests {', '.join(candidate['interests'])}; values {', '.join(candidate['values'])}."
    )


def inches(height: str) -> int:
    """Of 5'6\", however it is quoted."""
    feet, *rest = map(int, re.findall(r"\d+", height))
    return 12 * feet + sum(rest)


def criteria(wanted: Profile, candidate: Profile) -> dict[str, bool]:
    """Whether the candidate is what is wanted, by criterion."""
    tall = inches(candidate["height"])
    return {
        "age": wanted["minimum_age"] <= candidate["age"] <= wanted["maximum_age"],
        "height": inches(wanted["minimum_height"]) <= tall <= inches(wanted["maximum_height"]),
        "education": candidate["education_level"] in wanted["education_level"],
        "work": bool({candidate["job_industry"], "All"} & set(wanted["job_industry"])),
        "exercise": candidate["exercise"] == wanted["exercise"],
        "drinking": candidate["drinking"] == wanted["drinking"],
        "intentions": candidate["dating_intentions"] == wanted["dating_intentions"],
    }


def answer(wanted: Profile, candidate: Profile) -> str:
    """A point for a criterion that is met, two for a shared interest or value; scaled to ten."""
    met = criteria(wanted, candidate)
    shared = {name: [item for item in wanted[name] if item in candidate[name]] for name in ("interests", "values")}
    points = sum(met.values()) + sum(2 * min(2, len(items)) for items in shared.values())
    parts = [f"shared {name}: {listed(items)}" for name, items in shared.items() if items]
    parts += [f"fits: {listed([name for name, good in met.items() if good])}"] if any(met.values()) else []
    parts += [f"misses: {listed([name for name, good in met.items() if not good])}"] if not all(met.values()) else []
    said = {"explanation": "; ".join(parts), "score": round(10 * points / (len(met) + 8))}
    return json.dumps(said, ensure_ascii=False, separators=(",", ":"))


def pairs(data: Path, held_out: bool) -> Iterator[tuple[str, str]]:
    """Everyone with all candidates of the gender looked for."""
    with (data / "profiles.jsonl").open(encoding="utf-8", newline="\n") as file:
        profiles = [json.loads(line) for line in file]
    people = [profile for i, profile in enumerate(profiles) if (i % HELD_OUT == 0) == held_out]
    for person in people:
        wanted = person["partner_preferences"]
        for candidate in people:
            if candidate is not person and candidate["gender"] == wanted["gender"]:
                yield prompt(wanted, candidate), answer(wanted, candidate)


def rows(data: Path, held_out: bool, count: int, seed: int) -> list[tuple[str, str]]:
    """``count`` pairs of the people to train with or of the people to measure with."""
    found = dict(pairs(data, held_out))
    return [(text, found[text]) for text in random.Random(seed).sample(sorted(found), min(count, len(found)))]


def facts(answer: str) -> Counter[Hashable]:
    """The score, and each (part of the explanation, thing that it names)."""
    try:
        said = json.loads(answer)
        parts = [part.partition(": ") for part in said["explanation"].split("; ")]
        found = Counter((name, item) for name, _, items in parts for item in re.split(", | and ", items))
        return found + Counter([("score", said["score"])])
    except (ValueError, TypeError, AttributeError, KeyError):
        return Counter()
