"""The native module (csrc/bindings.cpp). Wrapped by paceline.backends.cpu; nothing else should import it."""

from typing import Any

PLAIN: int
QUANT: int
DENSE: int
BF16: int
MAX_TREE_ROWS: int

def variants() -> list[tuple[str, bool]]: ...
def test_variants() -> list[tuple[str, bool]]: ...

class Team:
    def __init__(self, threads: int) -> None: ...
    @property
    def size(self) -> int: ...
    def wake(self) -> None: ...

class Store:
    def matrix(self) -> Any: ...
    def add_part(
        self,
        matrix: Any,
        kind: str,
        rows: int,
        columns: int,
        group: int,
        scale_f32: bool,
        data: Any,
        scale: Any,
        minimum: Any,
    ) -> None: ...
    def vector(self, values: Any) -> Any: ...

class Cache:
    def __init__(self, type: str, groups: list[tuple[int, int, int, int]]) -> None: ...

class Program:
    def __init__(self, team: Team, cache: Cache, kernels: str, max_rows: int) -> None: ...
    def __getattr__(self, name: str) -> Any: ...

class StreamBuffer:
    def __init__(self, nbytes: int) -> None: ...
    @property
    def nbytes(self) -> int: ...
    def read(self, team: Team) -> int: ...
