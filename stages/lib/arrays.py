"""The arrays that travel between modules. Dims: N images, H height, W width, C channels, K classes."""

import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[np.uint8]  # (H, W, C) or (N, H, W, C), 0 to 255
RowNumbers = npt.NDArray[np.int64]  # (N,), into images.npy
ClassNumbers = npt.NDArray[np.int64]  # (N,), 0 to K - 1
Probabilities = npt.NDArray[np.float32]  # (N, K), 0 to 1, rows sum to 1
