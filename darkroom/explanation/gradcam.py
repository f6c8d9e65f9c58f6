"""Grad-CAM: which regions of an image are evidence for a class, according to a trained network.

R. R. Selvaraju et al., "Grad-CAM: visual explanations from deep networks via gradient-based localization", 2017. In
that paper, each feature map is weighted by the mean of its gradient. This is correct for a network that averages its
maps, as most of `keras.applications` do. A dense layer after them weights each position separately, and the mean then
highlights positions that the network does not use, or none. We therefore weight each position by its own gradient:
R. L. Draelos and L. Carin, "Use HiResCAM instead of Grad-CAM for faithful explanations of convolutional neural
networks", 2020. If the maps are averaged, both give the same result.

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

# Smaller maps do not locate anything in an image. Of small images, the last layers of a network have smaller maps.
LEAST_SIDE = 4
# The maps before these layers hold the same information at a finer resolution.
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
    """The predictions for a batch: probabilities (B, K), and the evidence for one class of each image at each position,
    (B, h, w), 0 or more."""

    probabilities: Probabilities
    maps: Maps


class Call(NamedTuple):
    """A call of a layer in a network's graph."""

    layer: keras.layers.Layer
    inputs: Sequence[keras.KerasTensor]
    output: keras.KerasTensor


class GradCam:
    """A trained network, split at its last feature maps: the output of the layer named `layer`."""

    def __init__(self, model: keras.Model) -> None:
        """Split a network from pixels (B, H, W, C) to probabilities (B, K), flat or nested.

        Raises:
            StageError: no feature maps are the only input of all later layers, or the network does not end in a
                softmax.
        """
        pixels = keras.Input(model.input_shape[1:])
        calls = list_calls(model, pixels)
        chosen = choose_maps(calls)
        if chosen is None:
            raise StageError(f"Grad-CAM finds no feature maps in the network {model.name}: it has no convolution")
        self.layer = chosen.layer.name
        self.body = keras.Model(pixels, chosen.output)
        self.head = keras.Model(chosen.output, find_logits(calls[-1]))

    def explain(self, pixels: Pixels, class_ids: ClassIds | None = None) -> Explanation:
        """Compute the evidence for a class in each image.

        Args:
            pixels: (B, H, W, C), 0 to 255.
            class_ids: the class to explain in each image (B,); None explains the predicted class.
        """
        features = np.asarray(self.body.predict_on_batch(pixels))
        if class_ids is None:
            class_ids = np.asarray(self.head.predict_on_batch(features)).argmax(axis=1)
        logits, gradients = find_gradients(self.head, features, weight_logits(class_ids, self.head.output_shape[-1]))
        maps = np.maximum((gradients * features).sum(axis=-1), 0)
        return Explanation(softmax(logits.astype(np.float64), axis=1).astype(np.float32), maps.astype(np.float32))


def weight_logits(class_ids: ClassIds, count: int) -> npt.NDArray[np.float32]:
    """The weights of the logits in the sum that is differentiated, (B, K): the class's own logit; of two classes, minus
    the other one's.

    A sigmoid has one unit, whose positive values are evidence for the second class and negative ones for the first.
    """
    weights = np.eye(count, dtype=np.float32)[class_ids]
    return 2 * weights - 1 if count == 2 else weights


def list_calls(model: keras.Model, pixels: keras.KerasTensor) -> list[Call]:
    """List the calls of a network's layers on `pixels`, including those of nested models, in execution order."""
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
        # A Sequential model has a graph too, but only a functional model of that graph can be cloned call by call.
        graph = keras.Model(inner.inputs, inner.outputs) if isinstance(inner, keras.Sequential) else inner
        given = keras.tree.pack_sequence_as(graph.input, keras.tree.flatten(given))
        keras.models.clone_model(graph, given, clone_function=lambda layer: layer, call_function=call)

    run(model, pixels)
    return calls


def choose_maps(calls: Sequence[Call]) -> Call | None:
    """Choose the call whose output is explained: the last feature maps that are large enough, before they are pooled;
    None if there are none."""
    first = next((index for index, call in enumerate(calls) if isinstance(call.layer, CONVOLUTIONS)), len(calls))
    cuts = [call for call in find_cuts(calls)[first:] if call is not None]
    if not cuts:
        return None
    least = min(LEAST_SIDE, max(smallest_side(call) for call in cuts))
    index = max(index for index, call in enumerate(cuts) if smallest_side(call) >= least)
    while index and isinstance(cuts[index].layer, COARSENING) and cuts[index].inputs[0] is cuts[index - 1].output:
        index -= 1
    return cuts[index]


def smallest_side(call: Call) -> int:
    height, width = call.output.shape[1:3]
    return min(int(height), int(width))


def find_cuts(calls: Sequence[Call]) -> list[Call | None]:
    """List the calls where the network can be split, with None for all others: those whose output is feature maps
    (B, h, w, D) and the only input of all later calls."""
    last_use = {id(tensor): index for index, call in enumerate(calls) for tensor in call.inputs}
    cuts: list[Call | None] = []
    latest = 0  # the last call that uses an output from before this one
    for index, call in enumerate(calls):
        is_map = isinstance(call.output, keras.KerasTensor) and len(call.output.shape) == 4
        latest = max([latest, *(last_use[id(tensor)] for tensor in call.inputs)])
        cuts.append(call if is_map and latest <= index else None)
        latest = max(latest, last_use.get(id(call.output), 0))
    return cuts


def find_logits(last: Call) -> keras.KerasTensor:
    """The inputs of the softmax at the end of a network, (B, K).

    Raises:
        StageError: the network does not end in a softmax.
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
    """Overlay an image with a map: red for the strongest evidence, blue for weak evidence, gray for none.

    Args:
        pixels: (H, W, C).
        weights: (h, w), 0 or more.

    Returns:
        (H, W, 3).
    """
    height, width = pixels.shape[:2]
    gray = np.asarray(Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels).convert("L"))
    strength = resize_map(weights / (weights.max() or 1), height, width)[..., None]
    tint = STRONGEST_TINT * np.sqrt(strength)
    mixed = gray[..., None] * (1 - tint) + 255 * COLORS(strength[..., 0])[..., :3] * tint
    return np.rint(mixed).clip(0, 255).astype(np.uint8)


def resize_map(weights: npt.NDArray[np.float32], height: int, width: int) -> npt.NDArray[np.float32]:
    """Resize a map (h, w) to the size of its image, (H, W), by bilinear interpolation."""
    image = Image.fromarray(weights.astype(np.float32)).resize((width, height), Image.Resampling.BILINEAR)
    return np.asarray(image)
