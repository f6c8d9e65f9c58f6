"""How a network ends: in a probability for each class."""

import keras
from keras import layers

from darkroom.params.train import Output
from darkroom.pipeline.stage import StageError

# They compute in float32 whatever the others do: probabilities near 0 and 1 need its digits.
OUTPUT_LAYERS = ("unit", "zero", "zero_and_unit", "probabilities")


def check_output(output: Output, classes: int) -> None:
    """Refuse a sigmoid for other than two classes.

    Raises:
        StageError: `classes` does not suit `output`.
    """
    if output == "sigmoid" and classes != 2:
        raise StageError(
            f"train.output: sigmoid has a single output, for two classes, but there are {classes}; set it to softmax, "
            "or choose two in acquire.classes"
        )


def end_network(features: keras.KerasTensor, output: Output, classes: int) -> keras.KerasTensor:
    """Lead features of shape (B, D) to probabilities (B, K).

    A "sigmoid" is one unit, whose sigmoid is the probability of the second class. It is given as the softmax of 0 and
    the unit, which is the same and has the first class's as well. So all models give (B, K), and the categorical
    cross-entropy is the binary one of the unit, also where 1 - probability would be 0 in float32.

    Args:
        features: what the output reads.
        output: see `check_output`, which comes first.
        classes: K.
    """
    if output == "softmax":
        return layers.Dense(classes, activation="softmax", name="probabilities")(features)
    unit = layers.Dense(1, name="unit")(features)
    pair = layers.Concatenate(name="zero_and_unit")([layers.Rescaling(0, name="zero")(unit), unit])
    return layers.Activation("softmax", name="probabilities")(pair)
