"""Array types that modules exchange. Dims: N images, H height, W width, C channels, K classes."""

from typing import Any

import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[np.uint8]  # (H, W, C) or (N, H, W, C), 0 to 255
RowNumbers = npt.NDArray[np.int64]  # (N,), indices into images.npy
ClassIds = npt.NDArray[np.int64]  # (N,), 0 to K - 1
Probabilities = npt.NDArray[np.float32]  # (N, K), 0 to 1, rows sum to 1
Indices = npt.NDArray[np.int64]  # (N,), indices into a list of photos
Correct = npt.NDArray[np.bool_]  # (N,), which photos are classified correctly
Floats = npt.NDArray[np.floating[Any]]  # float32 or float64, of any range
