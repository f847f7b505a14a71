"""A small model behind the real contract, for tests of the gateway."""

import warnings
from pathlib import Path

import torch

LABELS = "neutral,happiness,surprise,sadness,anger,disgust,fear,contempt"
TEMPLATE = "0.30,0.39;0.68,0.39;0.49,0.60;0.34,0.78;0.64,0.78"


class ToyModel(torch.nn.Module):
    """One layer; a white crop makes it raise, and ``work`` matrix products make it slow."""

    def __init__(self, size: int, work: int) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(size * size, 8)
        self.work = work

    def forward(self, face: torch.Tensor) -> torch.Tensor:
        pixels = face.flatten(1).float() / 255
        if bool((pixels.min(1).values == 1).any()):
            raise ValueError("a white crop")
        busy = torch.ones(600, 600) * pixels.mean()  # of the input, else freezing the model would fold it away
        for _ in range(self.work):
            busy = torch.tanh(busy @ busy)
        return torch.softmax(self.linear(pixels) + 0 * busy.mean(), 1)


def write_version(folder: Path, *, seed: int = 0, size: int = 48, work: int = 0) -> None:
    """Write ``model.pt`` into a version's folder."""
    torch.manual_seed(seed)
    folder.mkdir(parents=True)
    with warnings.catch_warnings():
        # TorchScript is what both of Triton's PyTorch backends load, deprecated or not.
        warnings.filterwarnings("ignore", r"`torch\.jit\.", DeprecationWarning)
        torch.jit.script(ToyModel(size, work).eval()).save(str(folder / "model.pt"))


def write_repository(
    folder: Path,
    *,
    labels: str = LABELS,
    template: str = TEMPLATE,
    max_batch_size: int = 128,
    queue: int = 1024,
    work: int = 0,
) -> Path:
    """A model repository that holds version 1 of the toy."""
    model = folder / "models" / "tandem"
    write_version(model / "1", work=work)
    (model / "config.pbtxt").write_text(
        f"""
name: "tandem" backend: "pytorch" max_batch_size: {max_batch_size}
input [ {{ name: "face" data_type: TYPE_UINT8 dims: [ 1, 48, 48 ] }} ]
output [ {{ name: "probabilities__0" data_type: TYPE_FP32 dims: [ 8 ] }} ]
dynamic_batching {{ default_queue_policy {{ max_queue_size: {queue} }} }}
parameters {{ key: "labels" value {{ string_value: "{labels}" }} }}
parameters {{ key: "alignment_template" value {{ string_value: "{template}" }} }}
parameters {{ key: "commit" value {{ string_value: "toy" }} }}
"""
    )
    return model.parent
