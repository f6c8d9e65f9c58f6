"""Normalization of pixels: fitted layers that are a network's first ones and are saved with it.

All of them come with Keras, so that a saved network loads without this code. They take pixels from 0 to 255, uint8 or
float, of shape (B, H, W, C), and compute in float32 whatever the precision of the rest.

Dims: B images of a batch, R rows, N pictures, H height, W width, C channels, D = H * W * C numbers of an image.
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
# Far below the variance of what can be seen in an image (a deviation of 1 in 255 is 1.5e-5), and so far above the
# rounding errors of a mean in float32 that a constant image gives nearly 0, and not those errors magnified.
SAMPLEWISE_EPSILON = 1e-8
# Those of keras.applications.imagenet_utils.preprocess_input, in the order red, green, blue.
TORCH_MEAN, TORCH_DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CAFFE_MEAN = (123.68, 116.779, 103.939)
BATCH_BYTES = 32 * 2**20
# Measured peaks of ZCA, in units of D * D float64 numbers: fitting takes 2.1, for the covariance, which LAPACK
# overwrites, and its eigenvectors; saving the network takes 2.7, for copies of the float32 matrix and of the file.
ZCA_MATRICES = 3
SHOWN_PERCENTILES = (0.5, 99.5)


class Preview(NamedTuple):
    """Normalized pictures as they can be shown: uint8 (N, H, W, C), in which 0 stands for `low` and 255 for `high`."""

    pixels: Pixels
    low: float
    high: float


def fit_normalization(
    name: Normalization,
    images: StoredImages,
    rows: RowNumbers,
    zca_epsilon: float,
    zca_maximum_megabytes: float,
    threads: int,
) -> list[keras.layers.Layer]:
    """Fit the layers of this name to `rows` of `images` and to nothing else.

    "rescale" to 0..1; "samplewise" to mean 0 and variance 1 of each image, over its pixels and channels; "featurewise"
    to mean 0 and variance 1 of each channel over all rows; "zca" whitens, see `fit_zca`; "imagenet_tf",
    "imagenet_torch" and "imagenet_caffe" are the modes of `keras.applications.imagenet_utils.preprocess_input`.

    Args:
        name: see above.
        images: the images.
        rows: (R,), their order is of no account.
        zca_epsilon: added to the eigenvalues, on the scale 0..1 of pixels; only for "zca".
        zca_maximum_megabytes: how much memory fitting may take; only for "zca".
        threads: processor threads, on whose number the last digits of "zca" depend.

    Raises:
        StageError: the images are gray for a name of ImageNet, or too large for "zca".
    """
    check_channels(name, images.image_shape[2])
    match name:
        case "rescale":
            return [layers.Rescaling(1 / WHITE, dtype="float32")]
        case "samplewise":
            return [layers.Rescaling(1 / WHITE, dtype="float32"), standardize_images()]
        case "featurewise":
            return [standardize_channels(*measure_channels(images, rows))]
        case "zca":
            refuse_large_images(images.image_shape, zca_maximum_megabytes)
            mean, whitening = fit_zca(images, rows, zca_epsilon, threads)
            return whiten(images.image_shape, mean, whitening)
        case "imagenet_tf":
            return [layers.Rescaling(2 / WHITE, -1, dtype="float32")]
        case "imagenet_torch":
            return [standardize_channels(np.array(TORCH_MEAN) * WHITE, (np.array(TORCH_DEVIATION) * WHITE) ** 2)]
        case "imagenet_caffe":
            return [reverse_channels(images.image_shape)]


def check_channels(name: Normalization, channels: int) -> None:
    """Refuse gray images for a normalization of ImageNet.

    Raises:
        StageError: see there.
    """
    if name.startswith("imagenet_") and channels != 3:
        raise StageError(
            f"train.normalization {name} needs images of 3 channels, red, green and blue, got {channels} channel; set "
            "augment.color to rgb, or train.normalization to rescale, samplewise or featurewise"
        )


def standardize_images() -> keras.layers.Layer:
    return layers.LayerNormalization(
        axis=[1, 2, 3], epsilon=SAMPLEWISE_EPSILON, center=False, scale=False, dtype="float32"
    )


def standardize_channels(mean: Floats, variance: Floats) -> keras.layers.Layer:
    """Make the layer to (pixel - mean) / sqrt(variance), both of shape (C,); a constant channel is divided by 255."""
    variance = np.where(variance > 0, variance, WHITE**2)
    return layers.Normalization(mean=mean.tolist(), variance=variance.tolist(), dtype="float32")


def reverse_channels(image_shape: tuple[int, int, int]) -> keras.layers.Layer:
    """Make the layer from red, green, blue to blue, green, red less their means over ImageNet."""
    layer = frozen_dense(3, name="blue_green_red")
    layer.build((None, *image_shape))
    layer.set_weights([np.eye(3)[::-1], -np.array(CAFFE_MEAN[::-1])])
    return layer


def whiten(
    image_shape: tuple[int, int, int], mean: Floats, whitening: npt.NDArray[np.float32]
) -> list[keras.layers.Layer]:
    """Make the layers to (pixels / 255 - mean) @ whitening, for a mean of shape (H, W, C) and a matrix (D, D)."""
    # As weights, the means are in the file as 4 bytes each; as arguments they would be text in its config.json.
    center = layers.Normalization(axis=(1, 2, 3), dtype="float32")
    center.build((None, *image_shape))
    center.set_weights([mean * WHITE, np.full(image_shape, WHITE**2), np.zeros(())])
    center.finalize_state()
    mix = frozen_dense(len(whitening), use_bias=False, name="zca")
    mix.build((None, len(whitening)))
    mix.set_weights([whitening])
    return [center, layers.Flatten(dtype="float32"), mix, layers.Reshape(image_shape, dtype="float32")]


def frozen_dense(units: int, use_bias: bool = True, name: str | None = None) -> keras.layers.Layer:
    # Zeros, unlike the default, take nothing from the random numbers that the network's own weights are drawn from.
    return layers.Dense(
        units, use_bias=use_bias, kernel_initializer="zeros", trainable=False, dtype="float32", name=name
    )


def take_batches(images: StoredImages, rows: RowNumbers) -> Iterator[Pixels]:
    """Read `rows` so many at a time that they take `BATCH_BYTES` as float64."""
    size = max(1, BATCH_BYTES // (8 * int(np.prod(images.image_shape))))
    parts = math.ceil(len(rows) / size)
    yield from tqdm(images.take_parts(rows, size), "train: normalization", parts, unit=" batches", disable=None)


def measure_channels(images: StoredImages, rows: RowNumbers) -> tuple[Floats, Floats]:
    """Measure mean and variance of the channels over the pixels of all rows, each of shape (C,), of values 0 to 255.

    The sums are integers, so that they are the same for any order of the rows and any size of the batches.
    """
    height, width, channels = images.image_shape
    totals, squares = np.zeros((2, channels), np.int64)
    for pixels in take_batches(images, rows):
        totals += pixels.sum(axis=0, dtype=np.int64).sum(axis=(0, 1))
        squares += np.square(pixels, dtype=np.uint16).sum(axis=0, dtype=np.int64).sum(axis=(0, 1))
    count = len(rows) * height * width
    # Python's integers: count * squares may be beyond 64 bits.
    spreads = [count * square - total**2 for total, square in zip(totals.tolist(), squares.tolist(), strict=True)]
    return totals / count, np.array([spread / count**2 for spread in spreads])


def fit_zca(
    images: StoredImages, rows: RowNumbers, epsilon: float, threads: int
) -> tuple[Floats, npt.NDArray[np.float32]]:
    """Fit ZCA whitening: U diag(1 / sqrt(L + epsilon)) U^T, for the covariance U diag(L) U^T of images on 0..1.

    A. J. Bell and T. J. Sejnowski, "The 'independent components' of natural scenes are edge filters", 1997; for whole
    images as in A. Krizhevsky, "Learning multiple layers of features from tiny images", 2009.

    Returns:
        the mean image, float64 (H, W, C), on 0..1; and the symmetric matrix, (D, D).
    """
    count = int(np.prod(images.image_shape))
    print(f"train: fitting zca to {len(rows)} images of {count} numbers each", flush=True)
    with threadpool_limits(threads):
        mean, covariance = measure_covariance(images, rows)
        eigenvalues, vectors = scipy.linalg.eigh(covariance, lower=True, overwrite_a=True, check_finite=False)
        del covariance
        vectors *= (np.maximum(eigenvalues, 0) + epsilon) ** -0.25  # its product with itself has the power -0.5
        whitening = np.empty(vectors.shape, np.float32)
        for start in range(0, len(vectors), 256):
            whitening[start : start + 256] = vectors[start : start + 256] @ vectors.T
    return mean.reshape(images.image_shape), whitening


def measure_covariance(images: StoredImages, rows: RowNumbers) -> tuple[Floats, Floats]:
    """Measure the mean, (D,), and the covariance, of which only the lower triangle is filled, (D, D), on 0..1."""
    dimension = int(np.prod(images.image_shape))
    totals = np.zeros(dimension)
    covariance = np.zeros((dimension, dimension), order="F")
    # Sums of products of bytes are whole numbers far below 2**53, so exact in any order and in any batches.
    for pixels in take_batches(images, rows):
        values = pixels.reshape(len(pixels), dimension).astype(np.float64)
        totals += values.sum(axis=0)
        covariance = blas.dsyrk(1, values.T, beta=1, c=covariance, lower=1, overwrite_c=1)
    covariance = blas.dsyr(-1 / len(rows), totals, a=covariance, lower=1, overwrite_a=1)
    covariance /= len(rows) * WHITE**2
    return totals / len(rows) / WHITE, covariance


def refuse_large_images(image_shape: tuple[int, int, int], maximum_megabytes: float) -> None:
    dimension = int(np.prod(image_shape))
    megabytes = dimension**2 * 8 * ZCA_MATRICES / 1e6
    if megabytes > maximum_megabytes:
        height, width, channels = image_shape
        raise StageError(
            f"train.normalization zca needs {dimension} x {dimension} numbers ({height} x {width} x {channels} "
            f"squared) x 8 bytes x {ZCA_MATRICES} = {megabytes:,.0f} MB, but train.zca.maximum_megabytes is "
            f"{maximum_megabytes:,.10g}; turn augment.image_size down or the limit up, or choose featurewise"
        )


def draw_normalized(normalization: Sequence[keras.layers.Layer], pictures: Pixels) -> Preview:
    """Show what is left of `pictures`, uint8 (N, H, W, C), after the layers.

    One straight line for all of them leads from the values to 0..255; what is beyond the percentiles 0.5 and 99.5 is
    cut off. Where all values are the same, the result is 0.
    """
    values = pictures
    for layer in normalization:
        values = layer(values)
    normalized = np.asarray(keras.ops.convert_to_numpy(values), np.float64)
    low, high = np.percentile(normalized, SHOWN_PERCENTILES)
    scaled = (normalized - low) / (high - low if high > low else 1) * WHITE
    return Preview(np.rint(np.clip(scaled, 0, WHITE)).astype(np.uint8), float(low), float(high))
