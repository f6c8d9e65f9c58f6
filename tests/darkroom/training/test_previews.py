import numpy as np

from darkroom.pipeline.dataset import ImageRow
from darkroom.training.previews import list_examples


def test_examples_are_originals_of_every_label() -> None:
    index = [
        ImageRow(f"{label}{number}", label, degrees, "none")
        for label in "ab"
        for number in range(5)
        for degrees in (0, 9)
    ]
    chosen = list_examples(index, np.array([1, 2, 3, 4, 5, 10, 11, 14]))
    assert chosen == [2, 4, 10, 14]
