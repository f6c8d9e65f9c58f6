import keras
import numpy as np
import pytest
from keras import layers

from darkroom.explanation.gradcam import LEAST_SIDE, GradCam, lay_over, list_calls, resize_map
from darkroom.params.train import CNNS
from darkroom.pipeline.arrays import Pixels
from darkroom.pipeline.stage import StageError
from tests.darkroom.explanation.corners import SIDE, Corner, build, share_in_corner, train_corner
from tests.examples import noise

pytestmark = pytest.mark.slow

FEW_FILTERS = {"keras_mnist_cnn": [16, 32], "keras_cifar10_cnn": [8, 8, 16, 16]}


def noise_batch(count: int = 3, side: int = SIDE, channels: int = 3) -> Pixels:
    return np.stack([noise(side, side, channels, seed) for seed in range(count)])


class TestEveryNetwork:
    @pytest.mark.parametrize(
        ("name", "output"),
        [
            *((name, output) for name in [*CNNS, "vgg16"] for output in ("softmax", "sigmoid")),
            *((name, "softmax") for name in ("resnet50", "mobilenet_v2", "densenet121", "efficientnet_v2_b0")),
            ("mobilenet_v3_small", "sigmoid"),
        ],
    )
    def test_maps_and_unchanged_probabilities(self, name: str, output: str) -> None:
        model, pixels = build(name, output), noise_batch()
        cam = GradCam(model)
        explanation = cam.explain(pixels)
        np.testing.assert_allclose(explanation.probabilities, model(pixels, training=False), atol=1e-5)
        assert explanation.maps.ndim == 3
        assert len(explanation.maps) == 3
        assert min(explanation.maps.shape[1:]) >= LEAST_SIDE
        assert np.isfinite(explanation.maps).all()
        assert explanation.maps.min() >= 0
        first, second = (cam.explain(pixels, np.full(3, number)).maps for number in (0, 1))
        assert first.any()
        assert second.any()
        assert not np.array_equal(first, second)

    def test_the_last_convolution_is_explained_and_not_the_pooling_after_it(self) -> None:
        cam = GradCam(build("keras_cifar10_cnn"))
        assert isinstance(cam.body.layers[-1], layers.Conv2D)
        assert cam.body.layers[-1].name == cam.layer

    def test_merged_branches_are_explained_together(self) -> None:
        model = build("compact_cnn")
        last = [layer for layer in model.layers if len(layer.output.shape) == 4][-1]
        assert GradCam(build("compact_cnn", side=128)).body.output_shape[1:3] == (8, 8)
        assert type(last) is layers.Activation
        assert GradCam(model).layer == last.name

    def test_small_images_use_earlier_maps(self) -> None:
        assert GradCam(build("compact_cnn", side=16, channels=1)).body.output_shape[1:3] == (4, 4)

    def test_an_image_of_a_few_pixels_can_be_explained(self) -> None:
        model = chain(layers.Conv2D(3, 2, activation="relu"), layers.Flatten(), shape=(3, 3, 1))
        assert GradCam(model).explain(noise_batch(2, 3, 1)).maps.shape == (2, 2, 2)

    def test_outputs_before_the_first_convolution_are_not_feature_maps(self) -> None:
        whitening = [layers.Flatten(), layers.Dense(64), layers.Reshape((8, 8, 1))]
        model = chain(*whitening, layers.Conv2D(3, 3, name="only"), layers.Flatten(), shape=(8, 8, 1))
        assert GradCam(model).layer == "only"


def chain(*parts: keras.layers.Layer, shape: tuple[int, int, int] = (8, 8, 1), classes: int = 3) -> keras.Model:
    keras.utils.set_random_seed(3)
    pixels = values = keras.Input(shape)
    for part in parts:
        values = part(values)
    return keras.Model(pixels, layers.Dense(classes, activation="softmax", name="probabilities")(values))


class TestMaps:
    def test_with_average_pooling_they_are_the_class_activation_maps(self) -> None:
        """Selvaraju et al. prove it: here, Grad-CAM equals the CAM of B. Zhou et al., 2016, up to a constant."""
        model = chain(layers.Conv2D(5, 3, activation="relu"), layers.GlobalAveragePooling2D())
        pixels = noise_batch(4, 8, 1)
        features = keras.Model(model.inputs, model.layers[1].output).predict_on_batch(pixels)
        kernel = model.layers[-1].get_weights()[0]
        for number in range(3):
            expected = np.maximum(features @ kernel[:, number], 0) / 36
            maps = GradCam(model).explain(pixels, np.full(4, number)).maps
            np.testing.assert_allclose(maps, expected, rtol=1e-4, atol=1e-6 * expected.max())

    def test_they_use_the_gradient_of_the_logit_with_any_head(self) -> None:
        """Compared with finite differences."""
        tail = [layers.Flatten(), layers.Dense(7, activation="tanh")]
        model = chain(layers.Conv2D(4, 3), *tail, shape=(6, 6, 1))
        cam, pixels = GradCam(model), noise_batch(1, 6, 1).astype(np.float32) / 255
        features, step = cam.body.predict_on_batch(pixels), 1e-2
        gradients = np.zeros_like(features)
        for index in np.ndindex(features.shape):
            change = np.zeros_like(features)
            change[index] = step
            up, down = (cam.head.predict_on_batch(features + sign * change)[0, 1] for sign in (1, -1))
            gradients[index] = (up - down) / (2 * step)
        expected = np.maximum((gradients * features).sum(axis=-1), 0)
        np.testing.assert_allclose(cam.explain(pixels, np.array([1])).maps, expected, rtol=0.02, atol=1e-4)

    def test_with_a_sigmoid_evidence_for_one_class_is_evidence_against_the_other(self) -> None:
        model, pixels = build("keras_mnist_cnn", "sigmoid", 16), noise_batch(2, 16)
        cam = GradCam(model)
        first, second = (cam.explain(pixels, np.full(2, number)).maps for number in (0, 1))
        assert first.max() > 0
        assert second.max() > 0
        assert not ((first > 0) & (second > 0)).any()

    def test_the_predicted_class_is_explained_by_default(self) -> None:
        cam, pixels = GradCam(build("sigmoid_cnn")), noise_batch(5)
        predicted = cam.explain(pixels).probabilities.argmax(axis=1)
        np.testing.assert_array_equal(cam.explain(pixels).maps, cam.explain(pixels, predicted).maps)

    def test_an_explanation_does_not_depend_on_the_batch(self) -> None:
        cam, pixels = GradCam(build("compact_cnn")), noise_batch(4)
        np.testing.assert_allclose(cam.explain(pixels[2:3]).maps[0], cam.explain(pixels).maps[2], rtol=1e-3, atol=1e-9)


class TestNested:
    def test_a_backbone_that_is_a_layer_is_opened(self) -> None:
        flat = build("compact_cnn")
        inner = keras.Model(flat.inputs, flat.layers[-3].output)  # to its pooled features
        pixels = keras.Input((SIDE, SIDE, 3))
        head = layers.Dense(4, activation="softmax", name="probabilities")
        nested = keras.Model(pixels, head(inner(pixels)))
        head.set_weights(flat.layers[-1].get_weights())
        nested_cam, flat_cam = GradCam(nested), GradCam(flat)
        assert nested_cam.layer == flat_cam.layer
        maps = flat_cam.explain(noise_batch()).maps
        assert maps.any()
        np.testing.assert_array_equal(nested_cam.explain(noise_batch()).maps, maps)

    def test_sequential_models_in_nested_models_are_opened(self) -> None:
        innermost = keras.Sequential([keras.Input((8, 8, 1)), layers.Conv2D(4, 3, activation="relu", name="deep")])
        given = keras.Input((8, 8, 1))
        middle = keras.Model(given, layers.GlobalMaxPooling2D()(innermost(given)))
        model = chain(middle)
        explanation = GradCam(model).explain(noise_batch(2, 8, 1))
        assert GradCam(model).layer == "deep"
        np.testing.assert_allclose(explanation.probabilities, model.predict_on_batch(noise_batch(2, 8, 1)), atol=1e-6)

    def test_the_model_is_not_modified(self) -> None:
        model, pixels = build("compact_cnn"), noise_batch()
        before = model.predict_on_batch(pixels), [layer.name for layer in model.layers], model.count_params()
        GradCam(model).explain(pixels)
        after = model.predict_on_batch(pixels), [layer.name for layer in model.layers], model.count_params()
        np.testing.assert_array_equal(before[0], after[0])
        assert before[1:] == after[1:]

    def test_calls_are_listed_in_execution_order(self) -> None:
        model = chain(layers.Conv2D(2, 3, name="one"), layers.ReLU(name="two"), layers.Flatten(name="three"))
        calls = list_calls(model, keras.Input((8, 8, 1)))
        assert [call.layer.name for call in calls] == ["one", "two", "three", "probabilities"]


class TestErrors:
    def test_a_network_without_a_convolution(self) -> None:
        with pytest.raises(StageError, match="no feature maps in the network .*: it has no convolution"):
            GradCam(chain(layers.Flatten()))

    def test_a_network_without_a_softmax(self) -> None:
        pixels = keras.Input((8, 8, 1))
        outputs = layers.Dense(3, name="scores")(layers.Flatten()(layers.Conv2D(2, 3)(pixels)))
        with pytest.raises(StageError, match="needs a network that ends in a softmax, got one that ends in scores"):
            GradCam(keras.Model(pixels, outputs))


@pytest.fixture(
    scope="module",
    params=[("keras_mnist_cnn", "softmax"), ("keras_mnist_cnn", "sigmoid"), ("keras_cifar10_cnn", "softmax")],
    ids="-".join,
)
def corner(request: pytest.FixtureRequest) -> Corner:
    return train_corner(*request.param, cnn={"filters": FEW_FILTERS[request.param[0]]})


class TestSanity:
    """J. Adebayo et al., "Sanity checks for saliency maps", 2018."""

    def test_the_map_highlights_the_corner_that_decides_the_class(self, corner: Corner) -> None:
        bright = corner.pixels[corner.class_ids == 1]
        maps = GradCam(corner.model).explain(bright, np.ones(len(bright), np.int64)).maps
        assert share_in_corner(maps).mean() > 0.75

    @pytest.mark.parametrize("randomized", ["head", "all"])
    def test_randomized_weights_give_different_maps(self, corner: Corner, randomized: str) -> None:
        class_ids = np.ones(len(corner.pixels), np.int64)
        before = GradCam(corner.model).explain(corner.pixels, class_ids).maps
        weights = corner.model.get_weights()
        # The last dense layer's kernel and bias, or all weights.
        unchanged = len(weights) - 2 if randomized == "head" else 0
        keras.utils.set_random_seed(11)
        other = keras.models.clone_model(corner.model)
        other.set_weights([*weights[:unchanged], *other.get_weights()[unchanged:]])
        after = GradCam(other).explain(corner.pixels, class_ids).maps
        assert correlate(before, before) == pytest.approx(1)
        assert correlate(before, after) < 0.5


def correlate(first: np.ndarray, second: np.ndarray) -> float:
    """The mean correlation of maps, without constant ones."""
    pairs = [(a.ravel(), b.ravel()) for a, b in zip(first, second, strict=True) if a.std() and b.std()]
    return float(np.mean([np.corrcoef(a, b)[0, 1] for a, b in pairs] or [0.0]))


class TestOverlay:
    WEIGHTS = np.array([[0, 0], [0, 2]], np.float32)

    @pytest.mark.parametrize("channels", [1, 3])
    def test_the_strongest_evidence_is_red_and_none_is_gray(self, channels: int) -> None:
        overlay = lay_over(np.full((40, 60, channels), 100, np.uint8), self.WEIGHTS)
        assert (overlay.shape, overlay.dtype) == ((40, 60, 3), np.uint8)
        assert overlay[0, 0].tolist() == [100, 100, 100]
        red, green, blue = overlay[-1, -1].astype(int)
        assert red > 2 * green
        assert red > 2 * blue

    def test_an_empty_map_gives_the_photo_in_gray(self) -> None:
        pixels = noise(20, 20, 1)
        overlay = lay_over(pixels, np.zeros((5, 5), np.float32))
        np.testing.assert_array_equal(overlay, pixels.repeat(3, axis=2))

    def test_the_scale_of_a_map_does_not_matter(self) -> None:
        pixels = noise(20, 20)
        np.testing.assert_array_equal(lay_over(pixels, self.WEIGHTS), lay_over(pixels, 1000 * self.WEIGHTS))

    def test_a_resized_map_stays_in_its_range(self) -> None:
        wide = resize_map(self.WEIGHTS, 40, 60)
        assert wide.shape == (40, 60)
        assert (wide.min(), wide.max()) == (0, 2)
