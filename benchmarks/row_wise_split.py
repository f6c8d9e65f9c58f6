"""What the common mistake would report: split rows after augmentation, so that variants of a photo fall on both sides.

Takes the images and the train section of the last `dvc repro`, splits the rows of images.npy at random in the same
shares, trains the same network, and prints its test accuracy beside the honest one of metrics/evaluate.json.

Run as  python -m benchmarks.row_wise_split     (in the project, after dvc repro)
"""

import json

import numpy as np
from sklearn.model_selection import train_test_split

from stages.lib.backend import make_deterministic
from stages.lib.batches import Batches, ShuffleEachEpoch
from stages.lib.dataset import StoredImages, read_index
from stages.lib.networks import build_network
from stages.lib.params import EvaluateParams, SplitParams, TrainParams, read_params
from stages.lib.paths import AUGMENT_IMAGES, AUGMENT_INDEX, EVALUATE_METRICS
from stages.lib.scores import accuracy_interval
from stages.train import fit_network, make_early_stopping, number_labels


def main() -> None:
    split, train = read_params("split", SplitParams), read_params("train", TrainParams)
    confidence_level = read_params("evaluate", EvaluateParams).confidence_level
    index = read_index(AUGMENT_INDEX)
    images = StoredImages(AUGMENT_IMAGES, len(index))
    labels, targets = number_labels([row.label for row in index])

    rest, test = train_test_split(
        np.arange(len(index)), test_size=split.test_fraction, stratify=targets, random_state=split.seed
    )
    share = split.validation_fraction / (1 - split.test_fraction)
    training, validation = train_test_split(rest, test_size=share, stratify=targets[rest], random_state=split.seed)

    make_deterministic(train.seed, train.threads)
    network = build_network(train.network, images.image_shape, len(labels))
    feeds = [Batches(images, rows, targets[rows], train.batch_size) for rows in (training, validation, test)]
    stop_early = make_early_stopping(train.early_stopping_monitor, train.early_stopping_patience)
    shuffle = ShuffleEachEpoch(feeds[0], train.seed)
    fit_network(network, feeds[0], feeds[1], train.epochs, train.learning_rate, stop_early, [shuffle])
    correct = int((network.predict(feeds[2], verbose=0).argmax(axis=1) == targets[test]).sum())

    honest = json.loads(EVALUATE_METRICS.read_text())
    interval = accuracy_interval(correct, len(test), confidence_level)
    print(f"split by row, {len(test)} rows:     {correct / len(test):.3f} ({interval.low:.3f} to {interval.high:.3f})")
    print(
        f"split by photo (honest): {honest['accuracy']:.3f} "
        f"({honest['accuracy_low']:.3f} to {honest['accuracy_high']:.3f})"
    )
    print(f"the mistake flatters by: {correct / len(test) - honest['accuracy']:+.3f}")


if __name__ == "__main__":
    main()
