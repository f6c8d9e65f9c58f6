"""Normalization of pixels: fitted layers that become the first layers of a network and are saved with it.

All of them are standard Keras layers, so a saved network loads without this code. They take pixels from 0 to 255, uint8
or float, of shape (B, H, W, C), and compute in float32 in every precision.

Dims: B images of a batch, R row numbers, N images, H height, W width, C channels, D = H * W * C values of an image.
"""

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import keras
import numpy as np
import numpy.typing as npt
import scipy.linalg
from keras import layers
from scipy.linalg import blas
from threadpoolctl import threadpool_limits
from tqdm import tqdm

from darkroom.params.train import Normalization
from darkroom.pipeline.arrays import Pixels, RowNumbers
from darkroom.pipeline.dataset import StoredImages
from darkroom.pipeline.stage import StageError

Floats = npt.NDArray[np.float64]

WHITE = 255
# Far below the variance of any visible contrast (a deviation of 1 in 255 is 1.5e-5), and far enough above the rounding
# errors of a float32 mean that a constant image gives nearly 0 instead of amplified errors.
SAMPLEWISE_EPSILON = 1e-8
# From keras.applications.imagenet_utils.preprocess_input, in the order red, green, blue.
TORCH_MEAN, TORCH_DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CAFFE_MEAN = (123.68, 116.779, 103.939)
BATCH_BYTES = 32 * 2**20
# Measured peak memory of ZCA, in D * D float64 matrices: 2.1 to fit (the covariance, which LAPACK overwrites, and its
# eigenvectors), 2.7 to save the network (copies of the float32 matrix and of the file).
ZCA_MATRICES = 3
PREVIEW_PERCENTILES = (0.5, 99.5)


class Preview(NamedTuple):
    """Normalized images scaled for display: uint8 (N, H, W, C), where 0 is the value `low` and 255 is `high`."""

    pixels: Pixels
    low: float
    high: float


def fit_normalization(
    name: Normalization,
    images: StoredImages,
    row_numbers: RowNumbers,
    zca_epsilon: float,
    zca_maximum_megabytes: float,
    threads: int,
) -> list[keras.layers.Layer]:
    """Fit the layers of a normalization to the images of `row_numbers`, and to no others.

    "rescale" scales to 0..1. "samplewise" gives each image mean 0 and variance 1 over its pixels and channels.
    "featurewise" gives each channel mean 0 and variance 1 over all fitted images. "zca" whitens, see `fit_zca`.
    "imagenet_tf", "imagenet_torch" and "imagenet_caffe" are the modes of
    `keras.applications.imagenet_utils.preprocess_input`.

    Args:
        name: see above.
        images: all stored images.
        row_numbers: of the images to fit to, (R,), in any order.
        zca_epsilon: added to the eigenvalues, for pixels on the scale 0..1; only for "zca".
        zca_maximum_megabytes: memory limit for fitting; only for "zca".
        threads: CPU threads; their number affects the last digits of "zca".

    Raises:
        StageError: the images are gray for an ImageNet normalization, or too large for "zca".
    """
    check_channels(name, images.image_shape[2])
    match name:
        case "rescale":
            return [layers.Rescaling(1 / WHITE, dtype="float32")]
        case "samplewise":
            return [layers.Rescaling(1 / WHITE, dtype="float32"), standardize_images()]
        case "featurewise":
            return [standardize_channels(*measure_channels(images, row_numbers))]
        case "zca":
            check_zca_memory(images.image_shape, zca_maximum_megabytes)
            mean, whitening = fit_zca(images, row_numbers, zca_epsilon, threads)
            return whiten(images.image_shape, mean, whitening)
        case "imagenet_tf":
            return [layers.Rescaling(2 / WHITE, -1, dtype="float32")]
        case "imagenet_torch":
            return [standardize_channels(np.array(TORCH_MEAN) * WHITE, (np.array(TORCH_DEVIATION) * WHITE) ** 2)]
        case "imagenet_caffe":
            return [reverse_channels(images.image_shape)]


def check_channels(name: Normalization, channels: int) -> None:
    """Check that images for an ImageNet normalization have 3 channels.

    Raises:
        StageError: they have not.
    """
    if name.startswith("imagenet_") and channels != 3:
        raise StageError(
            f"train.normalization: {name} requires RGB images (3 channels), got {channels} channel(s); set "
            "augment.color to rgb, or train.normalization to rescale, samplewise or featurewise"
        )


def standardize_images() -> keras.layers.Layer:
    return layers.LayerNormalization(
        axis=[1, 2, 3], epsilon=SAMPLEWISE_EPSILON, center=False, scale=False, dtype="float32"
    )


def standardize_channels(mean: Floats, variance: Floats) -> keras.layers.Layer:
    """Make the layer for (pixel - mean) / sqrt(variance), both of shape (C,); a constant channel is divided by 255."""
    variance = np.where(variance > 0, variance, WHITE**2)
    return layers.Normalization(mean=mean.tolist(), variance=variance.tolist(), dtype="float32")


def reverse_channels(image_shape: tuple[int, int, int]) -> keras.layers.Layer:
    """Make the layer that converts RGB to BGR and subtracts the channel means of ImageNet."""
    layer = frozen_dense(3, name="blue_green_red")
    layer.build((None, *image_shape))
    layer.set_weights([np.eye(3)[::-1], -np.array(CAFFE_MEAN[::-1])])
    return layer


def whiten(
    image_shape: tuple[int, int, int], mean: Floats, whitening: npt.NDArray[np.float32]
) -> list[keras.layers.Layer]:
    """Make the layers for (pixels / 255 - mean) @ whitening, with a mean of shape (H, W, C) and a matrix (D, D)."""
    # As weights, the means take 4 bytes each in the file; as arguments they would be text in its config.json.
    center = layers.Normalization(axis=(1, 2, 3), dtype="float32")
    center.build((None, *image_shape))
    center.set_weights([mean * WHITE, np.full(image_shape, WHITE**2), np.zeros(())])
    center.finalize_state()
    mix = frozen_dense(len(whitening), use_bias=False, name="zca")
    mix.build((None, len(whitening)))
    mix.set_weights([whitening])
    return [center, layers.Flatten(dtype="float32"), mix, layers.Reshape(image_shape, dtype="float32")]


def frozen_dense(units: int, use_bias: bool = True, name: str | None = None) -> keras.layers.Layer:
    # Unlike the default, zeros consume no random numbers, so the network's own initial weights stay the same.
    return layers.Dense(
        units, use_bias=use_bias, kernel_initializer="zeros", trainable=False, dtype="float32", name=name
    )


def take_batches(images: StoredImages, row_numbers: RowNumbers) -> Iterator[Pixels]:
    """Read the images in batches that take `BATCH_BYTES` as float64."""
    size = max(1, BATCH_BYTES // (8 * int(np.prod(images.image_shape))))
    parts = math.ceil(len(row_numbers) / size)
    yield from tqdm(images.take_parts(row_numbers, size), "train: normalization", parts, unit=" batches", disable=None)


def measure_channels(images: StoredImages, row_numbers: RowNumbers) -> tuple[Floats, Floats]:
    """Measure the mean and variance of each channel over the pixels of all given images, (C,) each, on 0 to 255.

    The sums are integers, so they do not depend on the order of the images or the size of the batches.
    """
    height, width, channels = images.image_shape
    totals, squares = np.zeros((2, channels), np.int64)
    for pixels in take_batches(images, row_numbers):
        totals += pixels.sum(axis=0, dtype=np.int64).sum(axis=(0, 1))
        squares += np.square(pixels, dtype=np.uint16).sum(axis=0, dtype=np.int64).sum(axis=(0, 1))
    count = len(row_numbers) * height * width
    # Python integers: count * squares may exceed 64 bits.
    spreads = [count * square - total**2 for total, square in zip(totals.tolist(), squares.tolist(), strict=True)]
    return totals / count, np.array([spread / count**2 for spread in spreads])


def fit_zca(
    images: StoredImages, row_numbers: RowNumbers, epsilon: float, threads: int
) -> tuple[Floats, npt.NDArray[np.float32]]:
    """Fit ZCA whitening: U diag(1 / sqrt(L + epsilon)) U^T, for the covariance U diag(L) U^T of images on 0..1.

    A. J. Bell and T. J. Sejnowski, "The 'independent components' of natural scenes are edge filters", 1997; for whole
    images as in A. Krizhevsky, "Learning multiple layers of features from tiny images", 2009.

    Returns:
        the mean image, float64 (H, W, C), on 0..1; and the symmetric matrix, (D, D).
    """
    count = int(np.prod(images.image_shape))
    print(f"train: fitting ZCA to {len(row_numbers)} images of {count} values each", flush=True)
    with threadpool_limits(threads):
        mean, covariance = measure_covariance(images, row_numbers)
        eigenvalues, vectors = scipy.linalg.eigh(covariance, lower=True, overwrite_a=True, check_finite=False)
        del covariance
        vectors *= (np.maximum(eigenvalues, 0) + epsilon) ** -0.25  # its product with itself has the exponent -0.5
        whitening = np.empty(vectors.shape, np.float32)
        for start in range(0, len(vectors), 256):
            whitening[start : start + 256] = vectors[start : start + 256] @ vectors.T
    return mean.reshape(images.image_shape), whitening


def measure_covariance(images: StoredImages, row_numbers: RowNumbers) -> tuple[Floats, Floats]:
    """Measure the mean, (D,), and the covariance, (D, D) with only the lower triangle filled, on 0..1."""
    dimension = int(np.prod(images.image_shape))
    totals = np.zeros(dimension)
    covariance = np.zeros((dimension, dimension), order="F")
    # Sums of products of bytes are integers far below 2**53, so they are exact for any order and batch size.
    for pixels in take_batches(images, row_numbers):
        values = pixels.reshape(len(pixels), dimension).astype(np.float64)
        totals += values.sum(axis=0)
        covariance = blas.dsyrk(1, values.T, beta=1, c=covariance, lower=1, overwrite_c=1)
    covariance = blas.dsyr(-1 / len(row_numbers), totals, a=covariance, lower=1, overwrite_a=1)
    covariance /= len(row_numbers) * WHITE**2
    return totals / len(row_numbers) / WHITE, covariance


def check_zca_memory(image_shape: tuple[int, int, int], maximum_megabytes: float) -> None:
    dimension = int(np.prod(image_shape))
    megabytes = dimension**2 * 8 * ZCA_MATRICES / 1e6
    if megabytes > maximum_megabytes:
        height, width, channels = image_shape
        raise StageError(
            f"train.normalization: zca needs {dimension} x {dimension} numbers ({height} x {width} x {channels} "
            f"squared) x 8 bytes x {ZCA_MATRICES} = {megabytes:,.0f} MB, but train.zca.maximum_megabytes is "
            f"{maximum_megabytes:,.10g}; reduce augment.image_size, raise the limit, or use featurewise"
        )


def normalize_for_preview(normalization: Sequence[keras.layers.Layer], images: Pixels) -> Preview:
    """Normalize `images`, uint8 (N, H, W, C), and scale the result to 0..255 for display.

    The scale is linear and common to all images; values beyond the percentiles 0.5 and 99.5 are clipped. If all values
    are equal, the result is 0.
    """
    values = images
    for layer in normalization:
        values = layer(values)
    normalized = np.asarray(keras.ops.convert_to_numpy(values), np.float64)
    low, high = np.percentile(normalized, PREVIEW_PERCENTILES)
    scaled = (normalized - low) / (high - low if high > low else 1) * WHITE
    return Preview(np.rint(np.clip(scaled, 0, WHITE)).astype(np.uint8), float(low), float(high))
