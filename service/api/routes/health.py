"""Routes for operators: liveness, readiness and metrics."""

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from service.api.dependencies import AppStateDep
from service.api.problems import UNAVAILABLE
from service.errors import Draining
from service.schemas import Alive, ModelIdentity, Ready

router = APIRouter()


@router.get("/livez", operation_id="isAlive", tags=["operation"], summary="Tell whether the process runs")
async def livez() -> Alive:
    """Asks nothing else, not even Triton: a gateway must not be restarted because Triton is unavailable."""
    return Alive()


@router.get(
    "/readyz",
    operation_id="isReady",
    tags=["operation"],
    summary="Tell whether photos can be answered",
    responses=UNAVAILABLE,
)
async def readyz(app_state: AppStateDep) -> Ready:
    """Runs a real inference, at most one per second."""
    if app_state.draining:
        raise Draining("the service was told to stop")
    app_state.queue.check_workers()
    spec = await app_state.triton.ready()
    return Ready(model=ModelIdentity(name=spec.name, version=spec.version))


@router.get(
    "/metrics",
    operation_id="getMetrics",
    tags=["operation"],
    summary="Return the metrics in Prometheus' text format",
    response_class=Response,
    responses={
        200: {
            "description": "The metrics; with exemplars if Accept asks for OpenMetrics.",
            "content": {
                kind: {"schema": {"type": "string"}} for kind in ("text/plain", "application/openmetrics-text")
            },
        }
    },
)
async def metrics(request: Request, app_state: AppStateDep) -> Response:
    """Requests, durations of the stages, faces, rejections. Nothing about a photo's content."""
    spec = app_state.triton.known_spec
    if spec:
        app_state.metrics.model.info({"name": spec.name, "version": spec.version})
    content, media_type = app_state.metrics.exposition(request.headers.get("accept", ""))
    return Response(content, headers={"Content-Type": media_type, "Vary": "Accept"})
