"""The suffix drafter: what it takes in, when, and what it proposes."""

from __future__ import annotations

import msgspec
import pytest
from token_sequences import TokenSequence

from paceline.sampling.params import SamplingParams
from paceline.sampling.speculative import Speculative
from paceline.speculation.drafters.base import Progress
from paceline.speculation.drafters.suffix import CONTEXT, TOKENS_PER_CALL, SuffixDrafter
from paceline.speculation.options import SpeculationOptions

PROMPT = list(range(1000, 1040))
ANSWER = [7, 8, 9, 10, 11, 12]


def drafter_of(**options: object) -> SuffixDrafter:
    return SuffixDrafter(msgspec.structs.replace(SpeculationOptions(), **options))


def tokens_of(drafter: SuffixDrafter, sequence: TokenSequence, length: int = 3) -> tuple[int, ...]:
    (draft,) = drafter.propose([sequence], [length])
    return () if draft is None else draft.token_ids


def tell(drafter: SuffixDrafter, sequence: TokenSequence) -> None:
    """A whole life: the output comes token by token."""
    output, sequence.output = sequence.output, []
    for token in output:
        drafter.propose([sequence], [3])
        sequence.output.append(token)
    drafter.forget(sequence)


def test_a_sequence_repeats_its_prompt() -> None:
    assert tokens_of(drafter_of(), TokenSequence(PROMPT, output=PROMPT[3:5]), 4) == tuple(PROMPT[5:9])


def test_confidence_comes_with_every_token_and_grows_along_a_copy() -> None:
    (draft,) = drafter_of().propose([TokenSequence(PROMPT, output=PROMPT[3:6])], [5])
    assert draft is not None and draft.drafter == "suffix" and draft.confidence is not None
    assert list(draft.confidence) == sorted(draft.confidence)
    assert len(draft.confidence) == len(draft.token_ids) == 5


def test_another_request_repeats_an_output_from_its_first_token_on() -> None:
    drafter = drafter_of()
    tell(drafter, TokenSequence([1, 2, *PROMPT], output=list(ANSWER), request="first"))
    assert tokens_of(drafter, TokenSequence([3, *PROMPT], request="second")) == (7, 8, 9)


def test_outputs_of_running_sequences_are_known_to_others() -> None:
    drafter = drafter_of()
    drafter.propose([TokenSequence(PROMPT, output=list(ANSWER), request="first")], [3])
    assert tokens_of(drafter, TokenSequence([5], output=[7, 8], request="second")) == (9, 10, 11)


def test_the_last_tokens_of_an_output_are_taken_in_when_it_ends() -> None:
    drafter = drafter_of()
    sequence = TokenSequence(PROMPT, output=ANSWER[:3], request="first")
    drafter.propose([sequence], [3])
    sequence.output = list(ANSWER)
    drafter.forget(sequence)
    assert tokens_of(drafter, TokenSequence([5], output=[10, 11], request="second")) == (12,)


def test_prompts_of_other_requests_are_not_repeated_but_for_their_ends() -> None:
    drafter = drafter_of()
    tell(drafter, TokenSequence(PROMPT, output=[5], request="first"))
    assert tokens_of(drafter, TokenSequence([6], output=PROMPT[:4], request="second")) == ()
    assert drafter.num_cached_tokens == CONTEXT + 1 + 1 + 4


def test_adapters_know_nothing_of_each_other() -> None:
    drafter = drafter_of()
    tell(drafter, TokenSequence(PROMPT, output=list(ANSWER), request="first", adapter="a"))
    for adapter, expected in (("b", ()), (None, ()), ("a", (9, 10, 11))):
        sequence = TokenSequence([5], output=[7, 8], request=f"second {adapter}", adapter=adapter)
        assert tokens_of(drafter, sequence) == expected


def test_a_forgotten_adapters_outputs_are_never_found_by_another() -> None:
    """Neither by one that comes under its name, nor by one that gets the next number in the index."""
    drafter = drafter_of()
    tell(drafter, TokenSequence(PROMPT, output=list(ANSWER), request="first", adapter="a@1"))
    drafter.forget_adapter("a@1")
    for adapter in ("b@2", "a@3", "a@1"):
        sequence = TokenSequence([5], output=[7, 8], request=f"by {adapter}", adapter=adapter)
        assert tokens_of(drafter, sequence) == ()
        drafter.forget(sequence)


def test_without_a_cache_only_the_own_text_counts() -> None:
    drafter = drafter_of(suffix_max_cached_tokens=0)
    tell(drafter, TokenSequence(PROMPT, output=list(ANSWER), request="first"))
    assert tokens_of(drafter, TokenSequence([5], output=[7, 8], request="second")) == ()
    assert drafter.num_cached_tokens == 0


def test_a_preempted_sequence_comes_back_as_it_was() -> None:
    drafter = drafter_of()
    sequence, other = TokenSequence(PROMPT, output=[7, 8]), TokenSequence([3], request="other")
    drafter.propose([sequence, other], [3, 3])
    drafter.propose([other], [3])
    drafter.observe([Progress(sequence, [])])  # computes its tokens once more
    sequence.output += [9, 7, 8]
    assert tokens_of(drafter, sequence, 1) == (9,)


def test_sequences_of_one_request_share_the_prompt() -> None:
    params, prompt = SamplingParams(n=8), list(range(20_000, 22_000))
    drafter, alone = drafter_of(), drafter_of()
    siblings = [TokenSequence(prompt, request="r", index=i, params=params) for i in range(8)]
    for sequence in siblings:
        drafter.propose([sequence], [3])
    alone.propose([TokenSequence(prompt, request="r")], [3])
    assert drafter.memory_bytes < 1.5 * alone.memory_bytes
    drafter.forget(siblings[0])  # it held the prompt
    siblings[5].output = prompt[100:104]
    assert tokens_of(drafter, siblings[5]) == tuple(prompt[104:107])
    siblings[6].output = [9, 5, prompt[-1], 9]
    assert tokens_of(drafter, siblings[6], 1) == (5,)


def test_a_long_prompt_is_taken_in_over_several_calls() -> None:
    sequence = TokenSequence(list(range(2 * TOKENS_PER_CALL)), output=[5, 6])
    drafter = drafter_of()
    assert [tokens_of(drafter, sequence, 1) for _ in range(3)] == [(), (), (7,)]


def test_a_prompt_is_taken_in_while_it_is_computed() -> None:
    sequence = TokenSequence(list(range(2 * TOKENS_PER_CALL)))
    drafter = drafter_of()
    drafter.observe([Progress(sequence, [])])
    drafter.observe([Progress(sequence, [])])
    sequence.output = [5, 6]
    assert tokens_of(drafter, sequence, 1) == (7,)


def test_a_sequence_that_wants_no_drafts_costs_nothing() -> None:
    drafter = drafter_of()
    params = SamplingParams(speculative=Speculative(enabled=False))
    before = drafter.memory_bytes
    drafter.observe([Progress(TokenSequence(PROMPT, params=params), [])])
    assert drafter.memory_bytes == before


def test_a_sequence_aborted_in_its_prompt_leaves_nothing() -> None:
    drafter = drafter_of()
    drafter.observe([Progress(TokenSequence(PROMPT), [])])
    drafter.forget(TokenSequence(PROMPT))
    drafter.forget(TokenSequence(PROMPT))  # and once more, which nobody minds
    assert drafter.num_cached_tokens == 0


#: Behind ``7`` stood ``8`` three times, and ``20`` and ``30`` once each.
BRANCHING = [7, 8, 9, 1, 7, 20, 21, 2, 7, 8, 9, 3, 7, 30, 31, 4, 7, 8, 9, 5]


def shape_at(threshold: float, **options: object) -> tuple[int, int]:
    """(tokens, children of the last known token) of the draft at this price of a row."""
    drafter = drafter_of(**options)
    drafter.threshold = threshold
    (draft,) = drafter.propose([TokenSequence(BRANCHING, output=[7])], [20])
    if draft is None:
        return 0, 0
    return len(draft), 1 if draft.parents is None else draft.parents.count(-1)


def test_the_cheaper_a_row_the_more_is_proposed() -> None:
    dear, cheap, free = shape_at(1.0), shape_at(0.1), shape_at(0.0)
    assert dear < cheap < free
    assert dear[1] == 1 and free[1] == 3


def test_however_dear_rows_are_what_is_likely_is_proposed() -> None:
    """Otherwise nobody would notice that it has become right."""
    assert shape_at(1.0)[0] > 0


def test_the_least_probability_of_the_options_holds_where_rows_cost_nothing() -> None:
    assert shape_at(0.0, suffix_min_probability=0.99) == (0, 0)
    assert shape_at(0.0, suffix_min_probability=0.3)[1] == 1


def test_a_draft_that_does_not_branch_is_a_chain() -> None:
    (draft,) = drafter_of().propose([TokenSequence(PROMPT, output=PROMPT[3:6])], [5])
    assert draft is not None and draft.parents is None


@pytest.mark.parametrize("prompt", [[], [5]])
def test_a_sequence_too_short_to_match_has_no_draft(prompt: list[int]) -> None:
    assert tokens_of(drafter_of(), TokenSequence(prompt)) == ()


def test_each_sequence_gets_the_draft_that_it_would_get_alone() -> None:
    outputs = [[7, 8, 9, 7], [5, 6, 5, 6, 5], PROMPT[:7], [1]]
    sequences = [TokenSequence(PROMPT, list(output), request=str(i)) for i, output in enumerate(outputs)]
    lengths = [3, 1, 2, 3]
    drafts = drafter_of(suffix_max_cached_tokens=0).propose(sequences, lengths)
    for sequence, length, draft in zip(sequences, lengths, drafts, strict=True):
        assert drafter_of(suffix_max_cached_tokens=0).propose([sequence], [length]) == [draft]
    assert [0 if draft is None else len(draft) for draft in drafts] == [3, 1, 2, 0]
