"""The target writes the texts that its speculator learns from: the most important step of training one."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from paceline.errors import InvalidRequestError
from paceline.llm import LLM
from paceline.sampling.params import SamplingParams

BATCH = 256  # prompts handed to the engine at a time; what came of them is kept before the next ones


@dataclass(frozen=True, slots=True)
class Text:
    """A prompt as the model reads it and what the model wrote behind it, in token ids. ``output_ids`` ends with the
    end-of-sequence token where the model ended by itself."""

    prompt_ids: list[int]
    output_ids: list[int]

    @property
    def token_ids(self) -> list[int]:
        return self.prompt_ids + self.output_ids


def regenerate(
    llm: LLM,
    prompts: Sequence[Sequence[int]],
    params: SamplingParams | Sequence[SamplingParams],
    *,
    adapter: str | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Iterator[Text]:
    """Has ``llm`` answer prompts (token ids, chat template applied; see ``LLM.chat_prompt_ids``) with ``params``,
    one for all or one for each: greedy or sampled, as the speculator's traffic will be. ``adapter``: the name of the
    one that answers, None: the base model. Texts come in the order of the prompts; those without any output are left
    out. ``progress``: called with (prompts answered, all prompts).
    """
    for start in range(0, len(prompts), BATCH):
        batch = [list(prompt) for prompt in prompts[start : start + BATCH]]
        own = params if isinstance(params, SamplingParams) else params[start : start + BATCH]
        for prompt, answer in zip(batch, llm.generate(batch, own, adapter=adapter), strict=True):
            for output in answer.outputs:
                if output.token_ids:
                    yield Text(prompt, list(output.token_ids))
        if progress is not None:
            progress(min(start + BATCH, len(prompts)), len(prompts))


def write_texts(path: Path, texts: Sequence[Text] | Iterator[Text]) -> int:
    """One JSON object a line; gives how many. The file appears when it is complete."""
    partial = path.with_name(path.name + ".partial")
    count = 0
    with partial.open("w", encoding="utf-8") as file:
        for text in texts:
            file.write(json.dumps({"prompt": text.prompt_ids, "output": text.output_ids}) + "\n")
            count += 1
    partial.replace(path)
    return count


def read_texts(path: Path) -> list[Text]:
    """What ``write_texts`` wrote. Raises ``InvalidRequestError`` naming the line that is something else."""
    texts = []
    with path.open(encoding="utf-8", newline="\n") as file:
        for number, line in enumerate(file, 1):
            try:
                row = json.loads(line)
                texts.append(Text(list(row["prompt"]), list(row["output"])))
            except (ValueError, KeyError, TypeError) as error:
                raise InvalidRequestError(
                    f"{path}, line {number}: expected an object with the token ids 'prompt' and 'output' ({error})"
                ) from error
    return texts
