from pathlib import Path
from typing import Any

import numpy as np

from darkroom.training.fingerprint import digest_code, training_fingerprint
from darkroom.training.training_data import TrainingData
from tests.examples import train_params
from tests.trainings import dark_and_bright, store_images


def test_the_key_is_that_of_everything_a_training_depends_on(tmp_path: Path) -> None:
    data = dark_and_bright(tmp_path, 20, held_out=5)

    def key(data: TrainingData = data, **changes: Any) -> str:
        return training_fingerprint(train_params(**changes), data)

    pixels = data.images.take(np.arange(20)).copy()
    pixels[3, 0, 0, 0] ^= 1
    class_ids = data.class_ids.copy()
    class_ids[0] = 1 - class_ids[0]
    rows = {"train": data.rows["train"][:-1], "validation": data.rows["validation"]}
    moved = {
        "train": data.rows["train"][:-1],
        "validation": np.append(data.rows["train"][-1:], data.rows["validation"]),
    }
    others = [
        key(seed=7),
        key(schedule={"decay": 0.5}),
        key(data._replace(images=store_images(tmp_path / "other", pixels))),
        key(data._replace(class_ids=class_ids)),
        key(data._replace(rows=rows)),
        key(data._replace(rows=moved)),
    ]
    assert key() == key()
    assert len({key(), *others}) == 1 + len(others)


def test_the_code_of_every_module_is_in_the_key(tmp_path: Path) -> None:
    trained_by = {"stages/train.py", "darkroom/training/bfloat16.py", "darkroom/training/networks/cnn.py"}
    assert trained_by <= digest_code().keys()
    (tmp_path / "darkroom/training").mkdir(parents=True)
    (tmp_path / "darkroom/training/one.py").write_text("1")
    before = digest_code(tmp_path)
    (tmp_path / "darkroom/training/one.py").write_text("2")
    assert before.keys() == digest_code(tmp_path).keys() == {"darkroom/training/one.py"}
    assert before != digest_code(tmp_path)
