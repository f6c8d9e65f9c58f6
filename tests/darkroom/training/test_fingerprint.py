from pathlib import Path
from typing import Any

import numpy as np

from darkroom.training.fingerprint import digest_code, training_fingerprint
from darkroom.training.training_data import TrainingData
from tests.examples import train_params
from tests.trainings import dark_and_bright, store_images


def test_the_fingerprint_covers_everything_a_training_depends_on(tmp_path: Path) -> None:
    data = dark_and_bright(tmp_path, 20, held_out=5)

    def fingerprint(data: TrainingData = data, **changes: Any) -> str:
        return training_fingerprint(train_params(**changes), data)

    pixels = data.images.take(np.arange(20)).copy()
    pixels[3, 0, 0, 0] ^= 1
    class_ids = data.class_ids.copy()
    class_ids[0] = 1 - class_ids[0]
    fewer = {"train": data.row_numbers["train"][:-1], "validation": data.row_numbers["validation"]}
    reassigned = {
        "train": data.row_numbers["train"][:-1],
        "validation": np.append(data.row_numbers["train"][-1:], data.row_numbers["validation"]),
    }
    others = [
        fingerprint(seed=7),
        fingerprint(schedule={"decay": 0.5}),
        fingerprint(data._replace(images=store_images(tmp_path / "other", pixels))),
        fingerprint(data._replace(class_ids=class_ids)),
        fingerprint(data._replace(row_numbers=fewer)),
        fingerprint(data._replace(row_numbers=reassigned)),
    ]
    assert fingerprint() == fingerprint()
    assert len({fingerprint(), *others}) == 1 + len(others)


def test_the_fingerprint_covers_the_code_of_every_module(tmp_path: Path) -> None:
    trained_by = {"stages/train.py", "darkroom/training/bfloat16.py", "darkroom/training/networks/cnn.py"}
    assert trained_by <= digest_code().keys()
    (tmp_path / "darkroom/training").mkdir(parents=True)
    (tmp_path / "darkroom/training/one.py").write_text("1")
    before = digest_code(tmp_path)
    (tmp_path / "darkroom/training/one.py").write_text("2")
    assert before.keys() == digest_code(tmp_path).keys() == {"darkroom/training/one.py"}
    assert before != digest_code(tmp_path)
