"""What one inference call needs, passed unchanged from the analyzer to gRPC."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from service.inference.model_spec import ModelSpec


@dataclass(frozen=True, eq=False)
class InferenceRequest:
    """Face crops to classify, and under which terms.

    Attributes:
        crops: uint8 [N, *``spec.crop_shape``], N >= 1.
        spec: The model that the crops were cut for.
        deadline: When to give up, in seconds of ``time.monotonic``.
        headers: gRPC metadata to send along, such as the trace context.
    """

    crops: NDArray[np.uint8]
    spec: ModelSpec
    deadline: float
    headers: Mapping[str, str] = field(default_factory=dict)
