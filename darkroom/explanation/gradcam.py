"""Grad-CAM: which places of an image speak for a label, as a trained network sees it.

R. R. Selvaraju et al., "Grad-CAM: visual explanations from deep networks via gradient-based localization", 2017. There,
each feature map counts by the mean of its gradient. That is right where a network averages its maps, as most of
`keras.applications` do. A dense layer behind them weighs each place by itself, and the mean then points at places that
the network does not look at, or nowhere. So each place counts by its own gradient: R. L. Draelos and L. Carin, "Use
HiResCAM instead of Grad-CAM for faithful explanations of convolutional neural networks", 2020. Where maps are averaged,
the two are the same.

Dims: B images of a batch, H height, W width, C channels, h and w of the feature maps, D feature maps, K classes.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import keras
import matplotlib
import numpy as np
import numpy.typing as npt
from keras import layers
from PIL import Image
from scipy.special import softmax

from darkroom.explanation.gradients import find_gradients
from darkroom.pipeline.arrays import ClassIds, Pixels, Probabilities
from darkroom.pipeline.stage import StageError

# Fewer places on a side tell nothing of where in an image something is; small images have none later in a network.
LEAST_SIDE = 4
# The places before these are more, and tell the same.
COARSENING = (
    layers.MaxPooling2D,
    layers.AveragePooling2D,
    layers.Dropout,
    layers.SpatialDropout2D,
    layers.ZeroPadding2D,
)
CONVOLUTIONS = (layers.Conv2D, layers.DepthwiseConv2D, layers.SeparableConv2D)
SOFTMAX = keras.activations.softmax
COLORS = matplotlib.colormaps["turbo"]
STRONGEST_TINT = 0.65

Maps = npt.NDArray[np.float32]  # (B, h, w), 0 or more


class Explanation(NamedTuple):
    """What a network tells of a batch: probabilities (B, K), and how much each place speaks for the labels that it
    was asked about, (B, h, w), 0 or more."""

    probabilities: Probabilities
    maps: Maps


class Call(NamedTuple):
    """A layer of a network's graph at work."""

    layer: keras.layers.Layer
    inputs: Sequence[keras.KerasTensor]
    output: keras.KerasTensor


class GradCam:
    """A trained network cut in two at its last feature maps, which the layer of the name `layer` gives."""

    def __init__(self, model: keras.Model) -> None:
        """Cut a network from pixels (B, H, W, C) to probabilities (B, K), a flat or a nested one.

        Raises:
            StageError: it has no feature maps that all later layers hang on alone, or no softmax at its end.
        """
        pixels = keras.Input(model.input_shape[1:])
        calls = list_calls(model, pixels)
        chosen = choose_maps(calls)
        if chosen is None:
            raise StageError(f"Grad-CAM finds no feature maps in the network {model.name}, which has no convolution")
        self.layer = chosen.layer.name
        self.body = keras.Model(pixels, chosen.output)
        self.head = keras.Model(chosen.output, find_logits(calls[-1]))

    def explain(self, pixels: Pixels, class_ids: ClassIds | None = None) -> Explanation:
        """Say what speaks for a label in each image.

        Args:
            pixels: (B, H, W, C), 0 to 255.
            class_ids: the ID of the class that each image is asked about (B,); None asks about the likeliest.
        """
        features = np.asarray(self.body.predict_on_batch(pixels))
        if class_ids is None:
            class_ids = np.asarray(self.head.predict_on_batch(features)).argmax(axis=1)
        logits, gradients = find_gradients(self.head, features, weigh_logits(class_ids, self.head.output_shape[-1]))
        maps = np.maximum((gradients * features).sum(axis=-1), 0)
        return Explanation(softmax(logits.astype(np.float64), axis=1).astype(np.float32), maps.astype(np.float32))


def weigh_logits(class_ids: ClassIds, count: int) -> npt.NDArray[np.float32]:
    """What is differentiated: a label's logit, and of two labels what it is above the other's, (B, K).

    A sigmoid has one unit, whose positive values speak for the second label and its negative ones for the first.
    """
    weights = np.eye(count, dtype=np.float32)[class_ids]
    return 2 * weights - 1 if count == 2 else weights


def list_calls(model: keras.Model, pixels: keras.KerasTensor) -> list[Call]:
    """List the calls of a network's layers on `pixels`, those of nested models too, in the order of their work."""
    calls: list[Call] = []

    def call(layer: keras.layers.Layer, *args: Any, **kwargs: Any) -> Any:
        if isinstance(layer, keras.Model):
            run(layer, args[0])
            return calls[-1].output
        output = layer(*args, **kwargs)
        inputs = [value for value in keras.tree.flatten((args, kwargs)) if isinstance(value, keras.KerasTensor)]
        calls.append(Call(layer, inputs, output))
        return output

    def run(inner: keras.Model, given: Any) -> None:
        # A chain has a graph too, but only a model that was made of the graph tells of its calls.
        graph = keras.Model(inner.inputs, inner.outputs) if isinstance(inner, keras.Sequential) else inner
        given = keras.tree.pack_sequence_as(graph.input, keras.tree.flatten(given))
        keras.models.clone_model(graph, given, clone_function=lambda layer: layer, call_function=call)

    run(model, pixels)
    return calls


def choose_maps(calls: Sequence[Call]) -> Call | None:
    """Choose the call whose output is explained: of the last feature maps that are not too small, before they are
    pooled; None if there is none."""
    first = next((place for place, call in enumerate(calls) if isinstance(call.layer, CONVOLUTIONS)), len(calls))
    cuts = [call for call in find_cuts(calls)[first:] if call is not None]
    if not cuts:
        return None
    least = min(LEAST_SIDE, max(smallest_side(call) for call in cuts))
    place = max(place for place, call in enumerate(cuts) if smallest_side(call) >= least)
    while place and isinstance(cuts[place].layer, COARSENING) and cuts[place].inputs[0] is cuts[place - 1].output:
        place -= 1
    return cuts[place]


def smallest_side(call: Call) -> int:
    height, width = call.output.shape[1:3]
    return min(int(height), int(width))


def find_cuts(calls: Sequence[Call]) -> list[Call | None]:
    """Each call if it gives feature maps (B, h, w, D) that all later calls hang on alone, else None."""
    last_use = {id(tensor): place for place, call in enumerate(calls) for tensor in call.inputs}
    cuts: list[Call | None] = []
    latest = 0  # the last call that takes something from before this one
    for place, call in enumerate(calls):
        is_map = isinstance(call.output, keras.KerasTensor) and len(call.output.shape) == 4
        latest = max([latest, *(last_use[id(tensor)] for tensor in call.inputs)])
        cuts.append(call if is_map and latest <= place else None)
        latest = max(latest, last_use.get(id(call.output), 0))
    return cuts


def find_logits(last: Call) -> keras.KerasTensor:
    """What the softmax at the end of a network is taken of, (B, K).

    Raises:
        StageError: it ends otherwise.
    """
    layer = last.layer
    if isinstance(layer, layers.Softmax) or (isinstance(layer, layers.Activation) and layer.activation is SOFTMAX):
        return last.inputs[0]
    if isinstance(layer, layers.Dense) and layer.activation is SOFTMAX:
        linear = layers.Dense(layer.units, use_bias=layer.use_bias, name=f"{layer.name}_logits")
        logits = linear(last.inputs[0])
        linear.set_weights(layer.get_weights())
        return logits
    raise StageError(f"Grad-CAM needs a network that ends in a softmax, got one that ends in {layer.name}")


def lay_over(pixels: Pixels, weights: npt.NDArray[np.float32]) -> Pixels:
    """Lay a map over a picture: blue where little speaks for the label, red where most does, gray where nothing does.

    Args:
        pixels: (H, W, C).
        weights: (h, w), 0 or more.

    Returns:
        (H, W, 3).
    """
    height, width = pixels.shape[:2]
    gray = np.asarray(Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels).convert("L"))
    strength = spread(weights / (weights.max() or 1), height, width)[..., None]
    tint = STRONGEST_TINT * np.sqrt(strength)
    mixed = gray[..., None] * (1 - tint) + 255 * COLORS(strength[..., 0])[..., :3] * tint
    return np.rint(mixed).clip(0, 255).astype(np.uint8)


def spread(weights: npt.NDArray[np.float32], height: int, width: int) -> npt.NDArray[np.float32]:
    """Bring a map (h, w) to the size of its picture, (H, W), with values between its own."""
    image = Image.fromarray(weights.astype(np.float32)).resize((width, height), Image.Resampling.BILINEAR)
    return np.asarray(image)
