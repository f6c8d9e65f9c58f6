import keras
import numpy as np
import pytest
from keras.applications import VGG16

from darkroom.pipeline.stage import StageError
from darkroom.training.networks import BuiltNetwork, build_network
from darkroom.training.networks.transfer import count_frozen, freeze, make_head, pool_features
from tests.darkroom.training.networks.weights_files import ALPHA, WeightsFile, build_mobilenet, write_weights
from tests.examples import train_params


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> WeightsFile:
    return write_weights(tmp_path_factory.mktemp("weights"))


@pytest.fixture(scope="module")
def vgg16() -> BuiltNetwork:
    params = train_params(
        network="vgg16", backbone={"weights": "none", "frozen_layers": 0, "frozen_batch_normalization": False}
    )
    return build_network(params, (32, 32, 3), 3, [])


def test_batch_normalization_adapts_faster_with_random_weights(weights: WeightsFile) -> None:
    none = {"weights": "none", "frozen_layers": 0, "frozen_batch_normalization": False, "alpha": ALPHA}
    random = build_network(train_params(network="mobilenet_v2", backbone=none), (32, 32, 3), 4, [])
    for network, momentum in ((random, 0.9), (build_mobilenet(weights), 0.999)):
        normalizations = [layer for layer in network.model.layers if isinstance(layer, keras.layers.BatchNormalization)]
        # The config, which a saved file contains.
        assert {layer.get_config()["momentum"] for layer in normalizations} == {momentum}


class TestFrozenLayers:
    @pytest.mark.parametrize(
        ("frozen", "expected"),
        [
            (0, 0),
            (1, 0),  # the input layer alone
            (2, 1),
            (18, 17),
            (19, 18),
            ("all", 18),
            ("block1_conv1", 1),
            ("block4_pool", 14),
            ("block5_pool", 18),
        ],
    )
    def test_the_first_layers_are_frozen(self, vgg16: BuiltNetwork, frozen: int | str, expected: int) -> None:
        names = [layer.name for layer in vgg16.backbone]
        freeze(vgg16.backbone, count_frozen("train.backbone.frozen_layers", frozen, names), False)
        assert [layer.trainable for layer in vgg16.backbone] == [False] * expected + [True] * (18 - expected)
        convolutions = [name for name in names[expected:] if "conv" in name]
        assert len(vgg16.model.trainable_weights) == 2 * len(convolutions) + 2  # kernels, biases; those of the output

    def test_a_number_counts_as_in_keras(self, vgg16: BuiltNetwork) -> None:
        reference = VGG16(include_top=False, weights=None)
        names = [layer.name for layer in vgg16.backbone]
        assert names == [layer.name for layer in reference.layers[1:]]
        for number in range(1, 20):
            frozen = names[: count_frozen("x", number, names)]
            assert frozen == [layer.name for layer in reference.layers[:number]][1:]

    def test_more_layers_than_exist_are_rejected(self) -> None:
        with pytest.raises(StageError) as caught:
            count_frozen("train.backbone.frozen_layers", 4, ["conv", "pool"])
        assert str(caught.value) == (
            "train.backbone.frozen_layers: the backbone has 3 layers including its input layer; expected at most "
            "as many, or all, got 4"
        )

    @pytest.mark.parametrize(("frozen", "near"), [("block4_pol", "did you mean block4_pool? "), ("xyz", "")])
    def test_an_unknown_layer_is_rejected_with_the_existing_ones(
        self, vgg16: BuiltNetwork, frozen: str, near: str
    ) -> None:
        names = [layer.name for layer in vgg16.backbone]
        with pytest.raises(StageError) as caught:
            count_frozen("train.backbone.fine_tuning.frozen_layers", frozen, names)
        assert str(caught.value) == (
            f"train.backbone.fine_tuning.frozen_layers: the backbone has no layer {frozen}; {near}expected all, a "
            f"number of layers, or one of {', '.join(names)}"
        )


class TestHead:
    @pytest.mark.parametrize("pooling", ["average", "max", "flatten"])
    def test_feature_maps_are_pooled_to_one_row_per_image(self, pooling: str) -> None:
        maps = keras.Input((2, 3, 5))
        values = np.random.default_rng(2).normal(size=(4, 2, 3, 5)).astype(np.float32)
        expected = {
            "average": values.mean(axis=(1, 2)),
            "max": values.max(axis=(1, 2)),
            "flatten": values.reshape(4, 30),
        }
        found = keras.Model(maps, pool_features(maps, pooling))(values)
        np.testing.assert_allclose(found, expected[pooling], rtol=1e-5, atol=1e-6)

    @pytest.mark.parametrize(
        ("dense_units", "names"),
        [
            ([], ["head_dropout"]),
            ([7], ["head_dense_1", "head_dropout_1"]),
            ([7, 5], ["head_dense_1", "head_dropout_1", "head_dense_2", "head_dropout_2"]),
        ],
    )
    def test_each_dense_layer_is_followed_by_dropout(self, dense_units: list[int], names: list[str]) -> None:
        backbone = train_params(
            backbone={"dense_units": dense_units, "dense_activation": "tanh", "dropout": 0.3}
        ).backbone
        features = keras.Input((5,))
        _, *made = keras.Model(features, make_head(features, backbone)).layers
        assert [layer.name for layer in made] == names
        dense = [layer for layer in made if isinstance(layer, keras.layers.Dense)]
        assert [(layer.units, layer.activation) for layer in dense] == [
            (units, keras.activations.tanh) for units in dense_units
        ]
        assert {layer.rate for layer in made if isinstance(layer, keras.layers.Dropout)} == {0.3}
