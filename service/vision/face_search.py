"""Search a photo for faces of any size, light and turn, and find each face once.

The policy:

1. **Scales.** A photo above 1 Mpx is searched at a longer side of 1280, where a face of 20 pixels in 12 Mpx is
   still seen, and at 320, where a face that fills the frame is seen whole; that costs 6 % more. A smaller photo is
   searched at 640. It is searched at 320 as well, for a quarter more, only if nothing sure was found at 640 or if
   a box there is a large part of the photo. A photo below 320 is enlarged until a face is found. An image without
   bright pixels is brightened before any search. If all else finds nothing, it is searched at 640 turned by 30
   degrees both ways; then a photo up to 1 Mpx is searched sharpened, and then at 960; every detection there is a
   hint. In a thumbnail, a hint that fills it is an uncertain face.
2. **Boxes of several scales** are merged by score and containment (``candidates.best_boxes``).
3. **Evidence.** A detection counts by what both networks say about it (``Candidates.evidence``). From ``SURE`` on
   it is a face in the position in which it was read. Other detections are doubtful; a few weak ones are hints.
4. **A second look** enlarges the surroundings of each doubtful detection and hint: closely and with level eyes,
   which suits faces that are small, blurred, dark or without hair and background; and less closely in four turns
   at the same scale. Each is read in the position with the most evidence, so a face whose surroundings read
   clearly better when turned is turned by itself. A doubtful detection is dropped if its looks contradict it
   (``candidates.are_contradicted``); a hint is a face only if a look supports it (``Candidates.support``).
5. **The photo's turn.** The whole photo is searched again in every turn in which a second look found a face. If no
   face is sure and none is turned, all four turns are compared at 320 by the sum over their faces, and the photo
   is searched again in the best. Of several readings of one face, the one with the most evidence stays. So a photo
   on its side, a photo upside down and a sheet of photos in all directions are the same case. If nobody is upright
   for sure but others are turned, what looks like an upright face must be sure, too.
"""

import cv2
import numpy as np

from service.vision.alignment import invert_transform, tilt_transform, warp
from service.vision.candidates import Candidates, best_boxes, with_landmarks
from service.vision.decoding import Pixels
from service.vision.light import sharpen
from service.vision.onet import ONet
from service.vision.second_look import MIN_GAIN, MIN_SCORE, EndStage, SecondLook, choose_hints
from service.vision.yunet import Detections, YuNet

LARGE_PHOTO_AREA = 1_000_000
"""Larger photos, in pixels, are searched at ``LARGE_SIDE``, because a face may be a small part of them."""

LARGE_SIDE = 1280
MEDIUM_SIDE = 640
FINE_SIDE = 960
"""For a small face in a small photo, if nothing else was found."""

SMALL_SIDE = 320
"""For a face that fills the frame, and for choosing the turn of a photo."""

ENLARGEMENTS = (4, 5, 6, 3, 2)
"""Factors by which to enlarge a photo smaller than ``SMALL_SIDE``, in this order, until a face is found."""

LARGE_SHARE = 0.4
"""A box with a larger share of the photo's longer side may be a part of a face."""

CONFIDENT_SCORE = 0.9
"""If no score at ``MEDIUM_SIDE`` is higher, the photo is searched at ``SMALL_SIDE``, too."""

SURE = 1.05
"""Evidence from which a detection is an upright face; most upright faces of more than 20 pixels have it."""

CLEAR = 0.8
"""Evidence from which a small photo needs no other enlargement, small faces of a crowd no second look, and what is
found in a photo that was turned is a face."""

HINT_SCORE = 0.3
"""Weaker detections down to this score are hints."""

PHOTO_SCORE, MIN_PHOTO_GAIN = 0.75, 0.1
"""In another turn of the photo, what scores exceed ``PHOTO_SCORE`` by must sum to this much more than as it is."""

THUMBNAIL_SIDE, THUMBNAIL_SHARE = 100, 0.7
"""In a photo of at most so many pixels, a hint with this share of its longer side is an uncertain face."""

SHARPENED_DETAILS = 80
"""How many details a blurred photo has along its longer side; smaller ones are sharpened."""

MAX_DOUBTFUL = 12
"""How many detections are looked at again, the largest first."""

TILTS = (30, -30)
"""Degrees by which a photo is turned if nothing is found in it; faces score highest up to 15 degrees."""


class FaceSearch:
    """Searches photos; see the module. Thread-safe, so one instance can be shared."""

    def __init__(self, yunet: YuNet, onet: ONet) -> None:
        self._yunet = yunet
        self._onet = onet
        self._second_look = SecondLook(yunet, onet)

    def search(self, pixels: Pixels, threshold: float, end_stage: EndStage) -> Candidates:
        """Find the faces of an upright RGB image [H, W, 3] with at least ``threshold`` as their score, 0..1."""
        floor = min(threshold, MIN_SCORE)
        sure, again, turns = self._search_as_is(pixels, floor, end_stage)
        if not turns and not len(sure):
            turns = self._turn_of_photo(pixels, floor, end_stage)
        firsts, seconds = [sure], [again]
        for turn in sorted(turns):
            rotated = np.ascontiguousarray(np.rot90(pixels, turn))
            sure, again, _ = self._search_as_is(rotated, floor, end_stage)
            firsts.append(sure.turned_back(turn, (rotated.shape[0], rotated.shape[1])))
            seconds.append(again.turned_back(turn, (rotated.shape[0], rotated.shape[1])))
        if not len(firsts[0]) and any(map(len, firsts)):  # others are turned for sure, and nobody is upright
            seconds[0] = seconds[0].take(seconds[0].evidence >= SURE)
        if not any(map(len, firsts + seconds)):
            seconds = [self._search_tilted(pixels, floor, end_stage)]
        if not any(map(len, firsts + seconds)):
            seconds = [self._search_finer(pixels, floor, end_stage)]
        first, second = Candidates.join(firsts), Candidates.join(seconds)
        faces = Candidates.join([first, second])
        # Where a first look is as good, its landmarks are from the photo as it is, not from an enlargement.
        faces = faces.take(best_boxes(faces.boxes, np.concatenate([first.evidence + MIN_GAIN, second.evidence])))
        return faces.take(faces.scores >= threshold)

    def _search_as_is(
        self, pixels: Pixels, floor: float, end_stage: EndStage
    ) -> tuple[Candidates, Candidates, set[int]]:
        """Find the faces of a photo that is mostly upright.

        Returns:
            The sure faces, those of a second look, and the turns in which others are.
        """
        seen, hints = self._search_scales(pixels, floor, end_stage)
        is_sure = seen.evidence >= SURE
        doubtful = seen.take(~is_sure).by_size()
        others = doubtful.take(slice(MAX_DOUBTFUL, None))
        doubtful = doubtful.take(slice(MAX_DOUBTFUL))
        again, turns = self._second_look.look(pixels, doubtful, choose_hints(hints), floor, end_stage)
        again = Candidates.join([again, others.take(others.evidence >= CLEAR)])
        return seen.take(is_sure), again, turns

    def _search_tilted(self, pixels: Pixels, floor: float, end_stage: EndStage) -> Candidates:
        """Search a photo in which nothing was found at an angle; what is found must be clear."""
        if max(pixels.shape[:2]) <= SMALL_SIDE:
            return Candidates.none()
        found = []
        for tilt in TILTS:
            matrix, shape = tilt_transform(pixels.shape[:2], tilt, MEDIUM_SIDE)
            tilted = warp(pixels, matrix, shape)
            detections = self._yunet.detect(tilted, long_side=max(shape), threshold=max(floor, MIN_SCORE))
            end_stage("detect")
            seen = with_landmarks(self._onet, tilted, detections)
            end_stage("landmarks")
            found.append(seen.take(seen.evidence >= CLEAR).moved(invert_transform(matrix)))
        faces = Candidates.join(found)
        return faces.take(best_boxes(faces.boxes, faces.evidence))

    def _search_finer(self, pixels: Pixels, floor: float, end_stage: EndStage) -> Candidates:
        """Search a photo in which nothing was found at ``FINE_SIDE``; everything there is only a hint."""
        height, width = pixels.shape[:2]
        long_side = max(height, width)
        if height * width > LARGE_PHOTO_AREA:
            return Candidates.none()
        if long_side <= THUMBNAIL_SIDE:
            return self._search_thumbnail(pixels, floor, end_stage)
        faces = self._search_sharpened(pixels, floor, end_stage)
        if len(faces):
            return faces
        side = FINE_SIDE if long_side > SMALL_SIDE else SMALL_SIDE
        hints = self._yunet.detect(pixels, long_side=side, threshold=HINT_SCORE)
        end_stage("detect")
        faces, _ = self._second_look.look(pixels, Candidates.none(), choose_hints(hints), floor, end_stage)
        return faces

    def _search_sharpened(self, pixels: Pixels, floor: float, end_stage: EndStage) -> Candidates:
        """Sharpen a blurred photo, and take what is found there for hints."""
        sharp = sharpen(pixels, max(pixels.shape[:2]) / SHARPENED_DETAILS)
        hints = self._yunet.detect(sharp, long_side=MEDIUM_SIDE, threshold=HINT_SCORE)
        end_stage("detect")
        faces, _ = self._second_look.look(sharp, Candidates.none(), choose_hints(hints), floor, end_stage)
        return faces

    def _search_thumbnail(self, pixels: Pixels, floor: float, end_stage: EndStage) -> Candidates:
        """Take the best hint that fills a tiny photo for an uncertain face: nothing else is sent so small."""
        long_side = max(pixels.shape[:2])
        scales = [
            self._yunet.detect(pixels, long_side=long_side * factor, threshold=HINT_SCORE)
            for factor in ENLARGEMENTS
        ]
        end_stage("detect")
        hints = Detections.join(scales)
        hints = hints.take(hints.boxes[:, 2:].max(axis=1) >= THUMBNAIL_SHARE * long_side)
        best = hints.take(np.argsort(-hints.scores)[:1])
        best.scores[:] = floor
        faces = with_landmarks(self._onet, pixels, best)
        end_stage("landmarks")
        return faces

    def _search_scales(self, pixels: Pixels, floor: float, end_stage: EndStage) -> tuple[Candidates, Detections]:
        """Search the photo as it is.

        Returns:
            Detections of at least ``floor``, with ONet's landmarks; and weaker ones.
        """
        height, width = pixels.shape[:2]
        long_side = max(height, width)
        if long_side <= SMALL_SIDE:
            return self._search_enlarged(pixels, floor, end_stage)
        is_large = height * width > LARGE_PHOTO_AREA
        weakest = min(floor, HINT_SCORE)
        scales = [
            self._yunet.detect(
                pixels, long_side=LARGE_SIDE if is_large else min(long_side, MEDIUM_SIDE), threshold=weakest
            )
        ]
        strong = scales[0].scores >= floor
        if (
            is_large
            or scales[0].best_score < CONFIDENT_SCORE
            or scales[0].boxes[strong, 2:].max() > LARGE_SHARE * long_side
        ):
            scales.append(self._yunet.detect(pixels, long_side=SMALL_SIDE, threshold=weakest))
        merged = Detections.join(scales)
        if len(scales) > 1:
            merged = merged.take(best_boxes(merged.boxes, merged.scores))
        end_stage("detect")
        strong = merged.scores >= floor
        seen = with_landmarks(self._onet, pixels, merged.take(strong))
        end_stage("landmarks")
        return seen, merged.take(~strong)

    def _search_enlarged(self, pixels: Pixels, floor: float, end_stage: EndStage) -> tuple[Candidates, Detections]:
        """Enlarge a small photo until a face is found: much depends on how the missing detail is filled in."""
        long_side = max(pixels.shape[:2])
        best, hints = Candidates.none(), Detections.none()
        for factor in ENLARGEMENTS:
            side = min(SMALL_SIDE, long_side * factor)
            detections = self._yunet.detect(pixels, long_side=side, threshold=min(floor, HINT_SCORE))
            end_stage("detect")
            strong = detections.scores >= floor
            seen = with_landmarks(self._onet, pixels, detections.take(strong))
            end_stage("landmarks")
            if not len(hints):
                hints = detections.take(~strong)
            if (seen.evidence >= CLEAR).any():
                return seen, hints
            if not len(best):
                best = seen
        return best, hints

    def _turn_of_photo(self, pixels: Pixels, floor: float, end_stage: EndStage) -> set[int]:
        """Compare the photo's four turns at ``SMALL_SIDE``; return the best one if it is better than none."""
        scale = min(1.0, SMALL_SIDE / max(pixels.shape[:2]))
        shape = max(1, round(pixels.shape[1] * scale)), max(1, round(pixels.shape[0] * scale))
        small = np.asarray(cv2.resize(pixels, shape, interpolation=cv2.INTER_AREA), np.uint8)
        sums = []
        for turns in range(4):
            turned = np.ascontiguousarray(np.rot90(small, turns))
            found = self._yunet.detect(turned, long_side=SMALL_SIDE, threshold=floor)
            sums.append(float((found.scores - PHOTO_SCORE).clip(0).sum()))
        end_stage("detect")
        best = int(np.argmax(sums))
        return {best} if sums[best] > sums[0] + MIN_PHOTO_GAIN else set()
