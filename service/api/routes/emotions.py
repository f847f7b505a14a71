"""``POST /v1/emotions``: one photo in, its faces and their emotions out."""

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from service.api.dependencies import AppState, AppStateDep, UploadBudget
from service.api.params import DetectionQuery, PhotoQuery
from service.api.problems import PHOTO_PROBLEMS
from service.api.responses import JSON_TYPE, MIXED_TYPE, ResponseFormat, render
from service.api.uploads.json_photo import FIELD
from service.api.uploads.photo import read_photo
from service.budget import Budget
from service.observability.request_context import RequestContext
from service.schemas import SelectedPhotoEmotions
from service.vision.decoding import MEDIA_TYPES
from service.vision.drawing import IMAGE_FORMATS

BINARY = {"type": "string", "format": "binary"}

ONE_PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAADElEQVR4nGNgYGAAAAAEAAH2FzhVAAAAAElFTkSuQmCC"
"""A PNG of one pixel in base64: the smallest photo, without a face."""

PHOTO_FORM: dict[str, Any] = {
    "multipart/form-data": {
        "schema": {
            "title": "PhotoForm",
            "type": "object",
            "required": [FIELD],
            "properties": {FIELD: {**BINARY, "description": "The photo, as a file."}},
        }
    }
}
RAW_BYTES: dict[str, Any] = {"application/octet-stream": {"schema": BINARY}}
"""The file itself as the body. Code generators know no image types."""

PHOTO_BODY: dict[str, Any] = {
    "required": True,
    "description": "One photo, in any of these forms.",
    "content": {
        **PHOTO_FORM,
        **RAW_BYTES,
        **{kind: {"schema": BINARY} for kind in MEDIA_TYPES},
        JSON_TYPE: {
            "example": {FIELD: ONE_PIXEL},
            "schema": {
                "title": "PhotoJson",
                "type": "object",
                "required": [FIELD],
                "properties": {
                    FIELD: {
                        "type": "string",
                        "format": "byte",
                        "description": "The photo in base64, standard or URL-safe, or a data: URL.",
                    }
                },
            },
        },
    },
}

router = APIRouter()


@router.post(
    "/v1/emotions",
    operation_id="readEmotions",
    tags=["emotions"],
    summary="Read the emotion that each face in a photo shows",
    response_model=SelectedPhotoEmotions,
    responses={
        200: {
            "description": "The faces, or the photo with boxes and labels drawn if Accept is an image type. Both "
            "if it is multipart/mixed: first the JSON, then the picture, of the image type that Accept names too, "
            "else a JPEG.",
            "content": {kind: {"schema": BINARY} for kind in (*IMAGE_FORMATS, MIXED_TYPE)},
        },
        **PHOTO_PROBLEMS,
    },
    openapi_extra={"requestBody": PHOTO_BODY},
)
async def read_emotions(
    request: Request, app_state: AppStateDep, memory: UploadBudget, query: Annotated[PhotoQuery, Query()]
) -> Response:
    """Labels describe what a face shows, not what a person feels. Photos are neither stored nor logged."""
    response_format = ResponseFormat.for_accept(request.headers.get("accept"))
    return await answer_photo(request, app_state, memory, query, response_format)


async def answer_photo(
    request: Request,
    app_state: AppState,
    memory: Budget,
    query: DetectionQuery,
    response_format: ResponseFormat,
) -> Response:
    """Read the photo in a request, analyze it and render the answer."""
    settings, context = app_state.settings, RequestContext.of(request.scope)
    options = query.options(settings)
    photo = await read_photo(
        request,
        memory,
        max_bytes=settings.max_upload_bytes,
        timeout_s=settings.upload_timeout_s,
        fetcher=app_state.fetcher,
    )
    analysis = await app_state.analyzer.analyze(
        photo, options, deadline=context.deadline, draw_as=response_format.picture_type
    )
    context.faces = len(analysis.answer.faces)
    pictures = [analysis.picture or b"", *(face.crop or "" for face in analysis.answer.faces)]
    memory.reserve(sum(map(len, pictures)))  # until the caller has read them
    return render(analysis, response_format, query.face_fields())
