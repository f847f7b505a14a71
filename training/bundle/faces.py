"""The faces of a bundle on the device: pixels once, and for each face where its crop lies in them."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from training.augmentation import augment, cut_crops
from training.crop_spec import CROP_SIZE
from training.networks.inference import EVALUATION_BATCH_SIZE
from training.settings.augmentation import Augmentation

SIDE = CROP_SIZE[0]


@dataclass(frozen=True, eq=False)
class Faces:
    """Faces in images of one size.

    Attributes:
        images: Gray values, uint8 [n, 1, S, S].
        placements: What ``affine_grid`` needs to cut the aligned crop out of each image, [n, 2, 3].
        middle: The same for the middle of an image, [2, 3]: for FER+ the face as FER+ frames it.
    """

    images: Tensor
    placements: Tensor
    middle: Tensor

    def __len__(self) -> int:
        return len(self.images)

    def augmented(self, rows: Tensor, augmentation: Augmentation, unaligned_prob: float) -> Tensor:
        """Align, augment and crop the faces of some rows [N] in one resampling, float [N, 1, H, W] in 0..255."""
        placements = self.placements[rows]
        if unaligned_prob:
            unaligned = torch.rand(len(rows), device=rows.device) < unaligned_prob
            placements = torch.where(unaligned[:, None, None], self.middle, placements)
        with torch.autocast(rows.device.type, enabled=False):  # bfloat16 would move crops by a tenth of a pixel
            return augment(self.images[rows], augmentation, None, placements)

    def crops(self, rows: Tensor, *, unaligned: bool = False) -> Tensor:
        """Cut out the crops of some rows [N], float [N, 1, H, W] in 0..255."""
        placements = self.middle.expand(len(rows), 2, 3) if unaligned else self.placements[rows]
        return cut_crops(self.images[rows], placements)


def load_faces(images: NDArray[np.uint8], matrices: NDArray[np.float32], side: int, device: torch.device) -> Faces:
    """Put faces onto a device.

    Args:
        images: Gray values [n, S, S].
        matrices: The transform from pixels of each image to those of its crop, [n, 2, 3].
        side: Size of an image on the device, at least S; borders are repeated.
        device: Where to put them.
    """
    border = (side - images.shape[1]) // 2
    padded = np.pad(images, ((0, 0), (border, border), (border, border)), "edge")
    whole = np.tile(np.eye(3), (len(matrices), 1, 1))
    whole[:, :2] = matrices
    from_crop: NDArray[np.float64] = np.linalg.inv(whole)[:, :2].astype(
        np.float64
    )  # pixels of the crop -> pixels of the image
    from_crop[:, :, 2] += border
    middle = np.eye(2, 3)
    middle[:, 2] = (side - SIDE) / 2
    return Faces(
        torch.from_numpy(padded[:, None]).to(device),
        torch.from_numpy(_placements(from_crop, side)).to(device),
        torch.from_numpy(_placements(middle[None], side)[0]).to(device),
    )


def join_faces(first: Faces, second: Faces) -> Faces:
    """Put the rows of the second faces, in images of the same size, behind those of the first."""
    return Faces(
        torch.cat([first.images, second.images]),
        torch.cat([first.placements, second.placements]),
        first.middle,
    )


@torch.no_grad()
def predict_faces(
    network: torch.nn.Module, faces: Faces, *, unaligned: bool = False, mirror: bool = True
) -> Tensor:
    """Return the probabilities, float32 [n, 8], of all faces; ``mirror`` averages them with the mirror images'."""
    device = faces.images.device
    answers = []
    for rows in torch.split(torch.arange(len(faces), device=device), EVALUATION_BATCH_SIZE):
        crops = faces.crops(rows, unaligned=unaligned)
        with mixed_precision(device):
            views = (crops, crops.flip(3)) if mirror else (crops,)
            answers.append(torch.stack([network(each).float().softmax(dim=1) for each in views]).mean(dim=0))
    return torch.cat(answers)


def mixed_precision(device: torch.device) -> Any:
    """Return the context for forward passes: bfloat16 on a GPU, where it is fast, and nothing on a CPU."""
    # A CUDA graph must not reuse weights that were cast before it was captured.
    return torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda", cache_enabled=False)


def _placements(from_crop: NDArray[np.float64], side: int) -> NDArray[np.float32]:
    """Turn transforms [n, 2, 3] from pixels of the crop to pixels of the image into those of ``affine_grid``.

    It counts from -1 at the outer edge of the first pixel to 1 at that of the last: x = (u + 1) * n / 2 - 1 / 2.
    """
    linear, offset = from_crop[:, :, :2], from_crop[:, :, 2]
    center = linear @ np.full(2, (SIDE - 1) / 2) + offset  # where the middle of the crop is, in pixels
    placed: NDArray[np.float64] = np.concatenate(
        [linear * SIDE / side, ((2 * center + 1) / side - 1)[:, :, None]], axis=2
    )
    return placed.astype(np.float32)
