import math
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from darkroom.params.train import ScheduleParams
from darkroom.training.optimization import make_early_stopping, make_optimizer, make_plateau, schedule_rate
from tests.examples import train_params
from tests.trainings import dark_and_bright, train

pytestmark = pytest.mark.slow

EPOCHS, STEPS = 5, 4


def schedule(**changes: Any) -> ScheduleParams:
    return train_params(schedule=changes, learning_rate=1e6).schedule


def rate_at(step: int, params: ScheduleParams, learning_rate: float, epochs: int = EPOCHS) -> float:
    made = schedule_rate(params, learning_rate, epochs, STEPS)
    assert not isinstance(made, float)
    return float(made(step))


@pytest.mark.parametrize(
    ("params", "kind", "expected"),
    [
        ({"optimizer": "adam"}, keras.optimizers.Adam, {"beta_1": 0.9, "beta_2": 0.999}),
        ({"optimizer": "rmsprop"}, keras.optimizers.RMSprop, {"momentum": 0, "rho": 0.9}),
        ({"optimizer": "rmsprop", "momentum": 0.8}, keras.optimizers.RMSprop, {"momentum": 0.8}),
        ({"optimizer": "adadelta"}, keras.optimizers.Adadelta, {"rho": 0.95}),
        ({"optimizer": "sgd"}, keras.optimizers.SGD, {"momentum": 0, "nesterov": False}),
        ({"optimizer": "sgd", "momentum": 0.9}, keras.optimizers.SGD, {"momentum": 0.9, "nesterov": False}),
        (
            {"optimizer": "sgd", "momentum": 0.9, "nesterov": True},
            keras.optimizers.SGD,
            {"momentum": 0.9, "nesterov": True},
        ),
    ],
)
def test_an_optimizer_has_the_values_of_the_params(
    params: dict[str, Any], kind: type, expected: dict[str, Any]
) -> None:
    # The learning rate is that of the phase, not of the params.
    made = make_optimizer(train_params(learning_rate=0.5, **params), 0.25, EPOCHS, STEPS, "float32")
    assert type(made) is kind
    assert made.get_config() | expected | {"learning_rate": 0.25} == made.get_config()


def test_an_optimizer_follows_its_schedule_batch_by_batch() -> None:
    params = train_params(schedule={"name": "inverse_time", "decay": 1.0})
    optimizer = make_optimizer(params, 0.6, EPOCHS, STEPS, "float32")
    optimizer.build([])
    rates = []
    for _ in range(3):
        rates.append(float(optimizer.learning_rate))
        optimizer.iterations.assign_add(1)
    assert rates == pytest.approx([0.6, 0.3, 0.2])


@pytest.mark.parametrize("name", ["constant", "plateau"])
def test_without_a_formula_the_rate_is_a_number(name: str) -> None:
    assert schedule_rate(schedule(name=name), 0.25, EPOCHS, STEPS) == 0.25


@pytest.mark.parametrize("step", [0, 1, 10, 1000])
def test_inverse_time_divides_by_one_plus_decay_times_batches(step: int) -> None:
    params = schedule(name="inverse_time", decay=0.01)
    assert rate_at(step, params, 0.3) == pytest.approx(0.3 / (1 + 0.01 * step))


@pytest.mark.parametrize("minimum", [0, 0.02])
@pytest.mark.parametrize("step", [0, 1, 7, 10, 19, 20, 30])
def test_cosine_falls_over_all_batches_to_the_minimum(step: int, minimum: float) -> None:
    angle = min(1, step / (EPOCHS * STEPS)) * math.pi
    expected = minimum + (0.3 - minimum) * (1 + math.cos(angle)) / 2
    assert rate_at(step, schedule(name="cosine", minimum=minimum), 0.3) == pytest.approx(expected, abs=1e-7)


@pytest.mark.parametrize("minimum", [0, 0.02])
@pytest.mark.parametrize("step", [0, 1, 7, 8, 9, 14, 20, 30])
def test_cosine_rises_in_the_warm_up_before_it_falls(step: int, minimum: float) -> None:
    warm = 2 * STEPS
    angle = min(1, max(0, step - warm) / (EPOCHS * STEPS - warm)) * math.pi
    expected = 0.3 * step / warm if step < warm else minimum + (0.3 - minimum) * (1 + math.cos(angle)) / 2
    params = schedule(name="cosine", minimum=minimum, warmup_epochs=2)
    assert rate_at(step, params, 0.3) == pytest.approx(expected, abs=1e-7)


def test_only_a_plateau_has_a_callback() -> None:
    assert make_plateau(schedule(name="cosine"), "val_loss") == []
    (callback,) = make_plateau(schedule(name="plateau", factor=0.3, patience=2, minimum=0.1), "val_accuracy")
    assert (callback.monitor, callback.mode) == ("val_accuracy", "max")
    assert (callback.factor, callback.patience, callback.min_lr, callback.min_delta) == (0.3, 2, 0.1, 0)


def test_early_stopping_minimizes_the_loss_and_maximizes_the_accuracy() -> None:
    loss, accuracy = make_early_stopping("val_loss", 3), make_early_stopping("val_accuracy", 4)
    assert (loss.monitor, loss.mode, loss.patience) == ("val_loss", "min", 3)
    assert (accuracy.monitor, accuracy.mode, accuracy.patience) == ("val_accuracy", "max", 4)


def test_a_plateau_lowers_the_rate_while_the_validation_loss_rises(tmp_path: Path) -> None:
    params = train_params(
        network="sigmoid_cnn",
        epochs=7,
        early_stopping_patience=7,
        optimizer="sgd",
        learning_rate=0.08,
        schedule={"name": "plateau", "factor": 0.5, "patience": 2, "minimum": 0.03},
    )
    data = dark_and_bright(tmp_path, 60, held_out=20)
    data.class_ids[:] = np.arange(60) >= 40  # one class to train on, and the other to validate on
    trained = train(params, data)
    assert trained.curves["val_loss"] == sorted(trained.curves["val_loss"])
    # The first epoch remains the best; after two worse epochs the rate falls, and after two more again.
    assert trained.curves["learning_rate"] == [0.08, 0.08, 0.08, 0.04, 0.04, 0.03, 0.03]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, [0.01, 0.01]),
        ({"name": "inverse_time", "decay": 1.0}, [0.01 / 6, 0.01 / 11]),  # 40 images are five batches of eight
        ({"name": "cosine", "minimum": 0.002}, [0.006, 0.002]),
    ],
)
def test_the_curves_contain_the_rate_at_the_end_of_each_epoch(
    tmp_path: Path, changes: dict[str, Any], expected: list[float]
) -> None:
    params = train_params(
        network="sigmoid_cnn",
        cnn={"filters": [4, 4]},
        epochs=2,
        batch_size=8,
        learning_rate=0.01,
        schedule=changes,
        early_stopping_patience=4,
    )
    trained = train(params, dark_and_bright(tmp_path, 60, held_out=20))
    assert trained.curves["learning_rate"] == pytest.approx(expected, rel=1e-6)


def test_small_gradients_do_not_underflow_in_float16() -> None:
    made = make_optimizer(train_params(optimizer="sgd", learning_rate=0.5), 0.5, EPOCHS, STEPS, "mixed_float16")
    assert isinstance(made, keras.optimizers.LossScaleOptimizer)
    assert isinstance(made.inner_optimizer, keras.optimizers.SGD)
    assert float(made.learning_rate) == 0.5
    weight = keras.Variable([1.0])
    made.build([weight])
    assert float(made.scale_loss(keras.ops.convert_to_tensor(1e-9))) > 1e-6
