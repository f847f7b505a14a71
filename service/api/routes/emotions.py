"""The HTTP interface."""

import time
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from service.api.dependencies import AppStateDep, UploadBudget
from service.api.params import PhotoQuery
from service.api.problems import ACCESS_PROBLEMS, UNAVAILABLE, documented
from service.api.responses import JSON_TYPE, MIXED_TYPE, Form, render
from service.api.routes import batch
from service.api.uploads.batch import FIELD as BATCH_FIELD
from service.api.uploads.batch import read_batch
from service.api.uploads.photo import FIELD, read_photo
from service.schemas import BatchLine, CropSize, ModelDescription, PhotoEmotions
from service.vision.drawing import IMAGE_FORMATS

router = APIRouter()


PHOTO_PROBLEMS: dict[int | str, dict[str, Any]] = {
    400: documented("The request carries no photo, or is broken."),
    **ACCESS_PROBLEMS,
    406: documented("The Accept header allows no form of answer."),
    408: documented("The upload did not arrive in time."),
    413: documented("Too many bytes or too many pixels."),
    415: documented("Not a content type or an image format that is read."),
    422: documented("The image cannot be decoded, or a parameter is wrong."),
    **UNAVAILABLE,
    504: documented("The answer did not come in time."),
}

BINARY = {"type": "string", "format": "binary"}

ONE_PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAADElEQVR4nGNgYGAAAAAEAAH2FzhVAAAAAElFTkSuQmCC"
"""A PNG of one pixel in base64: the smallest photo, without a face."""

PHOTO_BODY = {
    "required": True,
    "description": "One photo, in any of these forms.",
    "content": {
        "multipart/form-data": {"schema": {"type": "object", "required": [FIELD], "properties": {FIELD: BINARY}}},
        **{kind: {"schema": BINARY} for kind in ("image/jpeg", "image/png", "image/webp", "image/heic")},
        JSON_TYPE: {
            "example": {FIELD: ONE_PIXEL},
            "schema": {
                "type": "object",
                "required": [FIELD],
                "properties": {
                    FIELD: {
                        "type": "string",
                        "format": "byte",
                        "description": "The photo's bytes in base64; the prefix of a data: URL is allowed.",
                    }
                },
            },
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
            "description": "The faces, or with an image type in Accept the photo with boxes and labels drawn. "
            "With multipart/mixed both: first the JSON, then the picture, of the image type that Accept names "
            "too, else JPEG.",
            "content": {kind: {"schema": BINARY} for kind in (*IMAGE_FORMATS, MIXED_TYPE)},
        },
        **PHOTO_PROBLEMS,
    },
    openapi_extra={"requestBody": PHOTO_BODY},
)
async def read_emotions(
    request: Request, app_state: AppStateDep, memory: UploadBudget, query: Annotated[PhotoQuery, Query()]
) -> Response:
    """Labels describe what a face shows, not what a person feels. Photos are neither kept nor logged."""
    settings = app_state.settings
    deadline = time.monotonic() + settings.request_timeout_s
    form = Form.for_accept(request.headers.get("accept"))
    options = query.options(settings)
    data = await read_photo(
        request, memory, max_bytes=settings.max_upload_bytes, timeout_s=settings.upload_timeout_s
    )
    analysis = await app_state.analyzer.analyze(data, options, deadline=deadline, draw_as=form.picture_type)
    request.state.faces = len(analysis.answer.faces)
    memory.reserve(len(analysis.picture or b""))  # held until the caller has read it
    return render(analysis, form, query.face_fields())


BATCH_BODY = {
    "required": True,
    "description": "The photos: files in the repeated field «images», or a ZIP archive of files in any folders.",
    "content": {
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "required": [BATCH_FIELD],
                "properties": {BATCH_FIELD: {"type": "array", "minItems": 1, "items": BINARY}},
            }
        },
        "application/zip": {"schema": BINARY},
    },
}


@router.post(
    "/v1/emotions/batch",
    tags=["emotions"],
    summary="Read many photos in one request",
    response_class=Response,
    responses={
        200: {
            "description": "A line of JSON of this form for each photo, in the order in which they are done.",
            "content": {batch.LINES_TYPE: {"schema": {"$ref": f"#/components/schemas/{BatchLine.__name__}"}}},
        },
        **{status: answer for status, answer in PHOTO_PROBLEMS.items() if status != 406},
    },
    openapi_extra={"requestBody": BATCH_BODY},
)
async def read_batch_of_emotions(
    request: Request, app_state: AppStateDep, memory: UploadBudget, query: Annotated[PhotoQuery, Query()]
) -> Response:
    """Each photo has an answer or a problem of its own; one that cannot be read harms no other.

    A batch gives way to single photos: under load it takes longer instead of being refused.
    """
    options = query.options(app_state.settings)
    app_state.batches.reserve()
    try:
        photos = await read_batch(request, memory, app_state.settings)
        await app_state.triton.model_spec()  # without a model, one problem says it for all
        request.state.spend(len(photos.names) - 1)
        reader = batch.BatchReader(
            app_state, memory, options, query.face_fields(), request_id=request.state.request_id
        )
        return batch.BatchResponse(request, reader, photos, app_state.batches.release)
    except BaseException:
        app_state.batches.release()
        raise


@router.get(
    "/v1/model",
    tags=["model"],
    summary="Describe the model that answers",
    responses={**ACCESS_PROBLEMS, **UNAVAILABLE},
)
async def describe_model(app_state: AppStateDep) -> ModelDescription:
    """What the served model states: its labels, its input, and what identifies its weights."""
    spec = await app_state.triton.model_spec()
    height, width = spec.crop_size
    return ModelDescription(
        name=spec.name,
        version=spec.version,
        labels=list(spec.labels),
        crop=CropSize(width=width, height=height),
        max_batch_size=spec.max_batch_size,
        provenance=dict(spec.provenance),
    )
