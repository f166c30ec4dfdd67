"""Is it alive, is it ready, what is it, how is it doing."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.responses import Response

from paceline.server.context import ServerContext
from paceline.server.problems import ApiError
from paceline.server.sse import JsonAnswer
from paceline.server.version import version

METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"


def routes(context: ServerContext) -> APIRouter:
    """Probes and metrics of ``context``."""
    router = APIRouter()

    @router.get("/health")
    @router.head("/health", include_in_schema=False)
    @router.get("/ping")
    @router.post("/ping", include_in_schema=False)
    async def health() -> Response:
        """200 as long as this process answers."""
        return JsonAnswer({"status": "ok"})

    @router.get("/ready")
    @router.head("/ready", include_in_schema=False)
    async def ready() -> Response:
        """200 when requests are served, 503 before and after."""
        problem = context.unready()
        if problem is not None:
            raise problem
        if not context.engine.serving:
            raise ApiError(503, "The engine is being restarted; requests wait for it.", code="restarting")
        return JsonAnswer({"status": "ready", "model": context.model_name})

    @router.get("/version")
    async def version_() -> Response:
        return JsonAnswer({"version": version()})

    @router.get("/metrics")
    @router.head("/metrics", include_in_schema=False)  # aiperf looks whether there are any before it scrapes
    async def metrics() -> Response:
        return Response(context.metrics.scrape(), media_type=METRICS_TYPE)

    return router
