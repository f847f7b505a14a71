"""The crops that an exported model takes, from the configuration beside it."""

from pathlib import Path

from google.protobuf import text_format  # type: ignore[import-untyped]
from tritonclient.grpc import model_config_pb2

from service.errors import ContractUnreadable
from service.inference.model_spec import ModelSpec
from training.crop_spec import CROP_SHAPE, CropShape


def read_crop(model: Path) -> CropShape:
    """Return the shape of the crops that ``model.pt`` takes; that of the default if no configuration is beside it.

    Raises:
        ValueError: The configuration cannot be read.
    """
    file = model.with_name("config.pbtxt")
    if not file.is_file():
        return CROP_SHAPE
    try:
        config = text_format.Parse(file.read_text(), model_config_pb2.ModelConfig())
        return ModelSpec.from_config(config, model.parent.name).crop_shape
    except (text_format.ParseError, ContractUnreadable) as error:
        raise ValueError(f"{file}: {error}") from error
