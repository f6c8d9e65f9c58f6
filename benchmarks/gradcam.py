"""Localization accuracy of saliency maps: with the mean gradient of each feature map, as in Grad-CAM, and with the
gradient at each position, as in this project.

The networks learn drawn images with bright squares in some of the four corners; only the upper left one determines the
class. Prints the fraction of the maps for this class that lies in that corner, as the mean over images with a non-empty
map, and the fraction of images whose map is empty.

Run as  python -m benchmarks.gradcam     (about a minute on two CPUs)
"""

import numpy as np

from darkroom.explanation.gradcam import GradCam, weight_logits
from darkroom.explanation.gradients import find_gradients
from tests.darkroom.explanation.corners import share_in_corner, train_corner

NETWORKS = {"keras_mnist_cnn": 32, "keras_cifar10_cnn": 32, "cats_dogs_cnn": 48}


def measure(name: str, output: str, side: int) -> list[tuple[float, float]]:
    """Measure the fraction in the corner and the fraction of empty maps, with both kinds of gradients."""
    corner = train_corner(name, output, side)
    cam, bright = GradCam(corner.model), corner.pixels[corner.class_ids == 1]
    class_ids = np.ones(len(bright), np.int64)
    features = cam.body.predict_on_batch(bright)
    _, gradients = find_gradients(cam.head, features, weight_logits(class_ids, cam.head.output_shape[-1]))
    mean_gradient_maps = np.maximum((gradients.mean(axis=(1, 2), keepdims=True) * features).sum(axis=-1), 0)
    results = []
    for maps in (mean_gradient_maps, cam.explain(bright, class_ids).maps):
        shares = share_in_corner(maps)
        is_empty = np.isnan(shares)
        results.append((float(shares[~is_empty].mean()) if not is_empty.all() else 0.0, float(is_empty.mean())))
    return results


def main() -> None:
    print("| network | output | mean gradient: in the corner | empty | local gradient: in the corner | empty |")
    print("|---|---|---|---|---|---|")
    for name, side in NETWORKS.items():
        for output in ("softmax", "sigmoid"):
            cells = [f"{value:.2f}" for pair in measure(name, output, side) for value in pair]
            print(f"| `{name}` | {output} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
