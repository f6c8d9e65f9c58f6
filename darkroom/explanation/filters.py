"""Pictures of what a CNN does to a photo: kernels, feature maps and pooled maps, set by hand and trained.

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
# What stands between a convolution and its pooling, and shows the same filters.
FOLLOWING = (layers.BatchNormalization, layers.Activation, layers.ReLU)
# ITU-R 601-2, as Pillow has it.
LUMA = (0.299, 0.587, 0.114)


class FirstLayers(NamedTuple):
    """The first convolution of a network and its first pooling, if it has one.

    Fields:
        name: of the convolution.
        kernels: (h, w, C, F).
        maps: from pixels to what comes out of it, behind its activation.
        pooling: the name of the pooling; "" for none.
        pooled: from pixels to what comes out of that.
        is_pooled_directly: whether its maps are those of the convolution's own filters.
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
    """Show kernels that are set by hand, and what they make of the gray photos (H, W, C), in plain NumPy.

    Raises:
        ValueError: a photo is smaller than a kernel or a pool.
    """
    kernels = edge_kernels(kernel_size)
    rows = [SheetRow("Kernels set by hand, which answer to lines", show_kernels(kernels[:, :, None]), KERNEL_NAMES)]
    captions = list(KERNEL_NAMES)
    for pixels, name in zip(photos, names, strict=True):
        gray = pixels.astype(np.float64) @ np.array(LUMA if pixels.shape[2] == 3 else [1.0]) / 255
        maps = np.maximum(convolve(gray[None, ..., None], kernels[:, :, None], None, strides, padding), 0)
        rows.append(show_maps(f"{name}: what they answer", maps[0], captions))
        if pool_size > 1:
            title = f"{name}: the largest answer of each {pool_size} x {pool_size} square"
            rows.append(show_maps(title, max_pool(maps, pool_size)[0], captions))
    return rows


def show_trained_kernels(model: keras.Model, photos: Sequence[Pixels], names: Sequence[str]) -> list[SheetRow]:
    """Show the kernels of a network's first convolution, and what it and the first pooling make of photos (H, W, C)."""
    first = find_first_layers(model)
    if first is None:
        return []
    answers = [ask(first.maps, pixels) for pixels in photos]
    filters = first.kernels.shape[3]
    chosen = choose_filters(answers)
    captions = [f"{place + 1}" for place in chosen]
    which = (
        f"{len(chosen)} of {filters}, those that tell places apart most" if len(chosen) < filters else f"all {filters}"
    )
    rows = [SheetRow(f"Trained kernels of {first.name}, {which}", show_kernels(first.kernels[..., chosen]), captions)]
    for pixels, name, maps in zip(photos, names, answers, strict=True):
        rows.append(show_maps(f"{name}: feature maps of {first.name}", maps[..., chosen], captions))
        if first.pooled is not None:
            pooled = ask(first.pooled, pixels)
            kept = chosen if first.is_pooled_directly else choose_filters([pooled])
            numbers = [f"{place + 1}" for place in kept]
            rows.append(show_maps(f"{name}: maps behind the pooling {first.pooling}", pooled[..., kept], numbers))
    return rows


def choose_filters(answers: Sequence[Floats]) -> list[int]:
    """Choose the filters whose maps (h, w, F) vary most, in their order: many others are black on most photos."""
    spread = np.mean([maps.std(axis=(0, 1)) for maps in answers], axis=0)
    return sorted(int(place) for place in np.argsort(-spread, kind="stable")[:SHOWN_FILTERS])


def find_first_layers(model: keras.Model) -> FirstLayers | None:
    """Find the first convolution of a network and its first pooling; None without a convolution."""
    pixels = keras.Input(model.input_shape[1:])
    calls = list_calls(model, pixels)
    places = [place for place, call in enumerate(calls) if isinstance(call.layer, layers.Conv2D)]
    if not places:
        return None
    first = calls[places[0]]
    pooling = next((call for call in calls[places[0] :] if isinstance(call.layer, POOLINGS)), None)
    maps = follow(calls, places[0]).output
    return FirstLayers(
        first.layer.name,
        first.layer.get_weights()[0],
        keras.Model(pixels, maps),
        pooling.layer.name if pooling else "",
        keras.Model(pixels, pooling.output) if pooling else None,
        pooling is not None and pooling.inputs[0] is maps,
    )


def follow(calls: Sequence[Call], place: int) -> Call:
    """The last of the calls that come right behind one and show the same filters."""
    for call in calls[place + 1 :]:
        if not isinstance(call.layer, FOLLOWING) or call.inputs[0] is not calls[place].output:
            break
        place += 1
    return calls[place]


def ask(model: keras.Model, pixels: Pixels) -> Floats:
    maps: Floats = np.asarray(model.predict_on_batch(pixels[None])[0], np.float64)
    return maps


def show_maps(title: str, maps: Floats, captions: Sequence[str]) -> SheetRow:
    """Show maps (h, w, F), each from its least value in black to its largest in white; one that is the same everywhere
    in white where it is above 0."""
    least, largest = maps.min(axis=(0, 1)), maps.max(axis=(0, 1))
    least = np.where(largest > least, least, np.minimum(least, 0))
    scaled = (maps - least) / np.where(largest > least, largest - least, 1)
    return SheetRow(title, [to_picture(scaled[..., place, None]) for place in range(maps.shape[2])], captions)


def show_kernels(kernels: Floats) -> list[Pixels]:
    """Show kernels (h, w, C, F): gray is 0, white the strongest weight; in color where there are three channels."""
    if kernels.shape[2] not in (1, 3):
        kernels = kernels.mean(axis=2, keepdims=True)
    strongest = np.abs(kernels).max(axis=(0, 1, 2))
    scaled = 0.5 + kernels / np.where(strongest > 0, strongest, 1) / 2
    return [to_picture(scaled[..., place]) for place in range(kernels.shape[3])]


def to_picture(values: Floats) -> Pixels:
    return np.rint(255 * values).clip(0, 255).astype(np.uint8)
