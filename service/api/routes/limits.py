"""``GET /v1/limits``: what the service accepts."""

from fastapi import APIRouter

from service.api.dependencies import AppStateDep
from service.api.problems import ACCESS_PROBLEMS
from service.api.responses import ANSWER_TYPES
from service.schemas import BatchLimits, Limits, RateLimits, StreamLimits, UploadLimits
from service.vision.decoding import HALVED_SHARE, MEDIA_TYPES

router = APIRouter()


@router.get(
    "/v1/limits",
    operation_id="getLimits",
    tags=["model"],
    summary="Tell what the service accepts",
    responses=ACCESS_PROBLEMS,
)
async def get_limits(app_state: AppStateDep) -> Limits:
    """Return the limits on photos, batches, streams and callers, and the formats."""
    settings = app_state.settings
    return Limits(
        formats=list(MEDIA_TYPES),
        answer_formats=list(ANSWER_TYPES),
        photo=UploadLimits(
            max_bytes=settings.max_upload_bytes,
            max_pixels=settings.max_pixels,
            max_jpeg_pixels=HALVED_SHARE * settings.max_pixels,
            timeout_s=settings.upload_timeout_s,
            fetch_hosts=list(settings.fetch_hosts),
        ),
        batch=BatchLimits(
            max_photos=settings.max_batch_photos,
            max_bytes=settings.max_batch_bytes,
            max_concurrent=settings.max_batches,
            timeout_s=settings.batch_upload_timeout_s,
        ),
        stream=StreamLimits(
            max_concurrent=settings.max_streams,
            max_frame_bytes=settings.max_frame_bytes,
            max_frames_per_s=settings.max_frames_per_s,
            idle_s=settings.stream_idle_s,
        ),
        rate=RateLimits(
            max_photos=settings.rate_limit,
            window_s=settings.rate_window_s,
            max_concurrent=settings.concurrent_limit,
        ),
        max_faces=settings.max_faces,
        request_timeout_s=settings.request_timeout_s,
    )
