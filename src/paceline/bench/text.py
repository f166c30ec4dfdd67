"""Plain English without a data set: sentences from a small grammar, enough to make prompts that differ.

Random tokens would be wrong for a benchmark: models answer them with repetitive text, and anything that guesses text
(prompt lookup, drafters) then looks better or worse than on what people write.
"""

from __future__ import annotations

import random

PEOPLE = (
    "the engineer", "my grandmother", "a young doctor", "the harbour pilot", "our neighbour", "the head of the school",
    "an old beekeeper", "the night nurse", "a translator from Porto", "the baker", "the chess champion", "a geologist",
    "the ticket inspector", "a violin maker", "the mayor", "her younger brother", "the lighthouse keeper", "a painter",
)  # fmt: skip
ACTIONS = (
    "repaired {thing}", "wrote a long letter about {thing}", "sold {thing} to a stranger",
    "carried {thing} up the hill",
    "measured {thing} twice", "forgot {thing} on the train", "promised to look after {thing}", "drew a map of {place}",
    "argued with the council about {place}", "planned a journey to {place}", "took the early ferry to {place}",
    "studied the history of {place}", "opened a workshop near {place}", "counted the birds above {place}",
    "explained how {thing} works", "lost a bet over {thing}", "borrowed {thing} from a friend in {place}",
)  # fmt: skip
THINGS = (
    "an electric bicycle", "a box of letters", "the water pump", "a telescope", "three jars of honey", "the old piano",
    "a set of tide tables", "the village clock", "a broken radio", "two sacks of flour", "the weather station",
    "a wooden boat", "the library catalogue", "a pair of skis", "the greenhouse", "a notebook full of recipes",
)  # fmt: skip
PLACES = (
    "the northern islands", "Lisbon", "the salt marshes", "a valley without a road", "the botanical garden", "Kyoto",
    "the mountain railway", "the fish market", "the observatory", "a suburb of Toronto", "the desert edge", "Tallinn",
    "the canal district", "an abandoned quarry", "the football ground", "the university library", "Cape Town",
)  # fmt: skip
TIMES = (
    "Last spring", "On a cold Tuesday in {year}", "Before the storm", "After the harvest", "When the lights went out",
    "In the summer of {year}", "At half past {hour}", "A week later", "Against all advice", "During the exhibition",
    "For {count} years", "Early in the morning", "Without telling anybody", "Since the bridge was closed",
)  # fmt: skip
REASONS = (
    "because the price had risen by {count} percent", "although nobody had asked for it",
    "so that the children could see it",
    "while the rest of the town slept", "which surprised everyone who knew the story", "in order to save {count} euros",
    "and the newspaper printed two pages about it", "but the weather changed within {count} minutes",
    "as the contract of {year} required", "until the money ran out", "even if it meant another winter of waiting",
)  # fmt: skip
QUESTIONS = (
    "What would you have done in the same situation, and why?", "How many people were there, and who had invited them?",
    "Explain the difference in simple words.", "Summarise the story in three sentences.",
    "Which of these details matters most for what happened next?", "Write the next paragraph in the same tone.",
)  # fmt: skip


def sentence(rng: random.Random) -> str:
    """One sentence."""
    template = f"{rng.choice(TIMES)}, {rng.choice(PEOPLE)} {rng.choice(ACTIONS)} {rng.choice(REASONS)}."
    return template.format(
        thing=rng.choice(THINGS),
        place=rng.choice(PLACES),
        year=rng.randint(1890, 2030),
        hour=rng.choice(("six", "nine", "ten", "eleven")),
        count=rng.randint(2, 60),
    )


def passage(seed: int, sentences: int) -> str:
    """Several sentences in paragraphs, with a question at the end; the same for the same arguments."""
    rng = random.Random(seed)
    parts = []
    for i in range(sentences):
        parts.append(sentence(rng))
        parts.append("\n\n" if i % 5 == 4 else " ")
    return "".join(parts) + rng.choice(QUESTIONS)
