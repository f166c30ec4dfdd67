"""``/v1/load_lora_adapter`` and ``/v1/unload_lora_adapter``, in vLLM's form.

A path that comes over HTTP makes the server read files of the client's choice, so both are closed unless the server was
started for it, and then only folders below one folder can be loaded.
"""

from __future__ import annotations

from pathlib import Path

from fastapi import APIRouter
from starlette.requests import Request as HttpRequest
from starlette.responses import PlainTextResponse, Response

from paceline.errors import AdapterError
from paceline.server.context import ServerContext
from paceline.server.intake import read_json
from paceline.server.problems import ApiError
from paceline.server.schemas import LoadAdapterBody, UnloadAdapterBody, parse


def routes(context: ServerContext) -> APIRouter:
    """Loading and unloading adapters of ``context`` while it serves."""
    router = APIRouter(prefix="/v1")

    @router.post("/load_lora_adapter")
    async def load(http: HttpRequest) -> Response:
        body = parse(LoadAdapterBody, await read_json(http, context))
        folder = allowed_folder(context.config.adapter_dir, body.lora_path)
        name = body.lora_name
        if name in context.config.model_names:
            raise _bad(f"'{name}' is the base model's name: choose another one.", "lora_name")
        if name in context.engine.adapters and not body.load_inplace:
            raise _bad(f"The adapter '{name}' is loaded already; send load_inplace to replace it.", "lora_name")
        if not folder.is_dir():
            raise ApiError(404, f"There is no folder '{body.lora_path}'.", param="lora_path", code="not_found")
        try:
            info = await context.engine.load_adapter(name, str(folder), replace=body.load_inplace)
        except AdapterError as error:
            raise _bad(str(error), "lora_path") from None
        return PlainTextResponse(f"Adapter '{name}' ({info.kind}) is loaded.")

    @router.post("/unload_lora_adapter")
    async def unload(http: HttpRequest) -> Response:
        body = parse(UnloadAdapterBody, await read_json(http, context))
        _check_enabled(context.config.adapter_dir)
        name = body.lora_name
        if name not in context.engine.adapters:
            message = f"The adapter '{name}' is not loaded."
            raise ApiError(404, message, param="lora_name", code="model_not_found")
        try:
            await context.engine.unload_adapter(name)
        except AdapterError as error:
            raise _bad(str(error), "lora_name") from None
        return PlainTextResponse(f"Adapter '{name}' is unloaded.")

    return router


def allowed_folder(allowed: Path | None, path: str) -> Path:
    """The folder that a client means by ``path``, absolute or relative to ``allowed``. Raises ``ApiError`` (403) for
    one that does not lie below ``allowed``, wherever links and dots lead; it does not say what is there."""
    root = _check_enabled(allowed)
    try:
        folder = (root / path).resolve()
    except (OSError, ValueError, RuntimeError):  # a NUL, a name that is too long, links in a circle
        folder = root
    if folder == root or not folder.is_relative_to(root):
        message = f"Adapters are loaded from folders below '{root}' only, not from '{path[:200]}'."
        raise ApiError(403, message, param="lora_path", code="path_not_allowed")
    return folder


def _check_enabled(allowed: Path | None) -> Path:
    if allowed is None:
        message = (
            "This server does not load or unload adapters at run time; start it with --adapter-dir FOLDER "
            "--allow-runtime-adapters to allow it for folders below FOLDER."
        )
        raise ApiError(403, message, code="runtime_adapters_disabled")
    return allowed.resolve()


def _bad(message: str, param: str) -> ApiError:
    return ApiError(400, message, param=param, code="invalid_value")
