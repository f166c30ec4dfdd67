"""The flags about LoRA adapters, the same ones in every command that starts an engine."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Annotated

import typer

_PANEL = "Adapters"

Adapter = Annotated[
    list[str] | None,
    typer.Option(metavar="NAME=FOLDER", help="LoRA adapter, by name; repeat it for more.", rich_help_panel=_PANEL),
]
AdapterDir = Annotated[
    Path | None,
    typer.Option(
        metavar="FOLDER", help="Every subfolder with an adapter is one, by its own name.", rich_help_panel=_PANEL
    ),
]
MaxAdapters = Annotated[
    int | None,
    typer.Option(min=1, help="Most different adapters in one step. Default: the backend's.", rich_help_panel=_PANEL),
]
AdapterCacheMb = Annotated[
    int | None,
    typer.Option(
        min=0, help="Memory for adapters that are in no slot, in MiB. Default: a tenth of the free memory.",
        rich_help_panel=_PANEL,
    ),
]  # fmt: skip


def adapter_folders(
    adapter: Sequence[str] | None, adapter_dir: Path | None, model_names: Collection[str] = ()
) -> dict[str, str]:
    """What the flags name: folders by name. ``model_names`` are those of the base model, which are taken.

    Raises ``AdapterError`` for a flag that is not of its form, a name that is taken, and a folder that is not there.
    """
    from paceline.adapters.adapter import adapters_below, check_name
    from paceline.errors import AdapterError

    folders: dict[str, str] = {}

    def add(name: str, path: str, flag: str) -> None:
        check_name(name)
        if name in model_names:
            raise AdapterError(f"{flag}: {name!r} is a name of the base model; choose another for the adapter")
        if name in folders:
            raise AdapterError(f"{flag}: the name {name!r} is taken by the adapter in {folders[name]}")
        folders[name] = path

    for given in adapter or ():
        name, sign, path = given.partition("=")
        if not sign or not path.strip():
            raise AdapterError(f"--adapter must be NAME=FOLDER, got {given!r}")
        add(name.strip(), path.strip(), "--adapter")
    if adapter_dir is not None:
        for name, folder in adapters_below(adapter_dir.expanduser()).items():
            add(name, str(folder), "--adapter-dir")
    return folders


def cache_bytes(adapter_cache_mb: int | None) -> int | None:
    """The option in bytes."""
    return None if adapter_cache_mb is None else adapter_cache_mb * 1024 * 1024
