import keras
import numpy as np
import pytest
from keras import layers

from darkroom.explanation.gradcam import LEAST_SIDE, GradCam, lay_over, list_calls, spread
from darkroom.params.train import CNNS
from darkroom.pipeline.arrays import Pixels
from darkroom.pipeline.stage import StageError
from tests.darkroom.explanation.corners import SIDE, Corner, build, share_in_corner, train_corner
from tests.examples import noise

pytestmark = pytest.mark.slow


def pictures(count: int = 3, side: int = SIDE, channels: int = 3) -> Pixels:
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
    def test_it_is_explained_by_maps_and_gives_its_own_probabilities(self, name: str, output: str) -> None:
        model, pixels = build(name, output), pictures()
        cam = GradCam(model)
        explanation = cam.explain(pixels)
        np.testing.assert_allclose(explanation.probabilities, model.predict_on_batch(pixels), atol=1e-5)
        assert explanation.maps.ndim == 3
        assert len(explanation.maps) == 3
        assert min(explanation.maps.shape[1:]) >= LEAST_SIDE
        assert np.isfinite(explanation.maps).all()
        assert explanation.maps.min() >= 0
        others = [cam.explain(pixels, np.full(3, number)).maps for number in range(model.output_shape[-1])]
        assert len({maps.tobytes() for maps in others}) > 1

    def test_the_last_convolution_is_explained_and_not_the_pooling_behind_it(self) -> None:
        cam = GradCam(build("keras_cifar10_cnn"))
        assert isinstance(cam.body.layers[-1], layers.Conv2D)
        assert cam.body.layers[-1].name == cam.layer

    def test_where_branches_meet_they_are_explained_together(self) -> None:
        model = build("compact_cnn")
        last = [layer for layer in model.layers if len(layer.output.shape) == 4][-1]
        assert GradCam(build("compact_cnn", side=128)).body.output_shape[1:3] == (8, 8)
        assert type(last) is layers.Activation
        assert GradCam(model).layer == last.name

    def test_of_small_images_earlier_maps_are_taken(self) -> None:
        assert GradCam(build("compact_cnn", side=16, channels=1)).body.output_shape[1:3] == (4, 4)

    def test_the_convolution_of_an_image_of_a_few_pixels_is_explained_too(self) -> None:
        model = chain(layers.Conv2D(3, 2, activation="relu"), layers.Flatten(), shape=(3, 3, 1))
        assert GradCam(model).explain(pictures(2, 3, 1)).maps.shape == (2, 2, 2)

    def test_what_stands_before_the_first_convolution_is_no_feature_map(self) -> None:
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
    def test_behind_a_mean_they_are_the_class_activation_maps(self) -> None:
        """Selvaraju et al. prove it: there, Grad-CAM is the CAM of B. Zhou et al., 2016, but for a constant."""
        model = chain(layers.Conv2D(5, 3, activation="relu"), layers.GlobalAveragePooling2D())
        pixels = pictures(4, 8, 1)
        features = keras.Model(model.inputs, model.layers[1].output).predict_on_batch(pixels)
        kernel = model.layers[-1].get_weights()[0]
        for number in range(3):
            expected = np.maximum(features @ kernel[:, number], 0) / 36
            maps = GradCam(model).explain(pixels, np.full(4, number)).maps
            np.testing.assert_allclose(maps, expected, rtol=1e-4, atol=1e-6 * expected.max())

    def test_they_follow_the_slope_of_the_logit_in_any_head(self) -> None:
        """Measured by small steps, as derivatives are before anybody knows a rule for them."""
        tail = [layers.Flatten(), layers.Dense(7, activation="tanh")]
        model = chain(layers.Conv2D(4, 3), *tail, shape=(6, 6, 1))
        cam, pixels = GradCam(model), pictures(1, 6, 1).astype(np.float32) / 255
        features, step = cam.body.predict_on_batch(pixels), 1e-2
        slopes = np.zeros_like(features)
        for place in np.ndindex(features.shape):
            change = np.zeros_like(features)
            change[place] = step
            up, down = (cam.head.predict_on_batch(features + sign * change)[0, 1] for sign in (1, -1))
            slopes[place] = (up - down) / (2 * step)
        expected = np.maximum((slopes * features).sum(axis=-1), 0)
        np.testing.assert_allclose(cam.explain(pixels, np.array([1])).maps, expected, rtol=0.02, atol=1e-4)

    def test_of_a_sigmoid_what_speaks_for_one_label_speaks_against_the_other(self) -> None:
        model, pixels = build("keras_mnist_cnn", "sigmoid", 16), pictures(2, 16)
        cam = GradCam(model)
        first, second = (cam.explain(pixels, np.full(2, number)).maps for number in (0, 1))
        assert first.max() > 0
        assert second.max() > 0
        assert not ((first > 0) & (second > 0)).any()

    def test_without_a_label_they_speak_for_the_likeliest(self) -> None:
        cam, pixels = GradCam(build("sigmoid_cnn")), pictures(5)
        likeliest = cam.explain(pixels).probabilities.argmax(axis=1)
        np.testing.assert_array_equal(cam.explain(pixels).maps, cam.explain(pixels, likeliest).maps)

    def test_an_image_is_explained_alike_in_any_batch(self) -> None:
        cam, pixels = GradCam(build("compact_cnn")), pictures(4)
        np.testing.assert_allclose(cam.explain(pixels[2:3]).maps[0], cam.explain(pixels).maps[2], rtol=1e-3, atol=1e-9)


class TestNested:
    def test_a_backbone_that_is_a_layer_is_opened(self) -> None:
        flat = build("mobilenet_v2")
        inner = keras.Model(flat.inputs, flat.layers[-3].output)  # to its pooled features
        pixels = keras.Input((SIDE, SIDE, 3))
        head = layers.Dense(4, activation="softmax", name="probabilities")
        nested = keras.Model(pixels, head(inner(pixels)))
        head.set_weights(flat.layers[-1].get_weights())
        ours, theirs = GradCam(nested), GradCam(flat)
        assert ours.layer == theirs.layer
        np.testing.assert_array_equal(ours.explain(pictures()).maps, theirs.explain(pictures()).maps)

    def test_chains_in_models_in_models_are_opened(self) -> None:
        innermost = keras.Sequential([keras.Input((8, 8, 1)), layers.Conv2D(4, 3, activation="relu", name="deep")])
        given = keras.Input((8, 8, 1))
        middle = keras.Model(given, layers.GlobalMaxPooling2D()(innermost(given)))
        model = chain(middle)
        explanation = GradCam(model).explain(pictures(2, 8, 1))
        assert GradCam(model).layer == "deep"
        np.testing.assert_allclose(explanation.probabilities, model.predict_on_batch(pictures(2, 8, 1)), atol=1e-6)

    def test_the_model_itself_is_left_as_it_was(self) -> None:
        model, pixels = build("compact_cnn"), pictures()
        before = model.predict_on_batch(pixels), [layer.name for layer in model.layers], model.count_params()
        GradCam(model).explain(pixels)
        after = model.predict_on_batch(pixels), [layer.name for layer in model.layers], model.count_params()
        np.testing.assert_array_equal(before[0], after[0])
        assert before[1:] == after[1:]

    def test_calls_are_listed_in_the_order_of_their_work(self) -> None:
        model = chain(layers.Conv2D(2, 3, name="one"), layers.ReLU(name="two"), layers.Flatten(name="three"))
        calls = list_calls(model, keras.Input((8, 8, 1)))
        assert [call.layer.name for call in calls] == ["one", "two", "three", "probabilities"]


class TestRefusals:
    def test_a_network_without_a_convolution(self) -> None:
        with pytest.raises(StageError, match="no feature maps in the network .*, which has no convolution"):
            GradCam(chain(layers.Flatten()))

    def test_a_network_that_gives_no_probabilities(self) -> None:
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
    return train_corner(*request.param)


class TestSanity:
    """J. Adebayo et al., "Sanity checks for saliency maps", 2018."""

    def test_the_map_lies_in_the_corner_that_says_which_class_it_is(self, corner: Corner) -> None:
        bright = corner.pixels[corner.numbers == 1]
        maps = GradCam(corner.model).explain(bright, np.ones(len(bright), np.int64)).maps
        assert share_in_corner(maps).mean() > 0.75

    @pytest.mark.parametrize("randomized", ["head", "all"])
    def test_other_weights_give_other_maps(self, corner: Corner, randomized: str) -> None:
        asked = np.ones(len(corner.pixels), np.int64)
        before = GradCam(corner.model).explain(corner.pixels, asked).maps
        weights = corner.model.get_weights()
        # The last dense layer's kernel and bias, or all.
        kept = len(weights) - 2 if randomized == "head" else 0
        keras.utils.set_random_seed(11)
        other = keras.models.clone_model(corner.model)
        other.set_weights([*weights[:kept], *other.get_weights()[kept:]])
        after = GradCam(other).explain(corner.pixels, asked).maps
        assert correlate(before, before) == pytest.approx(1)
        assert correlate(before, after) < 0.5


def correlate(first: np.ndarray, second: np.ndarray) -> float:
    """The mean correlation of maps, those without any mass left out."""
    pairs = [(a.ravel(), b.ravel()) for a, b in zip(first, second, strict=True) if a.std() and b.std()]
    return float(np.mean([np.corrcoef(a, b)[0, 1] for a, b in pairs] or [0.0]))


class TestPictures:
    WEIGHTS = np.array([[0, 0], [0, 2]], np.float32)

    @pytest.mark.parametrize("channels", [1, 3])
    def test_what_speaks_most_is_red_and_what_does_not_is_gray(self, channels: int) -> None:
        laid = lay_over(np.full((40, 60, channels), 100, np.uint8), self.WEIGHTS)
        assert (laid.shape, laid.dtype) == ((40, 60, 3), np.uint8)
        assert laid[0, 0].tolist() == [100, 100, 100]
        red, green, blue = laid[-1, -1].astype(int)
        assert red > 2 * green
        assert red > 2 * blue

    def test_a_map_of_nothing_leaves_the_gray_photo(self) -> None:
        pixels = noise(20, 20, 1)
        laid = lay_over(pixels, np.zeros((5, 5), np.float32))
        np.testing.assert_array_equal(laid, pixels.repeat(3, axis=2))

    def test_only_how_much_more_counts_and_not_how_much(self) -> None:
        pixels = noise(20, 20)
        np.testing.assert_array_equal(lay_over(pixels, self.WEIGHTS), lay_over(pixels, 1000 * self.WEIGHTS))

    def test_a_map_is_spread_without_leaving_its_range(self) -> None:
        wide = spread(self.WEIGHTS, 40, 60)
        assert wide.shape == (40, 60)
        assert (wide.min(), wide.max()) == (0, 2)
