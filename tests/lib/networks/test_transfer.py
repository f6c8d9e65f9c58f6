import hashlib
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np
import pytest
from keras.applications import VGG16, MobileNetV2

from stages.lib.networks import Network, build_network
from stages.lib.networks.transfer import count_frozen, freeze, make_head, pool_features
from stages.lib.normalization import reverse_channels
from stages.lib.stage import StageError
from tests.lib.examples import noise, train_params
from tests.lib.networks.waking import wake
from tests.project import ROOT, Project

MATERIAL = ROOT.parent / "shared/material/keras-home/models"
IMAGENET_FILE = "mobilenet_v2_weights_tf_dim_ordering_tf_kernels_0.35_224_no_top.h5"
NOBODY = "http://127.0.0.1:9"  # what is asked of this proxy fails at once, also on a machine with internet
ALPHA = 0.35


class WeightsFile(NamedTuple):
    path: Path
    sha256: str


def digest(file: Path) -> WeightsFile:
    return WeightsFile(file, hashlib.sha256(file.read_bytes()).hexdigest())


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> WeightsFile:
    """The weights of a small MobileNetV2 without its top."""
    keras.utils.set_random_seed(1)
    model = MobileNetV2(alpha=ALPHA, include_top=False, weights=None, input_shape=(64, 64, 3))
    wake(model)
    file = tmp_path_factory.mktemp("weights") / "x.weights.h5"
    model.save_weights(file)
    return digest(file)


@pytest.fixture(scope="module")
def vgg16() -> Network:
    settings = train_params(
        network="vgg16", backbone={"weights": "none", "frozen_layers": 0, "frozen_batch_normalization": False}
    )
    return build_network(settings, (32, 32, 3), 3, [])


def build(
    weights: WeightsFile,
    image_shape: tuple[int, int, int] = (32, 32, 3),
    normalization: list[keras.layers.Layer] | None = None,
    **backbone: Any,
) -> Network:
    """A MobileNetV2 with the weights of a file."""
    changes = {"weights": str(weights.path), "weights_sha256": weights.sha256, "alpha": ALPHA} | backbone
    settings = train_params(network="mobilenet_v2", backbone=changes)
    return build_network(settings, image_shape, 4, normalization or [])


def refusal(weights: WeightsFile, image_shape: tuple[int, int, int] = (32, 32, 3), **backbone: Any) -> str:
    with pytest.raises(StageError) as caught:
        build(weights, image_shape, **backbone)
    (line,) = str(caught.value).splitlines()
    return line


class TestWeightsOfAFile:
    @pytest.mark.parametrize(
        ("height", "width", "normalization"),
        [(32, 32, "imagenet_tf"), (50, 50, "imagenet_caffe"), (35, 66, "imagenet_tf")],
    )
    def test_features_are_those_of_keras(
        self, weights: WeightsFile, height: int, width: int, normalization: str
    ) -> None:
        shape = (height, width, 3)
        # That to blue, green and red has weights of its own.
        first = keras.layers.Rescaling(2 / 255, -1) if normalization == "imagenet_tf" else reverse_channels(shape)
        network = build(weights, shape, [first])
        assert network.body
        reference = MobileNetV2(
            alpha=ALPHA, include_top=False, weights=str(weights.path), input_shape=shape, pooling="avg"
        )
        assert [layer.name for layer in network.backbone] == [layer.name for layer in reference.layers[1:-1]]
        for layer, other in zip(network.backbone, reference.layers[1:-1], strict=True):
            assert all(np.array_equal(*pair) for pair in zip(layer.get_weights(), other.get_weights(), strict=True))
        pixels = np.stack([noise(*shape, seed) for seed in range(2)])
        expected = keras.ops.convert_to_numpy(reference(first(pixels)))
        assert np.ptp(expected, axis=0).max() > 0.1
        np.testing.assert_allclose(network.body(pixels), expected, atol=1e-5)

    def test_a_file_may_be_relative_to_the_project(
        self, weights: WeightsFile, workspace: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        shutil.copy(weights.path, workspace / "a.weights.h5")
        (workspace / "below").mkdir()
        monkeypatch.chdir("below")
        monkeypatch.setenv("DVC_ROOT", str(workspace))
        assert build(weights._replace(path=Path("a.weights.h5"))).backbone

    def test_another_file_than_that_of_the_digest_is_refused(self, weights: WeightsFile) -> None:
        assert refusal(weights._replace(sha256="0a" * 32)) == (
            f"train.backbone.weights_sha256: is {'0a' * 32}, but {weights.path} has {weights.sha256}; name another "
            "file, or put its digest there"
        )

    @pytest.mark.parametrize(("name", "reason"), [("no.h5", "No such file or directory"), ("in.h5", "Is a directory")])
    def test_a_file_that_cannot_be_read_is_refused(self, tmp_path: Path, name: str, reason: str) -> None:
        (tmp_path / "in.h5").mkdir()
        file = tmp_path / name
        assert refusal(WeightsFile(file, "0a" * 32)) == (
            f"train.backbone.weights: {file} cannot be read ({reason}); expected imagenet, none or a file of Keras "
            "weights, absolute or relative to this project"
        )

    @pytest.mark.parametrize("name", ["x.weights.json", "x.bin", "imagnet"])
    def test_another_ending_is_refused(self, name: str) -> None:
        line = refusal(WeightsFile(Path("/photos", name), "0a" * 32))
        assert line == (
            "train.backbone.weights: must end in .h5 or .keras, as Keras asks, or be imagenet or none, got "
            f"/photos/{name}"
        )

    @pytest.mark.parametrize("name", ["x.weights.h5", "x.h5", "x.keras"])
    def test_junk_is_refused(self, tmp_path: Path, name: str) -> None:
        file = tmp_path / name
        file.write_bytes(b"junk" * 99)
        line = refusal(digest(file))
        assert line.startswith(
            f"train.backbone.weights: {file} does not hold the weights of mobilenet_v2 without its top, at alpha 0.35 "
            "and for 3 channel(s) ("
        )
        assert line.endswith("); name a file of that network")

    def test_the_file_of_another_network_is_refused(self, tmp_path: Path) -> None:
        other = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Conv2D(4, 3)])
        other.save_weights(tmp_path / "x.weights.h5")
        assert "does not hold the weights of mobilenet_v2" in refusal(digest(tmp_path / "x.weights.h5"))

    def test_the_file_of_another_width_is_refused(self, weights: WeightsFile) -> None:
        assert "at alpha 0.5 and for 3 channel(s)" in refusal(weights, alpha=0.5)

    def test_the_file_of_color_images_is_refused_for_gray_ones(self, weights: WeightsFile) -> None:
        changes = {"weights": str(weights.path), "weights_sha256": weights.sha256, "alpha": ALPHA}
        settings = train_params(network="mobilenet_v2", normalization="rescale", backbone=changes)
        with pytest.raises(StageError, match=r"at alpha 0.35 and for 1 channel\(s\)"):
            build_network(settings, (32, 32, 1), 4, [])


class TestWeightsOfImagenet:
    def test_gray_images_are_refused_before_anything_is_fetched(self) -> None:
        with pytest.raises(StageError) as caught:
            build_network(train_params(network="mobilenet_v2"), (32, 32, 1), 3, [])
        assert str(caught.value) == (
            "train.backbone.weights: imagenet needs images of 3 channels, red, green and blue, got 1; set "
            "augment.color to rgb, or weights to none"
        )

    # Keras takes KERAS_HOME and the proxies from the environment when it is imported.
    def test_weights_that_cannot_be_fetched_say_where_they_may_be_put(self, tmp_path: Path) -> None:
        driver = """
from stages.lib.networks import build_network
from stages.lib.stage import StageError
from tests.lib.examples import train_params
try:
    build_network(train_params(network="mobilenet_v2"), (32, 32, 3), 3, [])
except StageError as error:
    print("refused:", error)
"""
        proxies = {
            name: NOBODY for scheme in ("http", "https") for name in (f"{scheme}_proxy", f"{scheme}_PROXY".upper())
        }
        home = tmp_path / "keras"
        done = Project(tmp_path).run(
            "python", "-c", driver, PYTHONPATH=str(ROOT), KERAS_HOME=str(home), no_proxy="", NO_PROXY="", **proxies
        )
        line = done.stdout.splitlines()[-1]
        assert line.startswith(
            "refused: train.backbone.weights imagenet: those of mobilenet_v2 could not be fetched (URL fetch failure"
        )
        assert line.endswith(
            f"); go online once, or put the file into {home}/models (instead of a damaged one; the environment "
            "variable KERAS_HOME names another folder), or set weights to none or to a file"
        )

    @pytest.mark.skipif(not (MATERIAL / IMAGENET_FILE).is_file(), reason=f"needs the ImageNet weights in {MATERIAL}")
    def test_features_are_those_of_keras(self, tmp_path: Path) -> None:
        (tmp_path / "keras/models").mkdir(parents=True)
        shutil.copy(MATERIAL / IMAGENET_FILE, tmp_path / "keras/models")
        np.save(tmp_path / "pixels.npy", np.stack([noise(96, 96, 3, seed) for seed in range(3)]))
        # What Keras itself would ask for at this size are other weights, of a network that was trained with it.
        driver = f"""
import keras
import numpy as np
from stages.lib.networks import build_network
from tests.lib.examples import train_params
settings = train_params(network="mobilenet_v2", backbone={{"alpha": {ALPHA}}})
pixels = np.load("pixels.npy")
network = build_network(settings, (96, 96, 3), 3, [keras.layers.Rescaling(2 / 255, -1)])
np.save("features.npy", network.body(pixels))
reference = keras.applications.MobileNetV2(
    alpha={ALPHA}, include_top=False, pooling="avg", input_shape=(96, 96, 3), weights="keras/models/{IMAGENET_FILE}"
)
np.save("expected.npy", reference(keras.applications.mobilenet_v2.preprocess_input(pixels.astype(np.float32))))
"""
        home = str(tmp_path / "keras")
        Project(tmp_path).run(
            "python", "-c", driver, PYTHONPATH=str(ROOT), KERAS_HOME=home, http_proxy=NOBODY, https_proxy=NOBODY
        )
        features, expected = (np.load(tmp_path / name) for name in ("features.npy", "expected.npy"))
        assert features.shape == (3, 1280)
        assert np.ptp(expected, axis=0).max() > 0.1
        np.testing.assert_allclose(features, expected, atol=1e-5)


def test_statistics_follow_sooner_where_the_weights_are_random(weights: WeightsFile) -> None:
    none = {"weights": "none", "frozen_layers": 0, "frozen_batch_normalization": False, "alpha": ALPHA}
    random = build_network(train_params(network="mobilenet_v2", backbone=none), (32, 32, 3), 4, [])
    for network, momentum in ((random, 0.9), (build(weights), 0.999)):
        copy = keras.models.clone_model(network.model)  # from the config, as a file holds it
        assert {layer.momentum for layer in copy.layers if isinstance(layer, keras.layers.BatchNormalization)} == {
            momentum
        }


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
    def test_so_many_of_the_first_layers_keep_their_weights(
        self, vgg16: Network, frozen: int | str, expected: int
    ) -> None:
        names = [layer.name for layer in vgg16.backbone]
        freeze(vgg16.backbone, count_frozen("train.backbone.frozen_layers", frozen, names), False)
        assert [layer.trainable for layer in vgg16.backbone] == [False] * expected + [True] * (18 - expected)
        convolutions = [name for name in names[expected:] if "conv" in name]
        assert len(vgg16.model.trainable_weights) == 2 * len(convolutions) + 2  # kernels, biases; those of the output

    def test_a_number_counts_as_in_keras(self, vgg16: Network) -> None:
        reference = VGG16(include_top=False, weights=None)
        names = [layer.name for layer in vgg16.backbone]
        assert names == [layer.name for layer in reference.layers[1:]]
        for number in range(1, 20):
            frozen = names[: count_frozen("x", number, names)]
            assert frozen == [layer.name for layer in reference.layers[:number]][1:]

    def test_more_layers_than_there_are_is_refused(self) -> None:
        with pytest.raises(StageError) as caught:
            count_frozen("train.backbone.frozen_layers", 4, ["conv", "pool"])
        assert str(caught.value) == (
            "train.backbone.frozen_layers: the backbone has 3 layers with its input layer; set it to fewer "
            "or all, got 4"
        )

    @pytest.mark.parametrize(("frozen", "near"), [("block4_pol", "did you mean block4_pool? "), ("xyz", "")])
    def test_an_unknown_layer_is_refused_with_those_that_there_are(
        self, vgg16: Network, frozen: str, near: str
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
    def test_maps_are_pooled_to_one_row(self, pooling: str) -> None:
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
    def test_dense_layers_each_have_a_dropout(self, dense_units: list[int], names: list[str]) -> None:
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
