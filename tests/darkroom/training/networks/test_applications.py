import shutil
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from keras.applications import MobileNetV2

from darkroom.pipeline.stage import StageError
from darkroom.training.networks import build_network
from darkroom.training.normalization import reverse_channels
from tests.darkroom.training.networks.weights_files import ALPHA, WeightsFile, build_mobilenet, digest, write_weights
from tests.examples import noise, train_params
from tests.project import MATERIAL, ROOT, Project

pytestmark = pytest.mark.slow

KERAS_MODELS = MATERIAL / "keras-home/models"
IMAGENET_FILE = "mobilenet_v2_weights_tf_dim_ordering_tf_kernels_0.35_224_no_top.h5"
HAS_IMAGENET_FILE = (KERAS_MODELS / IMAGENET_FILE).is_file()
UNREACHABLE = "http://127.0.0.1:9"  # a proxy at which every request fails at once, also on a machine with internet


# Keras reads KERAS_HOME and the proxies from the environment when it is imported. For images of 96x96, Keras itself
# would load other weights, of a network that was trained on such images.
OFFLINE = f"""
import os
import socket
import urllib.request
from pathlib import Path
import keras
import numpy as np
from darkroom.pipeline.stage import StageError
from darkroom.training.networks import applications, build_network
from tests.examples import train_params
try:
    build_network(train_params(network="mobilenet_v2"), (32, 32, 3), 3, [])
except StageError as error:
    Path("rejected").write_text(str(error))
applications.STALL_SECONDS = 0.3
with socket.create_server(("127.0.0.1", 0)) as silent:
    os.environ["https_proxy"] = os.environ["HTTPS_PROXY"] = f"http://127.0.0.1:{{silent.getsockname()[1]}}"
    urllib.request.install_opener(None)  # it remembers the proxy
    try:
        build_network(train_params(network="mobilenet_v2"), (32, 32, 3), 3, [])
    except StageError as error:
        Path("stalled").write_text(str(error))
assert socket.getdefaulttimeout() is None
if {HAS_IMAGENET_FILE}:
    params = train_params(network="mobilenet_v2", backbone={{"alpha": {ALPHA}}})
    pixels = np.load("pixels.npy")
    network = build_network(params, (96, 96, 3), 3, [keras.layers.Rescaling(2 / 255, -1)])
    np.save("features.npy", network.body(pixels))
    reference = keras.applications.MobileNetV2(
        alpha={ALPHA}, include_top=False, pooling="avg", input_shape=(96, 96, 3), weights="keras/models/{IMAGENET_FILE}"
    )
    np.save("expected.npy", reference(keras.applications.mobilenet_v2.preprocess_input(pixels.astype(np.float32))))
"""


@pytest.fixture(scope="module")
def offline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which an offline process has loaded ImageNet weights: some that it lacks, and some that it has."""
    folder = tmp_path_factory.mktemp("offline")
    (folder / "keras/models").mkdir(parents=True)
    if HAS_IMAGENET_FILE:
        shutil.copy(KERAS_MODELS / IMAGENET_FILE, folder / "keras/models")
    np.save(folder / "pixels.npy", np.stack([noise(96, 96, 3, seed) for seed in range(3)]))
    proxies = {
        name: UNREACHABLE for scheme in ("http", "https") for name in (f"{scheme}_proxy", f"{scheme}_PROXY".upper())
    }
    environment = {"PYTHONPATH": str(ROOT), "KERAS_HOME": str(folder / "keras"), "no_proxy": "", "NO_PROXY": ""}
    Project(folder).run("python", "-c", OFFLINE, **environment, **proxies)
    return folder


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> WeightsFile:
    return write_weights(tmp_path_factory.mktemp("weights"))


def rejection(weights: WeightsFile, image_shape: tuple[int, int, int] = (32, 32, 3), **backbone: Any) -> str:
    with pytest.raises(StageError) as caught:
        build_mobilenet(weights, image_shape, **backbone)
    (line,) = str(caught.value).splitlines()
    return line


class TestWeightsFile:
    @pytest.mark.parametrize(
        ("height", "width", "normalization"),
        [(32, 32, "imagenet_tf"), (35, 66, "imagenet_caffe")],
    )
    def test_features_are_those_of_keras(
        self, weights: WeightsFile, height: int, width: int, normalization: str
    ) -> None:
        shape = (height, width, 3)
        # The BGR conversion is a layer with weights.
        first = keras.layers.Rescaling(2 / 255, -1) if normalization == "imagenet_tf" else reverse_channels(shape)
        network = build_mobilenet(weights, shape, [first])
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
        assert build_mobilenet(weights._replace(path=Path("a.weights.h5"))).backbone

    def test_a_file_with_another_digest_is_rejected(self, weights: WeightsFile) -> None:
        assert rejection(weights._replace(sha256="0a" * 32)) == (
            f"train.backbone.weights_sha256: is {'0a' * 32}, but {weights.path} has the digest {weights.sha256}; set "
            "weights to another file, or weights_sha256 to this digest"
        )

    @pytest.mark.parametrize(("name", "reason"), [("no.h5", "No such file or directory"), ("in.h5", "Is a directory")])
    def test_an_unreadable_file_is_rejected(self, tmp_path: Path, name: str, reason: str) -> None:
        (tmp_path / "in.h5").mkdir()
        file = tmp_path / name
        assert rejection(WeightsFile(file, "0a" * 32)) == (
            f"train.backbone.weights: {file} cannot be read ({reason}); expected imagenet, none or the path of a "
            "Keras weights file, absolute or relative to this project"
        )

    @pytest.mark.parametrize("name", ["x.weights.json", "x.bin", "imagnet"])
    def test_another_extension_is_rejected(self, name: str) -> None:
        line = rejection(WeightsFile(Path("/photos", name), "0a" * 32))
        assert line == (
            "train.backbone.weights: expected imagenet, none or a file with the extension .h5 or .keras, got "
            f"/photos/{name}"
        )

    @pytest.mark.parametrize("name", ["x.weights.h5", "x.h5", "x.keras"])
    def test_junk_is_rejected(self, tmp_path: Path, name: str) -> None:
        file = tmp_path / name
        file.write_bytes(b"junk" * 99)
        line = rejection(digest(file))
        assert line.startswith(
            f"train.backbone.weights: {file} does not contain the weights of mobilenet_v2 without its top, for alpha "
            "0.35 and 3 channel(s) ("
        )
        assert line.endswith("); use a weights file of that network")

    def test_the_file_of_another_network_is_rejected(self, tmp_path: Path) -> None:
        other = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Conv2D(4, 3)])
        other.save_weights(tmp_path / "x.weights.h5")
        assert "does not contain the weights of mobilenet_v2" in rejection(digest(tmp_path / "x.weights.h5"))

    def test_the_file_of_another_width_is_rejected(self, weights: WeightsFile) -> None:
        assert "for alpha 0.5 and 3 channel(s)" in rejection(weights, alpha=0.5)

    def test_the_file_for_color_images_is_rejected_for_gray_ones(self, weights: WeightsFile) -> None:
        changes = {"weights": str(weights.path), "weights_sha256": weights.sha256, "alpha": ALPHA}
        params = train_params(network="mobilenet_v2", normalization="rescale", backbone=changes)
        with pytest.raises(StageError, match=r"for alpha 0.35 and 1 channel\(s\)"):
            build_network(params, (32, 32, 1), 4, [])


class TestImagenetWeights:
    def test_gray_images_are_rejected_before_anything_is_downloaded(self) -> None:
        with pytest.raises(StageError) as caught:
            build_network(train_params(network="mobilenet_v2"), (32, 32, 1), 3, [])
        assert str(caught.value) == (
            "train.backbone.weights: imagenet requires RGB images (3 channels), got 1 channel(s); set augment.color to "
            "rgb, or weights to none"
        )

    def test_a_failed_download_says_where_to_put_the_file(self, offline: Path) -> None:
        line = (offline / "rejected").read_text()
        assert line.startswith(
            "train.backbone.weights: the ImageNet weights of mobilenet_v2 could not be downloaded (URL fetch failure"
        )
        assert line.endswith(
            f"); connect to the internet once, or put the file into {offline}/keras/models (replacing a corrupt one; "
            "the environment variable KERAS_HOME sets another folder), or set weights to none or to a file"
        )

    def test_a_download_without_data_ends(self, offline: Path) -> None:
        line = (offline / "stalled").read_text()
        assert "the ImageNet weights of mobilenet_v2 could not be downloaded (" in line
        assert "timed out" in line

    @pytest.mark.skipif(not HAS_IMAGENET_FILE, reason=f"needs the ImageNet weights in {KERAS_MODELS}")
    def test_features_are_those_of_keras(self, offline: Path) -> None:
        features, expected = (np.load(offline / name) for name in ("features.npy", "expected.npy"))
        assert features.shape == (3, 1280)
        assert np.ptp(expected, axis=0).max() > 0.1
        np.testing.assert_allclose(features, expected, atol=1e-5)
