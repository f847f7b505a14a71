"""Size and color of a crop and position of the face in it: what export writes into the model's configuration."""

import numpy as np

CropShape = tuple[int, int, int]
"""(channels, height, width) of a crop: 1 channel is gray, 3 are RGB."""

CROP_SIZE = (48, 48)
"""(height, width) of a crop in pixels, unless `training prepare` is told otherwise."""

CROP_SHAPE: CropShape = (1, *CROP_SIZE)


def describe_crop(shape: CropShape) -> str:
    """Describe a crop in a few words: gray 48x48."""
    channels, height, width = shape
    return f"{'gray' if channels == 1 else 'RGB'} {width}x{height}"


TEMPLATE = np.array([[14.48, 18.64], [32.52, 18.64], [23.50, 28.86], [16.11, 37.55], [30.89, 37.55]]) / 48
"""Eyes, nose and mouth corners, (x, y) as fractions of the crop: their median position in the images of FER2013,
made symmetric."""

BOX_TEMPLATE = np.array([4.58, 1.00, 43.59, 47.48]) / 48
"""Left, top, right and bottom of the detector's box in the images of FER2013, as fractions of their sides: its
median size and position. Crops that are cut by it are framed as FER2013 framed its images."""

MARGIN = 8
"""Pixels that a wide crop has around the crop, so that turned and shifted crops can be cut out of it."""
