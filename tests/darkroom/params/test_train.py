from collections.abc import Iterator
from copy import deepcopy
from functools import reduce
from operator import getitem
from typing import Any

import pytest

from darkroom.params.section import Section, list_section_errors
from darkroom.params.train import BACKBONES, CNNS, WIDTHS, TrainParams
from tests.examples import change, train_params
from tests.project import read_recipe

DIGITS = read_recipe("digits")["train"]
UNFROZEN = {"frozen_batch_normalization": False}
DIGEST = "0a" * 32


def find_errors(**changes: Any) -> list[str]:
    """The errors in section train of recipe digits with changes; changes to a block are given as a mapping."""
    return list_section_errors(change(DIGITS, changes), TrainParams)


def set_key(key: str, value: Any) -> dict[str, Any]:
    """The change that sets a dotted key to the value."""
    block, _, rest = key.partition(".")
    return {block: set_key(rest, value) if rest else value}


def list_blocks(model: type[Section], key: str = "") -> Iterator[tuple[str, type[Section]]]:
    """The inner sections of a section, with their dotted keys."""
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section):
            yield f"{key}{name}", field.annotation
            yield from list_blocks(field.annotation, f"{key}{name}.")


@pytest.mark.parametrize(("key", "block"), list_blocks(TrainParams))
def test_no_value_of_a_block_has_a_default_in_code(key: str, block: type[Section]) -> None:
    section = deepcopy(DIGITS)
    *outer, last = key.split(".")
    reduce(getitem, outer, section)[last] = {}
    assert list_section_errors(section, TrainParams) == [
        f"{key}.{name}: is missing; every param must be in the file" for name in block.model_fields
    ]


class TestValues:
    @pytest.mark.parametrize(
        ("key", "allowed", "refused", "expected"),
        [
            ("cnn.kernel_size", 1, 0, "be at least 1"),
            ("cnn.kernel_size", 15, 16, "be at most 15"),
            ("cnn.strides", 1, 0, "be at least 1"),
            ("cnn.strides", 8, 9, "be at most 8"),
            ("cnn.pool_size", 1, 0, "be at least 1"),
            ("cnn.pool_size", 8, 9, "be at most 8"),
            ("cnn.batch_normalization", False, 0, "be true or false"),
            ("cnn.filters", [1] * 16, [1] * 17, "have at most 16 item(s)"),
            ("cnn.filters", [1], [], "have at least 1 item(s)"),
            ("backbone.alpha", 0.1, 0.09, "be at least 0.1"),
            ("backbone.alpha", 2, 2.1, "be at most 2.0"),
            ("backbone.dropout", 0, -0.1, "be at least 0.0"),
            ("backbone.dropout", 0.99, 1, "be less than 1.0"),
            ("backbone.dense_units", [], None, "be a list"),
            ("backbone.weights", "none", "", "have at least 1 item(s)"),
            ("backbone.fine_tuning.epochs", 0, -1, "be at least 0"),
            ("backbone.fine_tuning.epochs", 3, 3.5, "be a whole number"),
            ("backbone.fine_tuning.learning_rate", 1e-9, 0, "be greater than 0.0"),
            ("backbone.fine_tuning.learning_rate", 9, float("inf"), "be a finite number"),
            ("zca.epsilon", 1e-6, 1e-7, "be at least 1e-06"),
            ("zca.epsilon", 1, float("inf"), "be a finite number"),
            ("zca.maximum_megabytes", 0.1, 0, "be greater than 0.0"),
            ("zca.maximum_megabytes", 1, float("nan"), "be a finite number"),
            ("augmentation.rotation_range", 180, 181, "be at most 180.0"),
            ("augmentation.width_shift_range", 1, 1.5, "be at most 1.0"),
            ("augmentation.height_shift_range", 0, -0.5, "be at least 0.0"),
            ("augmentation.shear_range", 80, 81, "be at most 80.0"),
            ("augmentation.zoom_range", 0.99, 1, "be less than 1.0"),
            ("augmentation.channel_shift_range", 255, 256, "be at most 255.0"),
            ("augmentation.horizontal_flip", True, 1, "be true or false"),
            ("mixup_alpha", 0, -0.1, "be at least 0.0"),
            ("mixup_alpha", 10, 10.1, "be at most 10.0"),
            ("label_smoothing", 0, -0.1, "be at least 0.0"),
            ("label_smoothing", 0.99, 1, "be less than 1.0"),
            ("batch_size", 1, 0, "be at least 1"),
            ("steps_per_epoch", 1, 0, "be at least 1"),
            ("learning_rate", 9, float("nan"), "be a finite number"),
            ("momentum", 0.99, 1, "be less than 1.0"),
            ("momentum", 0, -0.1, "be at least 0.0"),
            ("nesterov", False, "no", "be true or false"),
            ("schedule.decay", 1e-9, 0, "be greater than 0.0"),
            ("schedule.decay", 9, float("inf"), "be a finite number"),
            ("schedule.warmup_epochs", 0, -1, "be at least 0"),
            ("schedule.factor", 0.01, 0, "be greater than 0.0"),
            ("schedule.factor", 0.99, 1, "be less than 1.0"),
            ("schedule.patience", 1, 0, "be at least 1"),
            ("schedule.minimum", 0, -0.1, "be at least 0.0"),
            ("schedule.minimum", 9, float("inf"), "be a finite number"),
            ("early_stopping_patience", 1, 0, "be at least 1"),
            ("seed", 0, -1, "be at least 0"),
        ],
    )
    def test_a_value_has_a_range(self, key: str, allowed: Any, refused: Any, expected: str) -> None:
        assert find_errors(optimizer="sgd", **set_key(key, allowed)) == []
        assert find_errors(optimizer="sgd", **set_key(key, refused)) == [f"{key}: must {expected}, got {refused!r}"]

    @pytest.mark.parametrize(
        ("key", "known"),
        [
            ("network", [*CNNS, *BACKBONES]),
            ("output", ["softmax", "sigmoid"]),
            ("cnn.padding", ["valid", "same"]),
            ("backbone.pooling", ["average", "max", "flatten"]),
            ("backbone.dense_activation", ["relu", "sigmoid", "tanh", "gelu"]),
            ("class_weights", ["equal", "balanced"]),
            ("optimizer", ["adam", "rmsprop", "adadelta", "sgd"]),
            ("schedule.name", ["constant", "inverse_time", "cosine", "plateau"]),
            ("early_stopping_monitor", ["val_loss", "val_accuracy"]),
            ("augmentation.fill_mode", ["constant", "nearest", "reflect", "wrap"]),
        ],
    )
    def test_an_error_lists_all_allowed_words(self, key: str, known: list[str]) -> None:
        assert [error for word in known for error in find_errors(**set_key(key, word))] == []
        *others, last = (repr(word) for word in known)
        assert find_errors(**set_key(key, "xyz")) == [f"{key}: must be {', '.join(others)} or {last}, got 'xyz'"]

    def test_an_unknown_normalization_is_an_error(self) -> None:
        (line,) = find_errors(normalization="imagenet")
        assert line.startswith("normalization: must be ")
        assert line.endswith(", got 'imagenet'; did you mean imagenet_tf?")

    @pytest.mark.parametrize(
        ("key", "allowed", "refused", "line"),
        [
            ("cnn.filters", [1, 4096], [8, 0], "cnn.filters.1: must be at least 1, got 0"),
            ("cnn.filters", [4096], [4097], "cnn.filters.0: must be at most 4096, got 4097"),
            ("backbone.dense_units", [65536, 1], [65537], "backbone.dense_units.0: must be at most 65536, got 65537"),
            ("backbone.dense_units", [1], [2, 0], "backbone.dense_units.1: must be at least 1, got 0"),
        ],
    )
    def test_the_error_for_a_number_in_a_list_has_its_index(
        self, key: str, allowed: list[int], refused: list[int], line: str
    ) -> None:
        assert find_errors(**set_key(key, allowed)) == []
        assert find_errors(**set_key(key, refused)) == [line]

    @pytest.mark.parametrize("key", ["frozen_layers", "fine_tuning.frozen_layers"])
    @pytest.mark.parametrize("value", [-1, True, False, "", 1.5, 2.0, None, ["all"]])
    def test_invalid_frozen_layers_are_one_error(self, key: str, value: Any) -> None:
        assert find_errors(backbone=set_key(key, value)) == [
            f"backbone.{key}: must be all, an integer of at least 0, or the name of a layer, got {value!r}"
        ]

    @pytest.mark.parametrize("value", ["all", 0, 154, "block4_pool"])
    def test_frozen_layers_keep_their_type(self, value: int | str) -> None:
        backbone = train_params(backbone={"frozen_layers": value, "fine_tuning": {"frozen_layers": value}}).backbone
        assert (backbone.frozen_layers, backbone.fine_tuning.frozen_layers) == (value, value)

    def test_the_error_for_an_unknown_key_suggests_known_ones(self) -> None:
        section = change(DIGITS, {})
        section["backbone"] = section["backbone"] | {"frozen_layer": 3}
        section["augmentation"] = section["augmentation"] | {"cval": 1}
        assert list_section_errors(section, TrainParams) == [
            "backbone.frozen_layer: is unknown; did you mean frozen_layers?",
            f"augmentation.cval: is unknown; expected one of {', '.join(DIGITS['augmentation'])}",
        ]


class TestWeights:
    @pytest.mark.parametrize("digest", ["A" * 64, "a" * 63, "a" * 65, "g" * 64, "a" * 64 + "\n"])
    def test_a_digest_is_64_lower_case_digits(self, digest: str) -> None:
        (line,) = find_errors(backbone={"weights": "x.h5", "weights_sha256": digest})
        expected = "be 64 hexadecimal digits, as `sha256sum FILE` prints them, or null"
        assert line == f"backbone.weights_sha256: must {expected}, got {digest!r}"

    # Also for other networks than backbones, which do not read them.
    @pytest.mark.parametrize("network", ["compact_cnn", "mobilenet_v2"])
    @pytest.mark.parametrize(("weights", "digest"), [("x.h5", None), ("imagenet", DIGEST), ("none", DIGEST)])
    def test_a_file_and_its_digest_must_both_be_given(self, network: str, weights: str, digest: str | None) -> None:
        assert find_errors(network=network, backbone={"weights": weights, "weights_sha256": digest}) == [
            "backbone.weights: must be imagenet or none, with weights_sha256 null, or a file, with its digest in "
            f"weights_sha256 as `sha256sum FILE` prints it, got {weights} and {digest or 'null'}"
        ]

    @pytest.mark.parametrize(("weights", "digest"), [("x.h5", DIGEST), ("imagenet", None), ("none", None)])
    def test_valid_weights_are_accepted(self, weights: str, digest: str | None) -> None:
        backbone = {"weights": weights, "weights_sha256": digest, "frozen_layers": 0, **UNFROZEN}
        assert find_errors(network="mobilenet_v2", backbone=backbone) == []

    def test_batch_normalization_of_random_weights_must_not_be_frozen(self) -> None:
        backbone = {"weights": "none", "frozen_layers": 0}
        assert find_errors(network="vgg16", backbone=backbone | {"frozen_batch_normalization": True}) == [
            "backbone.frozen_batch_normalization: must be false with random weights, which have no statistics to keep, "
            "got true"
        ]

    @pytest.mark.parametrize("layers", ["all", 1, "block4_pool"])
    def test_random_weights_must_not_be_frozen(self, layers: int | str) -> None:
        error = f"must be 0 with random weights, which must be trained, got {layers}"
        backbone = {
            "weights": "none",
            **UNFROZEN,
            "frozen_layers": 0,
            "fine_tuning": {"epochs": 0, "frozen_layers": layers},
        }
        tuned = {
            "weights": "none",
            **UNFROZEN,
            "frozen_layers": layers,
            "fine_tuning": {"epochs": 1, "frozen_layers": layers},
        }
        assert find_errors(network="vgg16", backbone=backbone) == []  # there is no second phase
        assert find_errors(network="vgg16", backbone=backbone | {"frozen_layers": layers}) == [
            f"backbone.frozen_layers: {error}"
        ]
        assert find_errors(network="vgg16", backbone=tuned) == [
            f"backbone.frozen_layers: {error}",
            f"backbone.fine_tuning.frozen_layers: {error}",
        ]
        assert find_errors(network="vgg16", backbone=tuned | {"weights": "imagenet"}) == []
        assert find_errors(network="compact_cnn", backbone=tuned) == []


class TestAlpha:
    @pytest.mark.parametrize("network", sorted(set(BACKBONES) - set(WIDTHS)))
    @pytest.mark.parametrize("weights", ["imagenet", "none"])
    def test_networks_with_a_single_width_ignore_alpha(self, network: str, weights: str) -> None:
        backbone = {"weights": weights, "frozen_layers": 0, **UNFROZEN}
        assert find_errors(network=network, backbone=backbone) == []
        assert find_errors(network=network, backbone=backbone | {"alpha": 0.5}) == []

    @pytest.mark.parametrize(
        ("network", "known"),
        [
            ("mobilenet", "0.25, 0.5, 0.75, 1"),
            ("mobilenet_v2", "0.35, 0.5, 0.75, 1, 1.3, 1.4"),
            ("mobilenet_v3_small", "0.75, 1"),
            ("mobilenet_v3_large", "0.75, 1"),
        ],
    )
    def test_imagenet_weights_exist_for_some_widths_only(self, network: str, known: str) -> None:
        for alpha in known.split(", "):
            assert find_errors(network=network, backbone={"alpha": float(alpha)}) == []
        assert find_errors(network=network, backbone={"alpha": 0.6}) == [
            f"backbone.alpha: {network} has ImageNet weights for {known}, got 0.6"
        ]
        assert (
            find_errors(
                network=network,
                backbone={"alpha": 0.6, "weights": "none", "frozen_batch_normalization": False, "frozen_layers": 0},
            )
            == []
        )
        assert find_errors(network=network, backbone={"alpha": 0.6, "weights": "x.h5", "weights_sha256": DIGEST}) == []

    def test_networks_from_scratch_ignore_alpha(self) -> None:
        assert find_errors(network="compact_cnn", backbone={"alpha": 0.6}) == []


class TestOptimizer:
    @pytest.mark.parametrize("optimizer", ["adam", "adadelta"])
    def test_some_optimizers_have_no_momentum(self, optimizer: str) -> None:
        assert find_errors(optimizer=optimizer, momentum=0.9) == [
            f"momentum: must be 0 with optimizer {optimizer}, or use sgd or rmsprop, got 0.9"
        ]

    @pytest.mark.parametrize("optimizer", ["sgd", "rmsprop"])
    def test_some_optimizers_have_momentum(self, optimizer: str) -> None:
        assert find_errors(optimizer=optimizer, momentum=0.9) == []

    @pytest.mark.parametrize(
        ("optimizer", "momentum"), [("sgd", 0), ("rmsprop", 0.9), ("rmsprop", 0), ("adam", 0), ("adadelta", 0)]
    )
    def test_nesterov_needs_sgd_with_momentum(self, optimizer: str, momentum: float) -> None:
        assert find_errors(optimizer=optimizer, momentum=momentum, nesterov=True) == [
            f"nesterov: must be false, or use sgd with momentum, got {optimizer} and {momentum}"
        ]
        assert find_errors(optimizer="sgd", momentum=0.9, nesterov=True) == []


class TestSchedule:
    @pytest.mark.parametrize("name", ["constant", "inverse_time", "cosine", "plateau"])
    @pytest.mark.parametrize(("minimum", "is_below"), [(0, True), (0.0009, True), (0.001, False), (0.5, False)])
    def test_the_minimum_must_be_below_the_rate_if_the_schedule_uses_it(
        self, name: str, minimum: float, is_below: bool
    ) -> None:
        error = f"schedule.minimum: must be below learning_rate, 0.001, got {minimum:g}"
        is_valid = is_below or name in ("constant", "inverse_time")
        assert find_errors(schedule={"name": name, "minimum": minimum}) == ([] if is_valid else [error])

    @pytest.mark.parametrize("name", ["constant", "inverse_time", "cosine", "plateau"])
    def test_the_warmup_of_cosine_must_be_shorter_than_training(self, name: str) -> None:
        assert find_errors(epochs=3, schedule={"name": name, "warmup_epochs": 2}) == []
        error = "schedule.warmup_epochs: must be fewer than epochs, 3, got 3"
        assert find_errors(epochs=3, schedule={"name": name, "warmup_epochs": 3}) == (
            [error] if name == "cosine" else []
        )

    @pytest.mark.parametrize("name", ["constant", "inverse_time", "cosine", "plateau"])
    def test_the_patience_of_plateau_must_be_below_that_of_early_stopping(self, name: str) -> None:
        assert find_errors(early_stopping_patience=3, schedule={"name": name, "patience": 2}) == []
        error = (
            "schedule.patience: must be below early_stopping_patience, 3, or training stops before the rate falls, "
            "got 3"
        )
        found = find_errors(early_stopping_patience=3, schedule={"name": name, "patience": 3})
        assert found == ([error] if name == "plateau" else [])


class TestSecondPhase:
    TUNED = {"fine_tuning": {"epochs": 3, "learning_rate": 0.01}}

    @pytest.mark.parametrize(
        ("schedule", "error"),
        [
            ({"name": "cosine", "minimum": 0.01}, "minimum: must be below fine_tuning.learning_rate, 0.01, got 0.01"),
            ({"name": "plateau", "minimum": 0.01}, "minimum: must be below fine_tuning.learning_rate, 0.01, got 0.01"),
            ({"name": "cosine", "warmup_epochs": 3}, "warmup_epochs: must be fewer than fine_tuning.epochs, 3, got 3"),
        ],
    )
    def test_the_schedule_must_suit_the_second_phase_too(self, schedule: dict[str, Any], error: str) -> None:
        rest = {"learning_rate": 0.1, "schedule": schedule}
        assert find_errors(network="vgg16", backbone=self.TUNED, **rest) == [f"schedule.{error}"]
        assert find_errors(network="compact_cnn", backbone=self.TUNED, **rest) == []
        assert (
            find_errors(network="vgg16", backbone={"fine_tuning": {"epochs": 0, "learning_rate": 0.01}}, **rest) == []
        )


def test_all_incompatible_settings_are_reported_at_once() -> None:
    found = find_errors(
        network="vgg16",
        momentum=0.9,
        nesterov=True,
        schedule={"name": "plateau", "minimum": 1, "patience": 9},
        backbone={
            "weights": "none",
            **UNFROZEN,
            "alpha": 0.5,
            "fine_tuning": {"epochs": 1, "frozen_layers": 2},
        },
    )
    assert [line.partition(": ")[0] for line in found] == [
        "momentum",
        "nesterov",
        "schedule.minimum",
        "schedule.patience",
        "schedule.minimum",
        "backbone.frozen_layers",
        "backbone.fine_tuning.frozen_layers",
    ]
