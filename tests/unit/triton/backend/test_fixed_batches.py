"""Batches of fixed sizes on the CPU: everything except recording CUDA graphs."""

import math

import pytest
import torch
from fixed_batches import WARM_UP_RUNS, FixedBatches, in_pieces, sizes_up_to

CPU = torch.device("cpu")


class Counted:
    """A network of two inputs and two outputs, without relations between rows, that records its batch sizes."""

    def __init__(self) -> None:
        self.sizes: list[int] = []
        self.last = torch.empty(0)

    def __call__(self, face: torch.Tensor, weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        self.sizes.append(len(face))
        self.last = face.clone()
        return face.float().sum(1) * weight[:, 0], face.t().contiguous().t()  # the second is not contiguous


@pytest.fixture
def network() -> Counted:
    return Counted()


@pytest.fixture
def batches(network: Counted) -> FixedBatches:
    return FixedBatches(network, [([3], torch.uint8), ([1], torch.float32)], 12, CPU, pytest.fail)


@pytest.mark.parametrize(
    ("largest", "sizes"), [(1, [1]), (2, [1, 2]), (12, [1, 2, 4, 8, 12]), (100, [1, 2, 4, 8, 16, 32, 64, 100])]
)
def test_sizes_are_powers_of_two_and_the_maximum(largest: int, sizes: list[int]) -> None:
    assert sizes_up_to(largest) == sizes


def test_every_size_is_warmed_up(network: Counted, batches: FixedBatches) -> None:
    assert batches.sizes == [1, 2, 4, 8, 12]
    assert {size: network.sizes.count(size) for size in batches.sizes} == dict.fromkeys(
        batches.sizes, WARM_UP_RUNS
    )


@pytest.mark.parametrize(
    ("parts", "size"), [([1], 1), ([2], 2), ([1, 2], 4), ([3, 1], 4), ([1] * 5, 8), ([2, 7], 12), ([12], 12)]
)
def test_parts_are_joined_and_padded_and_outputs_match(
    network: Counted, batches: FixedBatches, parts: list[int], size: int
) -> None:
    rows = sum(parts)
    generator = torch.Generator().manual_seed(rows)
    faces = torch.randint(1, 256, (rows, 3), generator=generator).to(torch.uint8)
    weights = torch.rand((rows, 1), generator=generator)

    sums, same = batches([list(faces.split(parts)), list(weights.split(parts))])

    assert network.sizes[-1] == size
    assert not network.last[rows:].any()
    torch.testing.assert_close(sums, faces.float().sum(1) * weights[:, 0])
    assert torch.equal(same, faces)
    assert same.is_contiguous()


def test_outputs_survive_the_next_batch_and_buffers_are_cleared(network: Counted, batches: FixedBatches) -> None:
    full = torch.full((4, 3), 9, dtype=torch.uint8)
    first, _ = batches([[full], [torch.ones(4, 1)]])
    second, _ = batches([[full[:3] * 0 + 1], [torch.ones(3, 1)]])

    assert first.tolist() == [27, 27, 27, 27]
    assert second.tolist() == [3, 3, 3]
    assert network.last[3].tolist() == [0, 0, 0]


def test_a_failure_does_not_affect_the_next_batch() -> None:
    def picky(face: torch.Tensor) -> torch.Tensor:
        if bool((face == 255).any()):
            raise ValueError("a white crop")
        return face + 1

    batches = FixedBatches(picky, [([1], torch.uint8)], 2, CPU, pytest.fail)
    with pytest.raises(ValueError, match="a white crop"):
        batches([[torch.full((2, 1), 255, dtype=torch.uint8)]])
    (answer,) = batches([[torch.full((1, 1), 7, dtype=torch.uint8)]])
    assert answer.tolist() == [[8]]
    (answer,) = batches([[torch.full((2, 1), 7, dtype=torch.uint8)]])
    assert answer.tolist() == [[8], [8]]


def test_a_batch_that_is_too_large_is_rejected(batches: FixedBatches) -> None:
    with pytest.raises(ValueError, match="13 rows; the limit is 12"):
        batches([[torch.zeros((13, 3), dtype=torch.uint8)], [torch.zeros((13, 1))]])


@pytest.mark.parametrize(
    ("rows", "largest", "sizes"),
    [(1, 16, [1]), (16, 16, [16]), (17, 16, [9, 8]), (50, 16, [13, 13, 12, 12]), (50, math.inf, [50])],
)
def test_a_large_batch_is_split_into_similar_pieces(
    network: Counted, rows: int, largest: float, sizes: list[int]
) -> None:
    faces = torch.arange(rows * 3).reshape(rows, 3).to(torch.uint8)
    weights = torch.rand((rows, 1), generator=torch.Generator().manual_seed(rows))

    sums, same = in_pieces(network, [faces, weights], largest)

    assert network.sizes == sizes
    torch.testing.assert_close(sums, faces.float().sum(1) * weights[:, 0])
    assert torch.equal(same, faces)
