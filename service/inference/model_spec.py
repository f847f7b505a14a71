"""The contract between training and serving, read from the served model's configuration."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tritonclient.grpc import model_config_pb2

from service.errors import ContractUnreadable

LANDMARKS = 5
"""Points of an alignment template: the eyes, the nose and the corners of the mouth."""


@dataclass(frozen=True, eq=False)
class ModelSpec:
    """What the gateway must know about a model to use it.

    Attributes:
        crop_size: (height, width) of the crops, in pixels.
        channels: 1 if the crops are gray, 3 if they are RGB.
        alignment_template: float64 [5, 2], where a face's landmarks should lie, x and y as fractions of the crop.
        box_template: float64 [4], where a face's box should lie in a second crop: left, top, right and bottom as
            fractions of it. None where the model knows no second framing.
        max_batch_size: Crops that one call may have.
        provenance: The parameters that identify the weights: commit, data, metrics.
    """

    name: str
    version: str
    labels: tuple[str, ...]
    input_name: str
    crop_size: tuple[int, int]
    output_name: str
    alignment_template: NDArray[np.float64]
    box_template: NDArray[np.float64] | None
    max_batch_size: int
    provenance: Mapping[str, str]
    channels: int = 1

    @classmethod
    def from_config(cls, config: Any, version: str) -> "ModelSpec":
        """Read a spec from Triton's ``ModelConfig`` message.

        Raises:
            ContractUnreadable: Something is missing or malformed; the message says what.
        """
        reader = _Reader(config, version)
        face, probabilities = reader.only("input"), reader.only("output")
        reader.require_type(face, "TYPE_UINT8")
        reader.require_type(probabilities, "TYPE_FP32")
        channels, height, width = reader.dims(face, 3, "[1 or 3, height, width]")
        if channels not in (1, 3):
            raise reader.wrong(f'input "{face.name}" has {channels} channels; crops have 1 (gray) or 3 (RGB)')
        labels = reader.labels()
        (outputs,) = reader.dims(probabilities, 1, "[labels]")
        if outputs != len(labels):
            raise reader.wrong(
                f'output "{probabilities.name}" has {outputs} values, but parameter "labels" names {len(labels)}'
            )
        if config.max_batch_size < 1:
            raise reader.wrong(f"max_batch_size is {config.max_batch_size}; it must be at least 1")
        return cls(
            name=config.name,
            version=version,
            labels=labels,
            input_name=face.name,
            crop_size=(height, width),
            channels=channels,
            output_name=probabilities.name,
            alignment_template=reader.template(),
            box_template=reader.box_template(),
            max_batch_size=config.max_batch_size,
            provenance=MappingProxyType(reader.provenance()),
        )

    @property
    def crop_shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of a crop."""
        return self.channels, *self.crop_size

    def says_the_same_as(self, other: "ModelSpec") -> bool:
        """Whether both were read from the same configuration."""
        return all(np.array_equal(value, getattr(other, name)) for name, value in vars(self).items())


class _Reader:
    """Reads parts of a configuration; every error names the model."""

    def __init__(self, config: Any, version: str) -> None:
        self._config = config
        self._model = f'model "{config.name}" version {version}'
        self._parameters: dict[str, str] = {key: value.string_value for key, value in config.parameters.items()}

    def wrong(self, what: str) -> ContractUnreadable:
        return ContractUnreadable(f"{self._model}: {what}")

    def only(self, kind: str) -> Any:
        tensors = getattr(self._config, kind)
        if len(tensors) != 1:
            raise self.wrong(f"has {len(tensors)} {kind}s; it must have exactly one")
        return tensors[0]

    def require_type(self, tensor: Any, name: str) -> None:
        found = model_config_pb2.DataType.Name(tensor.data_type)
        if found != name:
            raise self.wrong(f'"{tensor.name}" is {found}; it must be {name}')

    def dims(self, tensor: Any, count: int, meaning: str) -> list[int]:
        dims = list(tensor.dims)
        if len(dims) != count or min(dims) < 1:
            raise self.wrong(f'"{tensor.name}" has dims {dims}; they must be {meaning}')
        return dims

    def labels(self) -> tuple[str, ...]:
        labels = tuple(label.strip() for label in self._parameter("labels").split(","))
        if not all(labels) or len(set(labels)) != len(labels):
            raise self.wrong(f'parameter "labels" has empty or repeated names: {",".join(labels)!r}')
        return labels

    def template(self) -> NDArray[np.float64]:
        text = self._parameter("alignment_template")
        try:
            points = [[float(number) for number in point.split(",")] for point in text.split(";")]
        except ValueError:
            points = []
        if len(points) != LANDMARKS or any(len(point) != 2 for point in points):
            raise self.wrong(
                f'parameter "alignment_template" is {text!r}; it must have five points, "x,y;x,y;..."'
            )
        if not all(math.isfinite(number) and 0 <= number <= 1 for point in points for number in point):
            raise self.wrong(
                f'parameter "alignment_template" is {text!r}; its numbers must be fractions from 0 to 1'
            )
        if len({tuple(point) for point in points}) != LANDMARKS:
            raise self.wrong(f'parameter "alignment_template" is {text!r}; its points must differ')
        template = np.array(points, np.float64)
        template.setflags(write=False)
        return template

    def box_template(self) -> NDArray[np.float64] | None:
        text = self._parameters.get("box_template")
        if text is None:
            return None
        try:
            left, top, right, bottom = box = [float(number) for number in text.split(",")]
            fits = 0 <= left < right <= 1 and 0 <= top < bottom <= 1
        except ValueError:
            fits = False
        if not fits:
            raise self.wrong(
                f'parameter "box_template" is {text!r}; it must be "left,top,right,bottom", fractions from 0 to 1'
            )
        template = np.array(box, np.float64)
        template.setflags(write=False)
        return template

    def provenance(self) -> dict[str, str]:
        # Triton's backends take options of their own as uppercase parameters; those say nothing about the weights.
        own = ("labels", "alignment_template", "box_template")
        return {k: v for k, v in sorted(self._parameters.items()) if k not in own and not k.isupper()}

    def _parameter(self, name: str) -> str:
        if not self._parameters.get(name):
            raise self.wrong(f'parameter "{name}" is missing')
        return self._parameters[name]
