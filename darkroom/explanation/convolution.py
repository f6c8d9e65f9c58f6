"""Convolution and max pooling in plain NumPy: to show what they compute, and to test Keras's layers against.

Dims: B images, H height, W width, C channels, h and w height and width of a kernel, F filters, I and J height and width
of the output.
"""

import numpy as np
import numpy.typing as npt

from darkroom.params.section import Padding
from darkroom.pipeline.arrays import Floats

# The four kernels of `edge_kernels`, in order. A falling diagonal goes from top left to bottom right.
KERNEL_NAMES = ("vertical", "horizontal", "falling diagonal", "rising diagonal")


def convolve(images: Floats, kernels: Floats, biases: Floats | None, strides: int, padding: Padding) -> Floats:
    """Compute what `keras.layers.Conv2D` does: the weighted sum of the pixels under each kernel, at each position.

    As usual in deep learning the kernels are not flipped, so this is a cross-correlation.

    Args:
        images: shape (B, H, W, C), float32 or float64.
        kernels: shape (h, w, C, F).
        biases: shape (F,), added to the output of each filter; None adds nothing.
        strides: step of the kernels in pixels, in both directions.
        padding: "valid" keeps the kernels inside the image, I = (H - h) // strides + 1; "same" adds zeros around it,
            I = ceil(H / strides). If the number of zeros is odd, the right and the bottom get one more.

    Returns:
        shape (B, I, J, F), in the wider of the input types.

    Raises:
        ValueError: the shapes do not match, or `strides` is below 1.
    """
    if images.ndim != 4 or kernels.ndim != 4 or images.shape[3] != kernels.shape[2]:
        raise ValueError(
            f"got images of shape {images.shape} and kernels of shape {kernels.shape}, expected (B, H, W, C) and "
            "(h, w, C, F) with the same C; give the kernels as many channels as the images have"
        )
    if biases is not None and biases.shape != kernels.shape[3:]:
        raise ValueError(
            f"got biases of shape {biases.shape}, expected {kernels.shape[3:]}; give one for each filter, or None"
        )
    height, width, _, _ = kernels.shape
    windows = slide_window(images, (height, width), strides, padding, fill=0)
    convolved: Floats = np.tensordot(windows, kernels, axes=((3, 4, 5), (2, 0, 1)))  # (B, I, J, F)
    return convolved if biases is None else convolved + biases


def max_pool(images: Floats, pool_size: int, strides: int | None = None, padding: Padding = "valid") -> Floats:
    """Compute what `keras.layers.MaxPooling2D` does: the largest value of each square, in each channel.

    Args:
        images: shape (B, H, W, C), float32 or float64.
        pool_size: side of the squares in pixels.
        strides: step of the squares in pixels, in both directions; None is `pool_size`.
        padding: as in `convolve`, but with minus infinity instead of zeros.

    Returns:
        shape (B, I, J, C), in the type of the images.

    Raises:
        ValueError: `images` does not have four dimensions, `pool_size` or `strides` is below 1, or the square is larger
            than the image and the padding is "valid".
    """
    if images.ndim != 4:
        raise ValueError(f"got images of shape {images.shape}, expected (B, H, W, C); put a single image in a list")
    steps = pool_size if strides is None else strides
    windows = slide_window(images, (pool_size, pool_size), steps, padding, fill=-np.inf)
    pooled: Floats = windows.max(axis=(4, 5))
    return pooled


def slide_window(images: Floats, window: tuple[int, int], strides: int, padding: Padding, fill: float) -> Floats:
    """Return the pixels under a window of (h, w) pixels at each position, as a view of shape (B, I, J, C, h, w)."""
    if min(window) < 1 or strides < 1:
        raise ValueError(
            f"got a window of {window[0]} x {window[1]} pixels and strides of {strides}, expected at least 1 for each; "
            "give positive whole numbers"
        )
    sides = images.shape[1:3]
    if padding == "same":
        added = [pad_side(side, length, strides) for side, length in zip(sides, window, strict=True)]
        images = np.pad(images, ((0, 0), *added, (0, 0)), constant_values=fill)
    elif window[0] > sides[0] or window[1] > sides[1]:
        raise ValueError(
            f"got a window of {window[0]} x {window[1]} pixels for images of {sides[0]} x {sides[1]}, expected one "
            'that is no larger than the images; make it smaller, or use the padding "same"'
        )
    return np.lib.stride_tricks.sliding_window_view(images, window, axis=(1, 2))[:, ::strides, ::strides]


def pad_side(side: int, window: int, strides: int) -> tuple[int, int]:
    """Count the pixels that TensorFlow's "same" adds before and after a side, for ceil(side / strides) positions.

    https://www.tensorflow.org/api_docs/python/tf/nn, "Notes on padding".
    """
    positions = -(-side // strides)
    added = max((positions - 1) * strides + window - side, 0)
    return added // 2, added - added // 2


def edge_kernels(kernel_size: int) -> npt.NDArray[np.float32]:
    """Make kernels that respond to lines of one pixel and not to brightness: their weights sum to 0.

    A pixel on the line has the weight `kernel_size` - 1, any other -1. The 3 x 3 kernels are the line detectors of
    R. C. Gonzalez and R. E. Woods, "Digital Image Processing", chapter "Image segmentation". If `kernel_size` is even,
    the vertical line is left of the middle and the horizontal one above it, so that with the padding "same" the
    strongest response is on the line itself.

    Args:
        kernel_size: side of the kernels in pixels, at least 2.

    Returns:
        shape (h, w, 4), whole numbers, in the order of `KERNEL_NAMES`.

    Raises:
        ValueError: `kernel_size` is below 2.
    """
    if kernel_size < 2:
        raise ValueError(f"got a kernel_size of {kernel_size}, expected at least 2; a single pixel shows no line")
    falling = np.eye(kernel_size, dtype=np.float32)
    vertical = np.zeros_like(falling)
    vertical[:, (kernel_size - 1) // 2] = 1
    # One pixel of each row, or of each column, lies on the line.
    lines = np.stack([vertical, vertical.T, falling, falling[:, ::-1]], axis=2)
    return kernel_size * lines - np.float32(1)
