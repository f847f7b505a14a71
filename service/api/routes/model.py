"""``GET /v1/model``: what the served model states about itself."""

from fastapi import APIRouter

from service.api.dependencies import AppStateDep
from service.api.problems import ACCESS_PROBLEMS, UNAVAILABLE
from service.schemas import CropSize, ModelDescription

router = APIRouter()


@router.get(
    "/v1/model",
    operation_id="getModel",
    tags=["model"],
    summary="Describe the model that answers",
    responses={**ACCESS_PROBLEMS, **UNAVAILABLE},
)
async def describe_model(app_state: AppStateDep) -> ModelDescription:
    """Return the model's labels, its input, and what identifies its weights."""
    spec = await app_state.triton.model_spec()
    height, width = spec.crop_size
    return ModelDescription(
        name=spec.name,
        version=spec.version,
        labels=list(spec.labels),
        crop=CropSize(width=width, height=height, channels=spec.channels),
        max_batch_size=spec.max_batch_size,
        provenance=dict(spec.provenance),
    )
