"""Properties of all networks."""

import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, get_args

import keras
import numpy as np
import pytest

from darkroom.models.model_file import load_model, save_model
from darkroom.params.train import BACKBONES, CNNS, WIDTHS, Output, TrainParams
from darkroom.pipeline.arrays import Pixels
from darkroom.pipeline.stage import StageError
from darkroom.training.networks import FROM_SCRATCH, BuiltNetwork, FromScratch, build_network, choose_normalization
from darkroom.training.networks.applications import APPLICATIONS
from darkroom.training.networks.steps import Step
from tests.darkroom.training.networks.batch_normalization import randomize_batch_normalization
from tests.examples import noise, train_params

# Sides of the images, in pixels.
SIDES = dict.fromkeys([*CNNS, "vgg16", "mobilenet_v2"], 32) | {"cats_dogs_cnn": 46}
PLAIN_BACKBONE = {"weights": "none", "frozen_layers": 0, "frozen_batch_normalization": False}


class Case(NamedTuple):
    """A network of 4 classes for color images, or of 2 classes for gray images that are not square."""

    name: str
    output: Output

    @property
    def params(self) -> TrainParams:
        return train_params(network=self.name, output=self.output, backbone=PLAIN_BACKBONE)

    @property
    def classes(self) -> int:
        return 4 if self.output == "softmax" else 2

    @property
    def image_shape(self) -> tuple[int, int, int]:
        side = SIDES[self.name]
        return (side, side, 3) if self.output == "softmax" else (side, side + 5, 1)

    @property
    def pixels(self) -> Pixels:
        return np.stack([noise(*self.image_shape, seed) for seed in range(3)])

    def build(self) -> BuiltNetwork:
        keras.utils.set_random_seed(3)
        network = build_network(self.params, self.image_shape, self.classes, [keras.layers.Rescaling(1 / 255)])
        if self.name == "mobilenet_v2":
            randomize_batch_normalization(network.model)
        return network


def call(model: keras.Model, values: np.ndarray) -> np.ndarray:
    return keras.ops.convert_to_numpy(model(values))


class Built(NamedTuple):
    case: Case
    network: BuiltNetwork


# The backbones have the same head and output, so each is built once.
CASES = [
    *(Case(name, output) for name in CNNS for output in get_args(Output)),
    Case("vgg16", "softmax"),
    Case("mobilenet_v2", "sigmoid"),
]


@pytest.fixture(scope="module", params=CASES, ids="-".join)
def built(request: pytest.FixtureRequest) -> Built:
    """Each network in turn; tests must not change it."""
    return Built(request.param, request.param.build())


class TestEveryNetwork:
    def test_it_returns_a_probability_for_each_class(self, built: Built) -> None:
        probabilities = call(built.network.model, built.case.pixels)
        assert probabilities.shape == (3, built.case.classes)
        assert probabilities.min() >= 0
        np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-5)

    def test_pixels_may_be_bytes_or_floats(self, built: Built) -> None:
        pixels = built.case.pixels
        from_bytes = call(built.network.model, pixels)
        from_floats = call(built.network.model, pixels.astype(np.float32))
        np.testing.assert_array_equal(from_bytes, from_floats)
        assert len(np.unique(from_bytes, axis=0)) == len(pixels)

    def test_it_is_not_compiled_so_that_no_optimizer_is_saved(self, built: Built) -> None:
        assert not built.network.model.compiled

    def test_it_is_flat(self, built: Built) -> None:
        assert not [layer.name for layer in built.network.model.layers if isinstance(layer, keras.Model)]

    def test_its_parts_are_layers_of_the_model_itself(self, built: Built) -> None:
        model, normalization, backbone, body, head = built.network
        assert model.layers[1] is normalization[0]
        if built.case.name in CNNS:
            assert (backbone, body, head) == ((), None, None)
            return
        assert body is not None
        assert head is not None
        count = len(backbone)
        assert model.layers[2 : 2 + count] == list(backbone)
        assert {id(layer) for layer in (*body.layers[1:], *head.layers[1:])} == {
            id(layer) for layer in model.layers[1:]
        }
        pixels = built.case.pixels
        np.testing.assert_allclose(call(head, call(body, pixels)), call(model, pixels), rtol=1e-5)

    def test_the_same_seed_gives_the_same_weights(self, built: Built) -> None:
        again = built.case.build().model.get_weights()
        assert all(np.array_equal(*pair) for pair in zip(built.network.model.get_weights(), again, strict=True))

    def test_it_predicts_the_same_after_saving_and_loading(self, built: Built, tmp_path: Path) -> None:
        save_model(built.network.model, tmp_path / "model.keras")
        np.testing.assert_array_equal(
            call(load_model(tmp_path / "model.keras"), built.case.pixels),
            call(built.network.model, built.case.pixels),
        )


class TestNames:
    def test_params_list_the_existing_networks(self) -> None:
        assert sorted(CNNS) == sorted(FROM_SCRATCH), (
            "Cnn in darkroom/params/train.py and FROM_SCRATCH in darkroom/training/networks must list the same networks"
        )
        assert sorted(BACKBONES) == sorted(APPLICATIONS), (
            "Backbone in darkroom/params/train.py and APPLICATIONS in darkroom/training/networks/applications.py must "
            "list the same networks"
        )

    @pytest.mark.parametrize("name", BACKBONES)
    def test_a_backbone_is_a_model_of_keras(self, name: str) -> None:
        application = APPLICATIONS[name]
        known = inspect.signature(getattr(keras.applications, application.model)).parameters
        assert ("alpha" in known) == (name in WIDTHS)
        assert ("include_preprocessing" in known) == application.has_preprocessing

    @pytest.mark.parametrize("name", BACKBONES)
    def test_images_that_are_too_small_for_a_backbone_are_rejected(self, name: str) -> None:
        smallest = APPLICATIONS[name].smallest_side
        params = train_params(network=name, backbone=PLAIN_BACKBONE)
        for height, width in ((smallest - 1, 99), (99, smallest - 1)):
            with pytest.raises(StageError) as caught:
                build_network(params, (height, width, 3), 2, [])
            assert str(caught.value) == (
                f"train.network: {name} needs images of at least {smallest}x{smallest} pixels, got {height}x{width}; "
                "increase augment.image_size"
            )
        with pytest.raises(ValueError, match=f"Input size must be at least {smallest}x{smallest}"):
            getattr(keras.applications, APPLICATIONS[name].model)(
                include_top=False, weights=None, input_shape=(smallest - 1, 99, 3)
            )


def two_branches(filters: Sequence[int] = (3, 5), kernel_size: int = 3) -> list[Step]:
    """A network that is not a plain sequence of layers: two parallel convolutions."""

    def branch(pixels: keras.KerasTensor) -> keras.KerasTensor:
        convolutions = [keras.layers.Conv2D(count, kernel_size, padding="same") for count in filters]
        return keras.layers.Concatenate(name="both")([convolution(pixels) for convolution in convolutions])

    return [branch, keras.layers.GlobalAveragePooling2D()]


class TestRegistration:
    @pytest.fixture(autouse=True)
    def register(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(FROM_SCRATCH, "two_branches", FromScratch(two_branches))

    def build(self, **changes: object) -> keras.Model:
        params = train_params(network="compact_cnn", cnn=changes).model_copy(update={"network": "two_branches"})
        return build_network(params, (6, 7, 3), 4, []).model

    def test_an_entry_in_the_table_is_enough_to_build_a_network(self) -> None:
        model = self.build()
        assert model.name == "two_branches"
        assert model.get_layer("both").output.shape == (None, 6, 7, 3 + 5)
        assert model.count_params() == (3 * 3 * 3 + 1) * 8 + (8 + 1) * 4

    def test_only_params_that_are_its_arguments_change_it(self) -> None:
        assert self.build(filters=[2, 1], kernel_size=1).get_layer("both").output.shape == (None, 6, 7, 3)
        with pytest.raises(
            StageError, match=r"^train\.cnn: two_branches does not use padding; set unused fields to null$"
        ):
            self.build(padding="same")
        with pytest.raises(StageError, match=r"two_branches expects a list of 2 numbers, or null, got \[1, 2, 3\]$"):
            self.build(filters=[1, 2, 3])


class TestNormalization:
    @pytest.mark.parametrize("name", CNNS)
    def test_a_network_from_scratch_takes_pixels_from_0_to_1(self, name: str) -> None:
        assert choose_normalization(train_params(network=name)) == "rescale"

    @pytest.mark.parametrize(
        ("module", "names"),
        [
            ("caffe", ["vgg16", "vgg19", "resnet50", "resnet101", "resnet152"]),
            (
                "tf",
                [
                    *["resnet50_v2", "resnet101_v2", "resnet152_v2", "inception_v3", "inception_resnet_v2"],
                    *["xception", "mobilenet", "mobilenet_v2", "mobilenet_v3_small", "mobilenet_v3_large"],
                    *["efficientnet_v2_s", "efficientnet_v2_m", "efficientnet_v2_l"],
                ],
            ),
            (
                "torch",
                [
                    *["densenet121", "densenet169", "densenet201"],
                    *["efficientnet_v2_b0", "efficientnet_v2_b1", "efficientnet_v2_b2", "efficientnet_v2_b3"],
                ],
            ),
        ],
    )
    def test_a_backbone_uses_the_normalization_that_its_weights_were_trained_with(
        self, module: str, names: list[str]
    ) -> None:
        assert {choose_normalization(train_params(network=name)) for name in names} == {f"imagenet_{module}"}

    @pytest.mark.parametrize("name", ["compact_cnn", "vgg16"])
    def test_another_normalization_may_be_chosen(self, name: str) -> None:
        assert choose_normalization(train_params(network=name, normalization="samplewise")) == "samplewise"


@pytest.mark.parametrize(
    ("name", "output", "image_shape", "classes", "parameters"),
    [
        ("keras_cifar10_cnn", "softmax", (32, 32, 3), 10, 1_250_858),
        ("keras_mnist_cnn", "softmax", (28, 28, 1), 10, 1_199_882),
        ("sigmoid_cnn", "softmax", (28, 28, 1), 10, 440_138),
        ("cats_dogs_cnn", "sigmoid", (150, 150, 3), 2, 3_453_121),
    ],
)
def test_a_network_has_the_published_number_of_parameters(
    name: str, output: str, image_shape: tuple[int, int, int], classes: int, parameters: int
) -> None:
    model = build_network(train_params(network=name, output=output), image_shape, classes, []).model
    assert model.count_params() == parameters


@pytest.mark.parametrize(("name", "parameters"), [("vgg16", 14_714_688), ("resnet50", 23_587_712)])
def test_a_backbone_has_the_published_number_of_parameters(name: str, parameters: int) -> None:
    network = build_network(train_params(network=name, backbone=PLAIN_BACKBONE), (32, 32, 3), 10, [])
    assert sum(layer.count_params() for layer in network.backbone) == parameters
