import numpy as np
import torch
from PIL import Image
from skimage import data

from service.vision.face_pipeline import FacePipeline
from training.augmentation import augment
from training.bundle.faces import load_faces
from training.crop_spec import MARGIN
from training.preparation.cropping import crop_images
from training.settings.augmentation import Augmentation

NOTHING = Augmentation(
    rotation=0, scale=0, shift=0, flip=False, brightness=0, contrast=0, gamma=0, blur=0, noise=0, erase=0
)
CPU = torch.device("cpu")


def prepare(tmp_path):
    """Prepare one face in a photo that is wider than high, framed as loosely as those of FER+."""
    photo = Image.fromarray(data.astronaut()[30:170, 130:320]).resize((152, 112))
    photo.save(tmp_path / "face.png")
    assert FacePipeline().find_faces(np.asarray(photo))
    return crop_images(
        [tmp_path / "face.png"], tmp_path / "parts", title="test", workers=1, unaligned=True, wide=True
    )


def test_crops_made_on_the_device_are_the_prepared_ones(tmp_path):
    crops = prepare(tmp_path)
    within = np.array([[[1, 0, -MARGIN], [0, 1, -MARGIN]]], np.float32)
    rows = torch.arange(1)
    framed = load_faces(crops.unaligned[:, 0], crops.matrices, 64, CPU)
    wide = load_faces(crops.wide, within, 64, CPU)
    prepared = crops.pixels[0, 0].astype(np.float32)
    assert np.abs(wide.crops(rows)[0, 0].numpy() - prepared).mean() < 2
    middle = framed.crops(rows, unaligned=True)[0, 0].numpy()
    assert np.abs(middle - crops.unaligned[0, 0]).max() < 0.01
    # The framed face has fewer pixels than the photo, so its crop is less sharp than the prepared one.
    aligned = framed.crops(rows)[0, 0].numpy()
    assert np.corrcoef(aligned.ravel(), prepared.ravel())[0, 1] > 0.97
    assert np.corrcoef(np.roll(aligned, 1, 1).ravel(), prepared.ravel())[0, 1] < 0.95
    for faces in (framed, wide):
        unchanged = faces.augmented(rows, NOTHING, 0.0)
        assert torch.allclose(unchanged, faces.crops(rows), atol=0.01)


def test_an_augmented_crop_is_an_augmented_prepared_crop(tmp_path):
    crops = prepare(tmp_path)
    within = np.array([[[1, 0, -MARGIN], [0, 1, -MARGIN]]], np.float32)
    faces = load_faces(crops.wide, within, 64, CPU)
    turned = Augmentation(**{**NOTHING.__dict__, "rotation": 20, "scale": 0.1, "flip": True})
    at_once = augment(faces.images, turned, torch.Generator().manual_seed(4), faces.placements)[0, 0]
    twice = augment(torch.from_numpy(crops.pixels), turned, torch.Generator().manual_seed(4))[0, 0]
    inside = (slice(12, 36), slice(12, 36))  # at the edges the prepared crop has no pixels to turn in
    assert np.corrcoef(at_once[inside].ravel(), twice[inside].ravel())[0, 1] > 0.98
