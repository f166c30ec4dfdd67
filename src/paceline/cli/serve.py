"""``paceline serve``: an OpenAI-compatible HTTP server."""

from __future__ import annotations

import errno
import sys
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from paceline.cli import adapters
from paceline.cli import speculation as flags

if TYPE_CHECKING:
    import socket

    from paceline.learning.settings import LearnOptions


class CacheDtype(Enum):
    auto = "auto"
    bf16 = "bf16"
    f16 = "f16"
    f32 = "f32"


_ENGINE = "Engine"
_HTTP = "HTTP"
_LEARN = "Learning"


def serve(
    model: Annotated[str, typer.Argument(help="Folder, .gguf file, Hub id or alias. Default: the default model.")] = "",
    host: Annotated[
        str, typer.Option(help="Address to listen on; 0.0.0.0 for all.", rich_help_panel=_HTTP)
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any free one.", rich_help_panel=_HTTP)] = 8000,
    api_key: Annotated[
        list[str] | None,
        typer.Option(
            envvar="PACELINE_API_KEY",
            help="Key that clients must send; repeat it for several (separated by spaces in the variable).",
            rich_help_panel=_HTTP,
        ),
    ] = None,
    served_model_name: Annotated[
        list[str] | None,
        typer.Option(help="Name of the model in requests and answers; repeat it for more.", rich_help_panel=_HTTP),
    ] = None,
    max_body_mb: Annotated[
        float, typer.Option(min=0.001, help="Largest request body, in MiB.", rich_help_panel=_HTTP)
    ] = 8,
    cors_origin: Annotated[
        list[str] | None,
        typer.Option(help="Web origin whose pages may call the server; repeat it; * for all.", rich_help_panel=_HTTP),
    ] = None,
    drain_timeout: Annotated[
        float, typer.Option(min=0, help="Seconds that open requests have after SIGTERM.", rich_help_panel=_HTTP)
    ] = 30,
    access_log: Annotated[bool, typer.Option(help="Log every request.", rich_help_panel=_HTTP)] = False,
    backend: Annotated[str, typer.Option(help="auto, cpu or torch.", rich_help_panel=_ENGINE)] = "auto",
    threads: Annotated[
        int | None, typer.Option(min=1, help="Compute threads. Default: all usable cores.", rich_help_panel=_ENGINE)
    ] = None,
    context_length: Annotated[
        int | None, typer.Option(min=1, help="Most tokens of a request and its answer.", rich_help_panel=_ENGINE)
    ] = None,
    kv_cache_mb: Annotated[
        int | None, typer.Option(min=1, help="Memory of the KV cache, in MiB.", rich_help_panel=_ENGINE)
    ] = None,
    kv_cache_dtype: Annotated[
        CacheDtype,
        typer.Option(
            help="How keys and values are kept. auto: as attention is fastest on this machine.", rich_help_panel=_ENGINE
        ),
    ] = CacheDtype.auto,
    max_running: Annotated[
        int | None, typer.Option(min=1, help="Most sequences computed at once.", rich_help_panel=_ENGINE)
    ] = None,
    max_queue: Annotated[
        int | None, typer.Option(min=1, help="Most waiting sequences; more get 429.", rich_help_panel=_ENGINE)
    ] = None,
    max_rows: Annotated[
        int | None, typer.Option(min=1, help="Most tokens computed in one step.", rich_help_panel=_ENGINE)
    ] = None,
    prefix_cache: Annotated[bool, typer.Option(help="Remember prompts' beginnings.", rich_help_panel=_ENGINE)] = True,
    adapter: adapters.Adapter = None,
    adapter_dir: adapters.AdapterDir = None,
    max_adapters: adapters.MaxAdapters = None,
    adapter_cache_mb: adapters.AdapterCacheMb = None,
    allow_runtime_adapters: Annotated[
        bool,
        typer.Option(
            "--allow-runtime-adapters",
            help="Clients may load adapters from folders below --adapter-dir, and unload any.",
            rich_help_panel="Adapters",
        ),
    ] = False,
    learn: Annotated[
        bool,
        typer.Option(
            "--learn",
            help="Keep texts of live traffic on this machine's disk, and train the speculator with "
            "them in the background; a better one is used.",
            rich_help_panel=_LEARN,
        ),
    ] = False,
    learn_dir: Annotated[
        Path | None,
        typer.Option(
            help="Where texts and versions are kept. Default: a folder for the model below the cache folder.",
            rich_help_panel=_LEARN,
        ),
    ] = None,
    learn_max_mb: Annotated[
        int | None,
        typer.Option(
            min=16,
            help="Most disk space for texts, versions and training, in MiB. Default: 2048.",
            rich_help_panel=_LEARN,
        ),
    ] = None,
    speculate: flags.Speculate = None,
    max_draft: flags.MaxDraft = None,
    draft_model: flags.DraftModel = None,
    speculator: flags.Speculator = None,
    sampling: flags.Sampling = None,
    speculative_config: flags.SpeculativeConfig = None,
) -> None:
    """Serve a model over HTTP, with OpenAI's API."""
    import logging

    from paceline.engine.options import EngineOptions
    from paceline.errors import InvalidRequestError, PacelineError
    from paceline.server.config import MIB, ServerConfig
    from paceline.server.launch import names_of
    from paceline.server.launch import serve as launch

    logging.basicConfig(level=logging.INFO, format="%(levelname)s: %(message)s", stream=sys.stderr)
    for name in ("uvicorn.error", "asyncio"):
        logging.getLogger(name).setLevel(logging.WARNING)
    model_names = names_of(model, tuple(served_model_name or ()))
    try:
        speculation = flags.speculation_options(
            speculate, max_draft, draft_model, sampling, speculative_config, speculator
        )
        if allow_runtime_adapters and adapter_dir is None:
            raise InvalidRequestError("--allow-runtime-adapters needs --adapter-dir: the folder to load them from")
        folders = adapters.adapter_folders(adapter, adapter_dir, model_names)
        learning = _learn_options(learn, learn_dir, learn_max_mb, model_names[0])
    except PacelineError as error:
        typer.echo(f"Error: {error}", err=True)
        raise typer.Exit(1) from None
    sock = _bind(host, port)
    config = ServerConfig(
        model_names=model_names,
        host=host,
        port=sock.getsockname()[1],
        api_keys=tuple(api_key or ()),
        max_body_bytes=int(max_body_mb * MIB),
        cors_origins=tuple(cors_origin or ()),
        drain_timeout_s=drain_timeout,
        access_log=access_log,
        adapter_dir=adapter_dir.expanduser() if adapter_dir is not None and allow_runtime_adapters else None,
        learn=learning,
    )
    options = EngineOptions(
        model=model,
        backend=backend,
        threads=threads,
        context_length=context_length,
        kv_cache_bytes=None if kv_cache_mb is None else kv_cache_mb * MIB,
        kv_cache_dtype=None if kv_cache_dtype is CacheDtype.auto else kv_cache_dtype.value,
        max_running=max_running,
        max_queue=max_queue,
        max_rows=max_rows,
        prefix_cache=prefix_cache,
        adapters=folders,
        max_adapters=max_adapters,
        adapter_cache_bytes=adapters.cache_bytes(adapter_cache_mb),
        speculation=speculation,
    )
    try:
        launch(config, options, sock)
    except PacelineError as error:
        typer.echo(f"Error: {error}", err=True)
        raise typer.Exit(1) from None
    except KeyboardInterrupt:
        raise typer.Exit(130) from None


def _learn_options(learn: bool, folder: Path | None, max_mb: int | None, name: str) -> LearnOptions | None:
    """None without ``--learn``. Raises ``InvalidRequestError`` for its options without it."""
    from paceline.errors import InvalidRequestError
    from paceline.learning.settings import LearnOptions
    from paceline.models.cache import cache_folder
    from paceline.server.config import MIB

    if not learn:
        if folder is not None or max_mb is not None:
            raise InvalidRequestError("--learn-dir and --learn-max-mb need --learn: without it nothing is kept")
        return None
    place = cache_folder() / "learning" / name.replace("/", "--") if folder is None else folder.expanduser()
    limits = {} if max_mb is None else {"max_bytes": max_mb * MIB}
    options = LearnOptions(folder=str(place.resolve()), **limits)
    options.check()
    return options


def _bind(host: str, port: int) -> socket.socket:
    """The port is taken before anything else happens, so that a busy one is told at once."""
    from paceline.server.launch import bind

    try:
        return bind(host, port)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            message = f"port {port} on {host} is already in use; choose another with --port (0: any free one)"
        elif error.errno == errno.EACCES:
            message = f"port {port} needs privileges; choose one above 1023 with --port"
        else:
            message = f"cannot listen on {host}:{port}: {error.strerror or error}"
        typer.echo(f"Error: {message}", err=True)
        raise typer.Exit(1) from None
