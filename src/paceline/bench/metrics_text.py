"""The text of a server's ``/metrics``, sample by sample.

For readers that look every second beside what they measure, or at servers whose metrics are not all well-formed:
prometheus-client's parser reads a whole page, or refuses it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

_SAMPLE = re.compile(r"([A-Za-z_:][\w:]*)(?:\{(.*)\})?\s+(\S+)")


class Sample(NamedTuple):
    """``labels``: what stands between the braces; ``value``: as it stands there."""

    name: str
    labels: str
    value: str


def samples(text: str) -> Iterator[Sample]:
    """Those of all lines that look like one."""
    for line in text.splitlines():
        found = _SAMPLE.match(line)
        if found is not None:
            yield Sample(found[1], found[2] or "", found[3])
