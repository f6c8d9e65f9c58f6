"""Contact-sheet rows of kernels, feature maps and pooled maps: of hand-crafted line detectors and of a trained CNN.

Dims: H height, W width, C channels, h and w of a kernel or a feature map, F filters.
"""

from collections.abc import Sequence
from typing import NamedTuple

import keras
import numpy as np
from keras import layers

from darkroom.contact_sheet import SheetRow
from darkroom.explanation.convolution import KERNEL_NAMES, convolve, edge_kernels, max_pool
from darkroom.explanation.gradcam import Call, list_calls
from darkroom.params.section import Padding
from darkroom.pipeline.arrays import Floats, Pixels

SHOWN_FILTERS = 8
POOLINGS = (layers.MaxPooling2D, layers.AveragePooling2D)
# Layers between a convolution and its pooling that keep the filters.
ELEMENTWISE = (layers.BatchNormalization, layers.Activation, layers.ReLU)
# ITU-R 601-2, as in Pillow.
LUMA = (0.299, 0.587, 0.114)


class FirstLayers(NamedTuple):
    """The first convolution of a network and its first pooling, if there is one.

    Fields:
        name: name of the convolution.
        kernels: (h, w, C, F).
        maps: model from pixels to the convolution's feature maps, after its activation.
        pooling: name of the pooling; "" if there is none.
        pooled: model from pixels to the pooled maps.
        is_pooled_directly: whether the pooled maps are those of this convolution's filters.
    """

    name: str
    kernels: Floats
    maps: keras.Model
    pooling: str
    pooled: keras.Model | None
    is_pooled_directly: bool


def show_set_kernels(
    photos: Sequence[Pixels], names: Sequence[str], kernel_size: int, strides: int, padding: Padding, pool_size: int
) -> list[SheetRow]:
    """Show the hand-crafted kernels of `edge_kernels`, and their maps of the photos (H, W, C) in gray, in plain NumPy.

    Raises:
        ValueError: a photo is smaller than a kernel or a pool.
    """
    kernels = edge_kernels(kernel_size)
    rows = [SheetRow("Hand-crafted kernels that detect lines", show_kernels(kernels[:, :, None]), KERNEL_NAMES)]
    captions = list(KERNEL_NAMES)
    for pixels, name in zip(photos, names, strict=True):
        gray = pixels.astype(np.float64) @ np.array(LUMA if pixels.shape[2] == 3 else [1.0]) / 255
        maps = np.maximum(convolve(gray[None, ..., None], kernels[:, :, None], None, strides, padding), 0)
        rows.append(show_maps(f"{name}: feature maps", maps[0], captions))
        if pool_size > 1:
            title = f"{name}: feature maps after {pool_size} x {pool_size} max pooling"
            rows.append(show_maps(title, max_pool(maps, pool_size)[0], captions))
    return rows


def show_trained_kernels(model: keras.Model, photos: Sequence[Pixels], names: Sequence[str]) -> list[SheetRow]:
    """Show the kernels of a network's first convolution, and its maps and pooled maps of photos (H, W, C)."""
    first = find_first_layers(model)
    if first is None:
        return []
    maps_of_photos = [predict_maps(first.maps, pixels) for pixels in photos]
    filters = first.kernels.shape[3]
    chosen = choose_filters(maps_of_photos)
    captions = [f"{index + 1}" for index in chosen]
    which = f"the {len(chosen)} of {filters} whose maps vary most" if len(chosen) < filters else f"all {filters}"
    rows = [SheetRow(f"Trained kernels of {first.name}, {which}", show_kernels(first.kernels[..., chosen]), captions)]
    for pixels, name, maps in zip(photos, names, maps_of_photos, strict=True):
        rows.append(show_maps(f"{name}: feature maps of {first.name}", maps[..., chosen], captions))
        if first.pooled is not None:
            pooled = predict_maps(first.pooled, pixels)
            shown = chosen if first.is_pooled_directly else choose_filters([pooled])
            numbers = [f"{index + 1}" for index in shown]
            rows.append(show_maps(f"{name}: feature maps after {first.pooling}", pooled[..., shown], numbers))
    return rows


def choose_filters(maps_of_photos: Sequence[Floats]) -> list[int]:
    """Choose the filters whose maps (h, w, F) vary most, in their order: many others are black on most photos."""
    variation = np.mean([maps.std(axis=(0, 1)) for maps in maps_of_photos], axis=0)
    return sorted(int(index) for index in np.argsort(-variation, kind="stable")[:SHOWN_FILTERS])


def find_first_layers(model: keras.Model) -> FirstLayers | None:
    """Find the first convolution of a network and its first pooling; None if there is no convolution."""
    pixels = keras.Input(model.input_shape[1:])
    calls = list_calls(model, pixels)
    start = next((index for index, call in enumerate(calls) if isinstance(call.layer, layers.Conv2D)), None)
    if start is None:
        return None
    first = calls[start]
    pooling = next((call for call in calls[start:] if isinstance(call.layer, POOLINGS)), None)
    maps = find_activation(calls, start).output
    return FirstLayers(
        first.layer.name,
        first.layer.get_weights()[0],
        keras.Model(pixels, maps),
        pooling.layer.name if pooling else "",
        keras.Model(pixels, pooling.output) if pooling else None,
        pooling is not None and pooling.inputs[0] is maps,
    )


def find_activation(calls: Sequence[Call], index: int) -> Call:
    """Skip the elementwise layers directly after a convolution, and return the last of them, or the convolution."""
    for call in calls[index + 1 :]:
        if not isinstance(call.layer, ELEMENTWISE) or call.inputs[0] is not calls[index].output:
            break
        index += 1
    return calls[index]


def predict_maps(model: keras.Model, pixels: Pixels) -> Floats:
    maps: Floats = np.asarray(model.predict_on_batch(pixels[None])[0], np.float64)
    return maps


def show_maps(title: str, maps: Floats, captions: Sequence[str]) -> SheetRow:
    """Show maps (h, w, F), each scaled from black for its minimum to white for its maximum.

    A constant map is white if it is above 0, else black.
    """
    least, largest = maps.min(axis=(0, 1)), maps.max(axis=(0, 1))
    least = np.where(largest > least, least, np.minimum(least, 0))
    scaled = (maps - least) / np.where(largest > least, largest - least, 1)
    return SheetRow(title, [to_pixels(scaled[..., index, None]) for index in range(maps.shape[2])], captions)


def show_kernels(kernels: Floats) -> list[Pixels]:
    """Show kernels (h, w, C, F): gray is 0, white the strongest weight; in color if there are three channels."""
    if kernels.shape[2] not in (1, 3):
        kernels = kernels.mean(axis=2, keepdims=True)
    strongest = np.abs(kernels).max(axis=(0, 1, 2))
    scaled = 0.5 + kernels / np.where(strongest > 0, strongest, 1) / 2
    return [to_pixels(scaled[..., index]) for index in range(kernels.shape[3])]


def to_pixels(values: Floats) -> Pixels:
    return np.rint(255 * values).clip(0, 255).astype(np.uint8)
