"""Photos and batches under addresses that each take one form of body and give one form of answer.

Code generators cannot choose: of several content types they use one, and they read every answer as the first one
documented. Metrics count these requests as those of the route that has all forms.
"""

from typing import Annotated, Any, Final

from fastapi import APIRouter, Query, Request
from fastapi.routing import APIRoute
from starlette.responses import Response

from service.api.dependencies import AppStateDep, UploadBudget
from service.api.params import DetectionQuery
from service.api.problems import PHOTO_PROBLEMS
from service.api.responses import JSON_TYPE, PICTURE_TYPES, ResponseFormat
from service.api.routes.batch import (
    BATCH_FORM,
    BATCH_PROBLEMS,
    BatchResponse,
    as_document,
    start_batch,
)
from service.api.routes.emotions import BINARY, PHOTO_FORM, RAW_BYTES, answer_photo
from service.schemas import BatchEmotions, PhotoEmotions

JSON_PROBLEMS: Final = {status: answer for status, answer in PHOTO_PROBLEMS.items() if status != 406}

JSON_ANSWER: Final = ResponseFormat(JSON_TYPE, None)

OneFormQuery = Annotated[DetectionQuery, Query()]


class OneFormRoute(APIRoute):
    """A route with one form of body and of answer."""

    @property
    def counts_as(self) -> str:
        """The route with all forms: the path above this one."""
        return self.path.rpartition("/")[0]


router = APIRouter(route_class=OneFormRoute, tags=["one form"])


def body(content: dict[str, Any], description: str) -> dict[str, Any]:
    """Document the body of a request."""
    return {"requestBody": {"required": True, "description": description, "content": content}}


@router.post(
    "/v1/emotions/form",
    operation_id="readEmotionsFromForm",
    summary="Read the emotions in a photo that a form uploads",
    response_model=PhotoEmotions,
    responses=JSON_PROBLEMS,
    openapi_extra=body(PHOTO_FORM, "One photo."),
)
async def read_form(
    request: Request, app_state: AppStateDep, memory: UploadBudget, query: OneFormQuery
) -> Response:
    """Like `POST /v1/emotions` with a form; the answer is always JSON, with all fields."""
    return await answer_photo(request, app_state, memory, query, JSON_ANSWER)


@router.post(
    "/v1/emotions/raw",
    operation_id="readEmotionsFromBytes",
    summary="Read the emotions in a photo that is the body",
    response_model=PhotoEmotions,
    responses=JSON_PROBLEMS,
    openapi_extra=body(RAW_BYTES, "One photo."),
)
async def read_raw(
    request: Request, app_state: AppStateDep, memory: UploadBudget, query: OneFormQuery
) -> Response:
    """Like `POST /v1/emotions` with the photo as the body; the answer is always JSON, with all fields."""
    return await answer_photo(request, app_state, memory, query, JSON_ANSWER)


@router.post(
    "/v1/emotions/picture",
    operation_id="drawEmotions",
    summary="Draw the emotions in a photo that is the body",
    response_class=Response,
    responses={
        200: {
            "description": "The photo with boxes and labels drawn, as a JPEG unless Accept names another type.",
            "content": {kind: {"schema": BINARY} for kind in PICTURE_TYPES},
        },
        **PHOTO_PROBLEMS,
    },
    openapi_extra=body(RAW_BYTES, "One photo."),
)
async def draw_emotions(
    request: Request, app_state: AppStateDep, memory: UploadBudget, query: OneFormQuery
) -> Response:
    """Like `POST /v1/emotions` with an image type in Accept."""
    response_format = ResponseFormat.picture_for_accept(request.headers.get("accept"))
    return await answer_photo(request, app_state, memory, query, response_format)


@router.post(
    "/v1/emotions/batch/form",
    operation_id="readBatchFromForm",
    summary="Read many photos that a form uploads",
    response_model=BatchEmotions,
    responses=BATCH_PROBLEMS,
    openapi_extra=body(BATCH_FORM, "The photos."),
)
async def read_batch_form(
    request: Request, app_state: AppStateDep, memory: UploadBudget, query: OneFormQuery
) -> Response:
    """Like `POST /v1/emotions/batch` with a form; the answer is one JSON document."""
    return BatchResponse(*await start_batch(request, app_state, memory, query), as_document, JSON_TYPE)


@router.post(
    "/v1/emotions/batch/zip",
    operation_id="readBatchFromZip",
    summary="Read many photos in a ZIP archive",
    response_model=BatchEmotions,
    responses=BATCH_PROBLEMS,
    openapi_extra=body(RAW_BYTES, "A ZIP archive of photos in any folders."),
)
async def read_batch_zip(
    request: Request, app_state: AppStateDep, memory: UploadBudget, query: OneFormQuery
) -> Response:
    """Like `POST /v1/emotions/batch` with an archive; the answer is one JSON document."""
    return BatchResponse(*await start_batch(request, app_state, memory, query), as_document, JSON_TYPE)
