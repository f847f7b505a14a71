"""How a face lies in its crop: the part of the contract that training decides and serving follows."""

import numpy as np

CROP_SIZE = (48, 48)
"""(height, width) in pixels."""

TEMPLATE = np.array([[14.48, 18.64], [32.52, 18.64], [23.50, 28.86], [16.11, 37.55], [30.89, 37.55]]) / 48
"""Eyes, nose, mouth corners as fractions of the crop: their median place in FER2013's images, made symmetric."""
