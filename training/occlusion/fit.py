"""Fit how ONet's features tell that an eye or the mouth of a face is hidden: a linear classifier of 1,153 numbers.

Half of the samples are faces with something drawn over an eye or the mouth. The others are faces as they are, or
with something drawn that hides neither. YuNet finds the face in each, and ONet sees it, as in the service.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import onnx
import torch
from numpy.random import Generator
from numpy.typing import NDArray
from torch.nn.functional import binary_cross_entropy_with_logits
from tqdm import tqdm

from service.errors import TandemError
from service.vision.alignment import similarity_transform
from service.vision.decoding import decode_photo
from service.vision.face_pipeline import FacePipeline
from service.vision.onet import TEMPLATE, crop_for_onet, to_input
from service.vision.onnx import open_session
from service.vision.weights import ONET, read_weights
from service.vision.weights.download import FEATURES
from service.vision.yunet import YuNet
from training.occlusion.drawing import Image, Painter
from training.occlusion.kinds import HARMLESS, HIDING
from training.preparation.cropping import MAX_PIXELS
from training.protocols.linear import fit_linear
from training.settings.occlusion import OcclusionSettings
from training.tables import Table, percent

MIN_SIDE, SIDE = 144, 320
"""Smaller photos are enlarged to the first, for what is drawn to have edges; photos are searched at the second."""

MIN_HIDDEN, MAX_HIDDEN = 0.6, 0.15
"""From this share of an eye or the mouth on a face counts as hidden, and up to the other as not hidden."""

TESTED = 7
"""Each of so many photos is only tested on."""

PENALTY = 0.003
"""Of the squared weights of standardized features."""

STEPS = 200

BATCH = 256


@dataclass(frozen=True, eq=False)
class Portrait:
    """An RGB image and the landmarks of the face in its middle, [5, 2] in pixels."""

    image: Image
    landmarks: NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Samples:
    """Features [n, 1152], whether each face is hidden, what was drawn, and the index of its photo, [n]."""

    features: NDArray[np.float32]
    hidden: NDArray[np.bool_]
    kinds: NDArray[np.str_]
    photos: NDArray[np.int64]

    def take(self, chosen: NDArray[np.bool_]) -> "Samples":
        """Return some of them."""
        return Samples(self.features[chosen], self.hidden[chosen], self.kinds[chosen], self.photos[chosen])


def fit_occlusion(settings: OcclusionSettings) -> None:
    """Fit the classifier, print how well it does on other photos, and write it."""
    portraits = read_portraits(sorted(path for path in settings.photos.rglob("*") if path.is_file()))
    if not portraits:
        raise ValueError(f"photos is {settings.photos}; no face was found in it")
    samples = draw_samples(portraits, settings.samples, np.random.default_rng(settings.seed))
    is_tested = samples.photos % TESTED == 0
    fitted, tested = samples.take(~is_tested), samples.take(is_tested)
    numbers = fit(fitted)
    # Some people wear sunglasses or hold a hand before the mouth.
    doubted = fitted.photos[(fitted.kinds == "nothing") & (score(fitted.features, numbers) > 0)]
    numbers = fit(fitted.take(~np.isin(fitted.photos, doubted)))
    table(tested, score(tested.features, numbers)).print()
    settings.out.parent.mkdir(parents=True, exist_ok=True)
    np.save(settings.out, numbers)


def read_portraits(paths: Sequence[Path]) -> list[Portrait]:
    """Read the photos in which a face is found."""
    pipeline, portraits = FacePipeline(), []
    for path in tqdm(paths, desc="faces", unit=" photos"):
        try:
            image = decode_photo(path.read_bytes(), max_pixels=MAX_PIXELS)
        except TandemError:
            continue
        middle = np.array(image.shape[1::-1]) / 2
        faces = sorted(
            pipeline.find_faces(image), key=lambda face: np.hypot(*(face.landmarks.mean(axis=0) - middle))
        )
        if faces:
            scale = max(1.0, MIN_SIDE / max(image.shape[:2]))
            enlarged = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC)
            portraits.append(
                Portrait(np.asarray(enlarged, np.uint8), faces[0].landmarks.astype(np.float64) * scale)
            )
    return portraits


def draw_samples(portraits: Sequence[Portrait], count: int, rng: Generator) -> Samples:
    """Draw over faces, and let ONet see them."""
    model = onnx.load_from_string(read_weights(ONET))
    model.graph.output.append(onnx.helper.make_tensor_value_info(FEATURES, onnx.TensorProto.FLOAT, None))
    session, yunet = open_session(model.SerializeToString()), YuNet()
    painter = Painter(rng, [portrait.image[: portrait.image.shape[0] // 4] for portrait in portraits[:1000]])
    features: list[NDArray[np.float32]] = []
    crops: list[Image] = []
    hidden: list[bool] = []
    kinds: list[str] = []
    photos: list[int] = []
    with tqdm(total=count, desc="samples", unit=" faces") as progress:
        while len(hidden) < count:
            index, is_hidden = int(rng.integers(len(portraits))), rng.random() < 0.5
            choices = HIDING if is_hidden else HARMLESS
            kind = rng.choice([*choices], p=[each.share for each in choices.values()])
            portrait = portraits[index]
            image, share = painter.draw(portrait.image, portrait.landmarks, choices[kind])
            if share < MIN_HIDDEN if is_hidden else share > MAX_HIDDEN and kind != "glasses":
                continue
            crop = _seen(yunet, *_degraded(image, portrait.landmarks, rng))
            if crop is None:
                continue
            crops.append(crop)
            hidden.append(is_hidden)
            kinds.append(kind)
            photos.append(index)
            progress.update()
            if len(crops) == BATCH or len(hidden) == count:
                features += session.run([FEATURES], {"input_3": to_input(crops)})
                crops = []
    return Samples(np.concatenate(features), np.array(hidden), np.array(kinds), np.array(photos))


def _degraded(image: Image, landmarks: NDArray[np.float64], rng: Generator) -> tuple[Image, NDArray[np.float64]]:
    """Mirror, reduce, blur, darken and compress at random, as photos are."""
    height, width = image.shape[:2]
    if rng.random() < 0.5:
        image, landmarks = np.ascontiguousarray(image[:, ::-1]), landmarks * (-1, 1) + (width - 1, 0)
    if rng.random() < 0.5:
        scale = rng.uniform(0.35, 1)
        size = max(40, round(width * scale)), max(40, round(height * scale))
        image = np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)
        landmarks = landmarks * (size[0] / width)
    if rng.random() < 0.2:
        image = np.asarray(cv2.GaussianBlur(image, (0, 0), rng.uniform(0.005, 0.02) * image.shape[1]), np.uint8)
    if rng.random() < 0.35:
        image = (image * rng.uniform(0.3, 1.25)).clip(0, 255).astype(np.uint8)
    if rng.random() < 0.25:
        image = np.repeat(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)[..., None], 3, axis=2)
    if rng.random() < 0.3:
        jpeg = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(30, 95))])[1]
        image = np.asarray(cv2.imdecode(jpeg, cv2.IMREAD_COLOR), np.uint8)
    return image, landmarks


def _seen(yunet: YuNet, image: Image, landmarks: NDArray[np.float64]) -> Image | None:
    """Return what ONet sees of a face, or None if YuNet does not find it."""
    found = yunet.detect(image, long_side=SIDE, threshold=0.3)
    offsets = np.linalg.norm(found.landmarks.mean(axis=1) - landmarks.mean(axis=0), axis=1)
    near = np.flatnonzero(offsets < np.ptp(landmarks[:, 1]))
    if not len(near):
        return None
    return crop_for_onet(image, similarity_transform(found.landmarks[near[0]], TEMPLATE))  # ordered by score


def fit(samples: Samples) -> NDArray[np.float32]:
    """Fit a logistic regression; returns the weights of the features and, last, the constant, [1153]."""
    features, hidden = torch.from_numpy(samples.features), torch.from_numpy(samples.hidden).float()
    mean, deviation = features.mean(dim=0), features.std(dim=0) + 1e-3
    inputs = (features - mean) / deviation
    layer = fit_linear(
        inputs,
        1,
        lambda odds: binary_cross_entropy_with_logits(odds[:, 0], hidden),
        penalty=PENALTY,
        steps=STEPS,
    )
    with torch.no_grad():
        scaled = layer.weight[0] / deviation
        return torch.cat([scaled, layer.bias - scaled @ mean]).numpy()


def score(features: NDArray[np.float32], numbers: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the log odds that each face is hidden, [n]."""
    odds: NDArray[np.float32] = features @ numbers[:-1] + numbers[-1]
    return odds


def table(samples: Samples, scores: NDArray[np.float32]) -> Table:
    """Tabulate how many of each kind are called hidden."""
    limits = [float(np.quantile(scores[samples.kinds == "nothing"], 1 - share)) for share in (0.05, 0.03, 0.02)]
    rows = tuple(
        (
            kind,
            f"{(samples.kinds == kind).sum():,}",
            *(percent(float((scores[samples.kinds == kind] > limit).mean())) for limit in (0.0, *limits)),
        )
        for kind in (*HIDING, *HARMLESS)
        if (samples.kinds == kind).any()
    )
    return Table(
        "What is called hidden, % of faces",
        ("what is drawn", "faces", "above 0", *(f"above {limit:.2f}" for limit in limits)),
        rows,
        "Photos that were not fitted on. 5, 3 and 2 % of the faces as they are pass the other limits.",
    )
