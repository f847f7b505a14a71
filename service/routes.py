"""The HTTP interface."""

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import RedirectResponse
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import Response

from service.analysis import Options
from service.annotation import FORMATS
from service.errors import BadParameter, Draining
from service.gateway import Gateway
from service.negotiation import choose_media_type
from service.problems import PROBLEM_TYPE
from service.schemas import (
    Alive,
    CropSize,
    ModelDescription,
    ModelIdentity,
    PhotoEmotions,
    Problem,
    Ready,
)
from service.telemetry import METRICS_TYPE, server_timing
from service.uploads import FIELD, read_photo

JSON_TYPE = "application/json"
ANSWER_TYPES = (JSON_TYPE, *FORMATS)

router = APIRouter()


def gateway_of(request: Request) -> Gateway:
    """The parts that the app built at its start."""
    gateway: Gateway = request.app.state.gateway
    return gateway


GatewayParts = Annotated[Gateway, Depends(gateway_of)]


class PhotoQuery(BaseModel):
    """Query parameters of a photo's analysis."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    max_faces: int | None = Field(None, ge=1)
    """Most faces to answer, largest first; the server's limit where not given."""
    min_face_size: float = Field(0, ge=0, allow_inf_nan=False)
    """Leave out faces whose box has a shorter side than this, in pixels of the upright photo."""
    threshold: float | None = Field(None, ge=0.05, le=1, allow_inf_nan=False)
    """Least detection score of a face, 0.05 to 1; the server's setting where not given."""


def _problem(description: str) -> dict[str, Any]:
    return {"description": description, "content": {PROBLEM_TYPE: {"schema": Problem.model_json_schema()}}}


UNAVAILABLE: dict[int | str, dict[str, Any]] = {
    503: _problem("Busy, shutting down, or without a working inference server; Retry-After says when to retry.")
}

PHOTO_PROBLEMS: dict[int | str, dict[str, Any]] = {
    400: _problem("The request carries no photo, or is broken."),
    406: _problem("The Accept header allows no form of answer."),
    408: _problem("The upload did not arrive in time."),
    413: _problem("Too many bytes or too many pixels."),
    415: _problem("Not a content type or an image format that is read."),
    422: _problem("The image cannot be decoded, or a parameter is wrong."),
    **UNAVAILABLE,
    504: _problem("The answer did not come in time."),
}

BINARY = {"type": "string", "format": "binary"}

PHOTO_BODY = {
    "required": True,
    "description": "One photo, in any of these forms.",
    "content": {
        "multipart/form-data": {"schema": {"type": "object", "required": [FIELD], "properties": {FIELD: BINARY}}},
        **{kind: {"schema": BINARY} for kind in ("image/jpeg", "image/png", "image/webp", "image/heic")},
        JSON_TYPE: {
            "schema": {
                "type": "object",
                "required": [FIELD],
                "properties": {
                    FIELD: {
                        "type": "string",
                        "description": "The photo's bytes in base64; the prefix of a data: URL is allowed.",
                    }
                },
            }
        },
    },
}


@router.post(
    "/v1/emotions",
    tags=["emotions"],
    summary="Read the emotion that each face in a photo shows",
    response_model=PhotoEmotions,
    responses={
        200: {
            "description": "The faces, or with an image type in Accept the photo with boxes and labels drawn.",
            "content": {kind: {"schema": BINARY} for kind in FORMATS},
        },
        **PHOTO_PROBLEMS,
    },
    openapi_extra={"requestBody": PHOTO_BODY},
)
async def read_emotions(
    request: Request, gateway: GatewayParts, query: Annotated[PhotoQuery, Query()]
) -> Response:
    """Labels describe what a face shows, not what a person feels. Photos are neither kept nor logged."""
    media_type = choose_media_type(request.headers.get("accept"), ANSWER_TYPES)
    options = _options(query, gateway)
    gateway.threads.check_room()
    settings = gateway.settings
    data = await read_photo(request, max_bytes=settings.max_upload_bytes, timeout_s=settings.upload_timeout_s)
    draw_as = None if media_type == JSON_TYPE else media_type
    analysis = await gateway.reader.read(data, options, draw_as=draw_as)
    request.state.faces = len(analysis.answer.faces)
    content = analysis.picture or analysis.answer.model_dump_json()
    headers = {"Server-Timing": server_timing(analysis.seconds), "Vary": "Accept"}
    return Response(content, media_type=media_type, headers=headers)


def _options(query: PhotoQuery, gateway: Gateway) -> Options:
    settings = gateway.settings
    max_faces = query.max_faces or settings.max_faces
    if max_faces > settings.max_faces:
        raise BadParameter(f"max_faces is {max_faces}; the limit is {settings.max_faces} (TANDEM_MAX_FACES)")
    threshold = settings.detection_threshold if query.threshold is None else query.threshold
    return Options(max_faces=max_faces, min_face_size=query.min_face_size, threshold=threshold)


@router.get("/v1/model", tags=["model"], summary="Describe the model that answers", responses=UNAVAILABLE)
async def describe_model(gateway: GatewayParts) -> ModelDescription:
    """What the served model states: its labels, its input, and what identifies its weights."""
    contract = await gateway.triton.contract()
    height, width = contract.crop_size
    return ModelDescription(
        name=contract.name,
        version=contract.version,
        labels=list(contract.labels),
        crop=CropSize(width=width, height=height),
        max_batch_size=contract.max_batch_size,
        provenance=dict(contract.provenance),
    )


@router.get("/livez", tags=["operation"], summary="Tell whether the process runs")
async def livez() -> Alive:
    """Asks nothing else, Triton neither: a gateway is not to be restarted because Triton is away."""
    return Alive()


@router.get("/readyz", tags=["operation"], summary="Tell whether photos can be answered", responses=UNAVAILABLE)
async def readyz(gateway: GatewayParts) -> Ready:
    """Makes a real inference, at most one a second."""
    if gateway.draining:
        raise Draining("the service was told to stop")
    contract = await gateway.triton.ready()
    return Ready(model=ModelIdentity(name=contract.name, version=contract.version))


@router.get(
    "/metrics",
    tags=["operation"],
    summary="Give the metrics in Prometheus' text format",
    response_class=Response,
    responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
)
async def metrics(gateway: GatewayParts) -> Response:
    """Requests, durations of the steps, faces, rejections; nothing of a photo."""
    contract = gateway.triton.known_contract
    if contract:
        gateway.telemetry.model.info({"name": contract.name, "version": contract.version})
    return Response(gateway.telemetry.exposition(), media_type=METRICS_TYPE)


@router.get("/", include_in_schema=False)
async def root() -> RedirectResponse:
    """The documentation, until there is a page."""
    return RedirectResponse("/docs", status_code=307)
