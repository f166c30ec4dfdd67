"""The ASGI application: routes, the gate before them, errors in OpenAI's form behind them."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import Response

from paceline.errors import PacelineError
from paceline.server import routes_adapters, routes_generate, routes_models, routes_speculator, routes_status
from paceline.server.context import ServerContext
from paceline.server.disconnect import ClientGoneError
from paceline.server.gate import Gate
from paceline.server.problems import ApiError, as_api_error, internal_error
from paceline.server.schemas import (
    ChatCompletionRequest,
    CompletionRequest,
    DetokenizeRequest,
    LoadAdapterBody,
    TokenizeChatRequest,
    TokenizeCompletionRequest,
    UnloadAdapterBody,
    UseSpeculatorBody,
)
from paceline.server.sse import JsonAnswer
from paceline.server.version import version

_BODIES: dict[str, tuple[type[BaseModel], ...]] = {
    "/v1/completions": (CompletionRequest,),
    "/v1/chat/completions": (ChatCompletionRequest,),
    "/v1/load_lora_adapter": (LoadAdapterBody,),
    "/v1/unload_lora_adapter": (UnloadAdapterBody,),
    "/v1/speculator/use": (UseSpeculatorBody,),
    "/tokenize": (TokenizeCompletionRequest, TokenizeChatRequest),
    "/detokenize": (DetokenizeRequest,),
}


def create_app(context: ServerContext) -> FastAPI:
    """The application that serves ``context``."""
    app = FastAPI(title="Paceline", version=version(), docs_url=None, redoc_url=None, redirect_slashes=False)
    for module in (routes_generate, routes_adapters, routes_speculator, routes_models, routes_status):
        app.include_router(module.routes(context))
    for kind in (PacelineError, HTTPException, ClientGoneError, Exception):
        app.add_exception_handler(kind, _answer_error)
    app.add_middleware(Gate, context=context)
    if context.config.cors_origins:
        app.add_middleware(
            CORSMiddleware, allow_origins=context.config.cors_origins, allow_methods=["*"], allow_headers=["*"]
        )
    app.openapi = lambda: _openapi(app)  # type: ignore[method-assign]
    return app


async def _answer_error(request: Request, error: Exception) -> Response:
    if isinstance(error, ClientGoneError):
        return _Nothing()
    if isinstance(error, HTTPException):
        problem = _from_http(request, error)
    else:
        problem = as_api_error(error) or internal_error()
    return JsonAnswer(problem.body(), problem.status, problem.headers)


def _from_http(request: Request, error: HTTPException) -> ApiError:
    where = f"{request.method} {request.url.path}"
    headers = dict(error.headers or {})
    if error.status_code == 404:
        return ApiError(404, f"There is no {where}.", code="not_found", headers=headers)
    if error.status_code == 405:
        message = f"{where} is not allowed; use {headers.get('Allow', 'another method')}."
        return ApiError(405, message, code="method_not_allowed", headers=headers)
    return ApiError(error.status_code, str(error.detail), headers=headers)


class _Nothing(Response):
    """For a client that is gone."""

    async def __call__(self, *_: Any) -> None:
        return


def _openapi(app: FastAPI) -> dict[str, Any]:
    """The OpenAPI document. Routes read their bodies themselves (limits, errors in OpenAI's form), so the bodies'
    schemas are put in here."""
    if app.openapi_schema is not None:
        return app.openapi_schema
    document = get_openapi(title=app.title, version=app.version, routes=app.routes)
    bodies = [body for bodies in _BODIES.values() for body in bodies]
    reference = "#/components/schemas/{model}"
    refs, definitions = models_json_schema([(body, "validation") for body in bodies], ref_template=reference)
    document.setdefault("components", {}).setdefault("schemas", {}).update(definitions["$defs"])
    for path, kinds in _BODIES.items():
        schemas = [refs[kind, "validation"] for kind in kinds]
        schema = schemas[0] if len(schemas) == 1 else {"anyOf": schemas}
        content = {"application/json": {"schema": schema}}
        document["paths"][path]["post"]["requestBody"] = {"required": True, "content": content}
    app.openapi_schema = document
    return document
