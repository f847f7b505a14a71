"""Size of a crop and position of the face in it. The export writes both into the model's configuration."""

import numpy as np

CROP_SIZE = (48, 48)
"""(height, width) of a crop in pixels."""

TEMPLATE = np.array([[14.48, 18.64], [32.52, 18.64], [23.50, 28.86], [16.11, 37.55], [30.89, 37.55]]) / 48
"""Eyes, nose and mouth corners, (x, y) as fractions of the crop: their median position in the images of FER2013,
made symmetric."""

BOX_TEMPLATE = np.array([4.58, 1.00, 43.59, 47.48]) / 48
"""Left, top, right and bottom of the detector's box in the images of FER2013, as fractions of their sides: its
median size and position. Crops that are cut by it are framed as FER2013 framed its images."""

MARGIN = 8
"""Pixels that a wide crop has around the crop, so that turned and shifted crops can be cut out of it."""
