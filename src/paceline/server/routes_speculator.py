"""``/v1/speculator``: which version of the learned speculator drafts, and back to the one before in one call."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from paceline.errors import InvalidRequestError, ModelLoadError
from paceline.server.context import ServerContext
from paceline.server.intake import read_json
from paceline.server.learning import Learning
from paceline.server.problems import ApiError
from paceline.server.schemas import UseSpeculatorBody, parse
from paceline.server.sse import JsonAnswer


def routes(context: ServerContext) -> APIRouter:
    """Versions of the speculator of ``context``; 403 without ``--learn``."""
    router = APIRouter(prefix="/v1/speculator")

    @router.get("")
    async def status() -> Response:
        return JsonAnswer(_learning(context).status())

    @router.post("/use")
    async def use(http: HttpRequest) -> Response:
        learning = _learning(context)
        body = parse(UseSpeculatorBody, await read_json(http, context))
        try:
            await learning.use(body.version)
        except InvalidRequestError as error:
            raise ApiError(404, str(error), param="version", code="not_found") from None
        except ModelLoadError as error:
            raise ApiError(400, str(error), param="version", code="invalid_value") from None
        return JsonAnswer(learning.status())

    @router.post("/rollback")
    async def rollback() -> Response:
        learning = _learning(context)
        problem = context.unready()
        if problem is not None:
            raise problem
        try:
            await learning.roll_back()
        except InvalidRequestError as error:
            raise ApiError(409, str(error), code="nothing_before") from None
        except ModelLoadError as error:
            raise ApiError(400, f"the version before cannot be used: {error}", code="invalid_value") from None
        return JsonAnswer(learning.status())

    return router


def _learning(context: ServerContext) -> Learning:
    if context.learning is None:
        message = "This server does not learn from its traffic; start it with --learn to have it do so."
        raise ApiError(403, message, code="learning_disabled")
    return context.learning
