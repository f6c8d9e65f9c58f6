"""A workspace with the outputs of a training: a small untrained model, its labels and dvc.lock."""

from pathlib import Path

import keras

from darkroom.models.model_file import save_model
from darkroom.photos.options import Color, Resampling, Resize
from darkroom.pipeline.dataset import write_labels
from darkroom.pipeline.files import write_text
from darkroom.pipeline.paths import AUGMENT_IMAGES, DVC_LOCK, TRAIN_LABELS, TRAIN_MODEL
from darkroom.tracking.lockfile import file_digest

LABELS = ["cat", "dog", "great owl", "eel"]
HEIGHT, WIDTH = 12, 9
LOCK = """
schema: '2.0'
stages:
  augment:
    cmd: python -m stages.augment
    params:
      params.yaml:
        augment: {{image_size: [{height}, {width}], resize: {resize}, resampling: {resampling}, color: {color}}}
    outs:
    - {{path: {images}, hash: md5, md5: '0123'}}
  train:
    cmd: python -m stages.train
    deps:
    - {{path: {images}, hash: md5, md5: '0123'}}
    outs:
    - {{path: {model}, hash: md5, md5: {model_digest}}}
    - {{path: {labels}, hash: md5, md5: {labels_digest}}}
"""


def make_model(channels: int) -> keras.Model:
    """An untrained model that gives different predictions for different noise."""
    keras.utils.set_random_seed(3)
    wide = keras.initializers.RandomNormal(stddev=0.5)
    pixels = keras.Input((HEIGHT, WIDTH, channels))
    values = keras.layers.Rescaling(1 / 127.5, -1)(pixels)
    values = keras.layers.Conv2D(4, 3, activation="relu", kernel_initializer=wide)(values)
    values = keras.layers.Dense(len(LABELS), kernel_initializer=wide)(keras.layers.Flatten()(values))
    return keras.Model(pixels, keras.layers.Softmax()(values))


def write_result(root: Path, model: keras.Model, resize: Resize, resampling: Resampling, color: Color) -> None:
    """Write into the folder `root` what a training of this model leaves, with this preparation of photos."""
    save_model(model, root / TRAIN_MODEL)
    write_labels(root / TRAIN_LABELS, LABELS)
    digests = {
        "model_digest": file_digest(root / TRAIN_MODEL),
        "labels_digest": file_digest(root / TRAIN_LABELS),
    }
    paths = {"model": TRAIN_MODEL, "labels": TRAIN_LABELS, "images": AUGMENT_IMAGES}
    preparation = {"height": HEIGHT, "width": WIDTH, "resize": resize, "resampling": resampling, "color": color}
    write_text(root / DVC_LOCK, LOCK.format(**preparation, **paths, **digests))
