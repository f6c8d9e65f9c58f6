"""Whether maps of what a network looks at are true: with the mean gradient of each feature map, as Grad-CAM has it, and
with each place's own gradient, as this project has it.

The networks learn drawn pictures with bright squares in some of the four corners, of which the left upper one alone
says which class a picture is. Told is how much of the maps for this class lies in that corner, in the mean over the
pictures that have a map at all, and how many have none.

Run as  python -m benchmarks.gradcam     (about a minute on two processors)
"""

import numpy as np

from darkroom.explanation.gradcam import GradCam, weigh_logits
from darkroom.explanation.gradients import find_gradients
from tests.darkroom.explanation.corners import share_in_corner, train_corner

NETWORKS = {"keras_mnist_cnn": 32, "keras_cifar10_cnn": 32, "cats_dogs_cnn": 48}


def measure(name: str, output: str, side: int) -> list[tuple[float, float]]:
    """The share in the corner, and the share of pictures without a map: of the mean gradient's maps and of ours."""
    corner = train_corner(name, output, side)
    cam, bright = GradCam(corner.model), corner.pixels[corner.numbers == 1]
    asked = np.ones(len(bright), np.int64)
    features = cam.body.predict_on_batch(bright)
    _, gradients = find_gradients(cam.head, features, weigh_logits(asked, cam.head.output_shape[-1]))
    by_mean = np.maximum((gradients.mean(axis=(1, 2), keepdims=True) * features).sum(axis=-1), 0)
    found = []
    for maps in (by_mean, cam.explain(bright, asked).maps):
        shares = share_in_corner(maps)
        is_empty = np.isnan(shares)
        found.append((float(shares[~is_empty].mean()) if not is_empty.all() else 0.0, float(is_empty.mean())))
    return found


def main() -> None:
    print("| network | output | mean gradient: share in the corner | no map | own gradient: share | no map |")
    print("|---|---|---|---|---|---|")
    for name, side in NETWORKS.items():
        for output in ("softmax", "sigmoid"):
            cells = [f"{value:.2f}" for pair in measure(name, output, side) for value in pair]
            print(f"| `{name}` | {output} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
