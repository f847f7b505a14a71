import numpy as np
import pytest
from numpy.typing import NDArray

from service.inference.views import MIN_MARGIN, margins, read_views

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Model:
    """Answers with the mean gray value of the left half of a crop, and counts the crops it is asked about."""

    def __init__(self) -> None:
        self.calls: list[int] = []

    async def infer(self, crops: NDArray[np.uint8]) -> NDArray[np.float32]:
        self.calls.append(len(crops))
        first = crops[..., : crops.shape[-1] // 2].mean(axis=(1, 2, 3)) / 255
        answers = np.stack([first, 1 - first, np.zeros_like(first)], axis=1).astype(np.float32)
        answers.setflags(write=False)  # as answers from Triton are
        return answers


def crop(left: int, right: int) -> NDArray[np.uint8]:
    pixels = np.full((1, 4, 4), right, np.uint8)
    pixels[..., :2] = left
    return pixels


SURE, DOUBTFUL = crop(255, 255), crop(153, 51)  # 1.0; 0.6, and 0.2 mirrored


async def test_a_face_in_doubt_gets_the_mean_over_both_crops_and_their_mirror_images() -> None:
    model = Model()
    answers = await read_views(
        model.infer, np.stack([SURE, DOUBTFUL, SURE]), np.stack([crop(0, 0), crop(102, 255), crop(0, 0)])
    )
    assert model.calls == [3, 3]
    mean = (0.6 + 0.2 + 0.4 + 1.0) / 4
    np.testing.assert_allclose(answers, [[1, 0, 0], [mean, 1 - mean, 0], [1, 0, 0]], atol=1e-6)


async def test_faces_without_doubt_are_read_once() -> None:
    model = Model()
    await read_views(model.infer, np.stack([SURE, SURE]), np.stack([DOUBTFUL, DOUBTFUL]))
    assert model.calls == [2]


async def test_a_model_without_a_second_framing_is_asked_once() -> None:
    model = Model()
    answers = await read_views(model.infer, np.stack([DOUBTFUL]), None)
    assert model.calls == [1]
    np.testing.assert_allclose(answers, [[0.6, 0.4, 0]], atol=1e-6)


async def test_an_error_about_the_further_views_is_passed_on() -> None:
    model = Model()

    async def infer(crops: NDArray[np.uint8]) -> NDArray[np.float32]:
        if model.calls:
            raise TimeoutError
        return await model.infer(crops)

    with pytest.raises(TimeoutError):
        await read_views(infer, np.stack([DOUBTFUL]), np.stack([DOUBTFUL]))


async def test_one_label_leaves_no_doubt() -> None:
    async def infer(crops: NDArray[np.uint8]) -> NDArray[np.float32]:
        return np.ones((len(crops), 1), np.float32)

    assert (await read_views(infer, np.stack([SURE]), np.stack([SURE]))).shape == (1, 1)


def test_the_margin_is_between_the_two_likeliest() -> None:
    answers = np.array([[0.1, 0.7, 0.2], [0.4, 0.2, 0.4]], np.float32)
    np.testing.assert_allclose(margins(answers), [0.5, 0], atol=1e-6)
    assert 0 < MIN_MARGIN < 1
