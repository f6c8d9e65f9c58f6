"""The output of a network: a probability for each class."""

import keras
from keras import layers

from darkroom.params.train import Output
from darkroom.pipeline.stage import StageError

# These layers compute in float32 in every precision: probabilities near 0 and 1 need its digits.
OUTPUT_LAYERS = ("unit", "zero", "zero_and_unit", "probabilities")


def check_output_classes(output: Output, classes: int) -> None:
    """Check that a sigmoid output has exactly two classes.

    Raises:
        StageError: it has not.
    """
    if output == "sigmoid" and classes != 2:
        raise StageError(
            f"train.output: sigmoid requires exactly 2 classes, got {classes}; set it to softmax, or list two classes "
            "in acquire.classes"
        )


def add_output(features: keras.KerasTensor, output: Output, classes: int) -> keras.KerasTensor:
    """Add the output layers, from features (B, D) to probabilities (B, K).

    A "sigmoid" output is one unit whose sigmoid is the probability of the second class. It is computed as the softmax
    of 0 and the unit, which is the same value and gives the probability of the first class as well. So every model
    returns (B, K), and its categorical cross-entropy equals the binary cross-entropy of the unit, even where
    1 - probability would be 0 in float32.

    Args:
        features: input of the output layers.
        output: kind of output; call `check_output_classes` first.
        classes: K.
    """
    if output == "softmax":
        return layers.Dense(classes, activation="softmax", name="probabilities")(features)
    unit = layers.Dense(1, name="unit")(features)
    pair = layers.Concatenate(name="zero_and_unit")([layers.Rescaling(0, name="zero")(unit), unit])
    return layers.Activation("softmax", name="probabilities")(pair)
