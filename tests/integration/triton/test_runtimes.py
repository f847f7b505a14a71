"""Both runtimes of the local Triton, ONNX Runtime and TorchScript, on the committed network."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import tritonclient.grpc as triton_grpc
from skimage import data

from service.triton.errors import StartFailed
from service.triton.server import LocalTriton
from service.vision.alignment import crop_faces
from service.vision.face_pipeline import FacePipeline

MODELS = Path(__file__).parents[3] / "model_repository"
TEMPLATE = np.array([[0.30, 0.39], [0.68, 0.39], [0.49, 0.60], [0.34, 0.78], [0.64, 0.78]])
TOLERANCE = 1e-5
MEBIBYTE = 1024 * 1024

# TorchScript is deprecated, but it is the format that both of Triton's PyTorch backends load.
pytestmark = pytest.mark.filterwarnings(r"ignore:`torch\.jit\.:DeprecationWarning")


@pytest.fixture(scope="module", params=["onnx", "torchscript"])
def triton(request: pytest.FixtureRequest, triton_home: Path) -> Iterator[LocalTriton]:
    with LocalTriton(home=triton_home, model_repository=MODELS, runtime=request.param) as running:
        yield running


@pytest.fixture(scope="module")
def crops() -> np.ndarray:
    """A face with 128 positions, angles and brightnesses: uint8 [128, 1, 48, 48]."""
    generator = np.random.default_rng(0)
    photo = data.astronaut()
    faces = FacePipeline().find_faces(photo)
    crop = crop_faces(photo, faces, template=TEMPLATE, size=(96, 96))[0, 0]
    views = []
    for _ in range(128):
        matrix = cv2.getRotationMatrix2D((48, 48), generator.uniform(-30, 30), generator.uniform(0.4, 0.7))
        matrix[:, 2] += generator.uniform(-4, 4, 2) - 24
        views.append(cv2.warpAffine(crop, matrix, (48, 48), flags=cv2.INTER_AREA) * generator.uniform(0.3, 1.3))
    return np.stack(views).clip(0, 255).astype(np.uint8)[:, None]


def infer(triton: LocalTriton, crops: np.ndarray) -> np.ndarray:
    face = triton_grpc.InferInput("face", crops.shape, "UINT8")
    face.set_data_from_numpy(crops)
    with triton_grpc.InferenceServerClient(triton.grpc_url) as client:
        return client.infer("tandem", [face]).as_numpy("probabilities__0")


@pytest.mark.parametrize("count", [1, 2, 16, 17, 128])
def test_probabilities_match_torch(triton: LocalTriton, crops: np.ndarray, count: int) -> None:
    with torch.inference_mode():
        expected = torch.jit.load(MODELS / "tandem" / "1" / "model.pt")(torch.from_numpy(crops[:count])).numpy()
    answers = infer(triton, crops[:count])
    np.testing.assert_allclose(answers, expected, atol=TOLERANCE)
    assert (answers.argmax(1) == expected.argmax(1)).all()


@pytest.mark.parametrize(("runtime", "name"), [("auto", "ONNX Runtime"), ("torchscript", "TorchScript")])
def test_the_log_says_which_runtime_and_why(
    triton_home: Path, capfd: pytest.CaptureFixture[str], runtime: str, name: str
) -> None:
    with LocalTriton(home=triton_home, model_repository=MODELS, runtime=runtime):
        pass
    (line,) = [line for line in capfd.readouterr().err.splitlines() if "tandem version 1 runs with" in line]
    assert name in line
    assert ("on a CPU" if runtime == "auto" else "TANDEM_RUNTIME=torchscript") in line


@pytest.mark.parametrize("triton", ["onnx"], indirect=True)
def test_memory_does_not_grow_with_the_sizes_of_batches(triton: LocalTriton) -> None:
    def round_of_sizes() -> int:
        """Run batch sizes up to the maximum; returns the memory of the model's process in bytes."""
        for count in (*range(1, 128, 7), 128):
            infer(triton, np.zeros((count, 1, 48, 48), np.uint8))
        return sum(resident_bytes(process) for process in stubs(triton.pid))

    first = round_of_sizes()
    assert first > 0
    assert round_of_sizes() - first < 8 * MEBIBYTE


@pytest.mark.parametrize("triton", ["onnx"], indirect=True)
def test_onnx_needs_no_torch(triton: LocalTriton) -> None:
    loaded = "".join(Path(f"/proc/{process}/maps").read_text() for process in stubs(triton.pid))
    assert "onnxruntime" in loaded
    assert "torch" not in loaded


def stubs(server: int) -> list[int]:
    children = Path(f"/proc/{server}/task/{server}/children").read_text().split()
    threads = [
        Path(f"/proc/{server}/task/{each.name}/children") for each in Path(f"/proc/{server}/task").iterdir()
    ]
    return sorted(
        {int(child) for thread in threads for child in thread.read_text().split()} | set(map(int, children))
    )


def resident_bytes(process: int) -> int:
    (line,) = [
        line for line in Path(f"/proc/{process}/status").read_text().splitlines() if line.startswith("VmRSS")
    ]
    return int(line.split()[1]) * 1024


def test_a_version_without_model_onnx_uses_torchscript_unless_onnx_is_required(
    triton_home: Path, toy_repository: Path
) -> None:
    with LocalTriton(home=triton_home, model_repository=toy_repository) as running:
        assert infer(running, np.zeros((1, 1, 48, 48), np.uint8)).shape == (1, 8)
    required = LocalTriton(home=triton_home, model_repository=toy_repository, runtime="onnx")
    with pytest.raises(StartFailed, match=r"TANDEM_RUNTIME is onnx.*no model\.onnx"):
        required.start()


def test_torchscript_needs_the_file_that_wheels_leave_out(triton_home: Path, tmp_path: Path) -> None:
    shutil.copytree(MODELS, tmp_path, ignore=lambda *_: ["model.pt"], dirs_exist_ok=True)
    triton = LocalTriton(home=triton_home, model_repository=tmp_path, runtime="torchscript")
    with pytest.raises(StartFailed, match=r"TANDEM_RUNTIME is torchscript.*no model\.pt"):
        triton.start()


def test_an_unknown_runtime_is_rejected(triton_home: Path) -> None:
    with pytest.raises(
        StartFailed, match="TANDEM_RUNTIME is 'tensorrt'; it must be one of auto, onnx, torchscript"
    ):
        LocalTriton(home=triton_home, model_repository=MODELS, runtime="tensorrt").start()
