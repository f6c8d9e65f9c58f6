"""Recall and speed of the duplicate search in the split stage.

Prints for each folder of photos: the pairs found, by kind; how many modified copies of its photos are found, by
modification; and the seconds per 1,000 photos. Only a human can decide whether a pair of near duplicates is one photo
or two: pairs that were inspected and found to be different photos are listed as false alarms, and pairs that were not
inspected by name. Finally prints the seconds for the 70,000 digits of MNIST.

Run as  python -m benchmarks.duplicates             (../shared/material; about ten minutes on two CPUs)
        python -m benchmarks.duplicates FOLDER      (all photos in it and in its folders)
"""

import gzip
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from darkroom.photos.images import ImageError, decode_image, prepare_image, upright_rgb
from darkroom.splitting.duplicates import (
    DuplicatePair,
    Fingerprint,
    find_duplicates,
    hash_thumbnails,
    take_fingerprint,
)
from tests.examples import encode
from tests.project import ROOT

MATERIAL = ROOT.parent / "shared/material"
FOLDERS = ("guitars", "monkeys", "cats-dogs-flat")
SIMILARITY = 0.99
IMAGE_SIZE = (100, 100)
COPIED_PHOTOS = 200
MNIST_HEADER_BYTES = 16

Transpose = Image.Transpose
CHANGES: Mapping[str, Callable[[Image.Image], bytes]] = {
    "flipped": lambda photo: encode(photo.transpose(Transpose.FLIP_LEFT_RIGHT)),
    "upside down": lambda photo: encode(photo.transpose(Transpose.FLIP_TOP_BOTTOM)),
    "rotated by 90 degrees": lambda photo: encode(photo.transpose(Transpose.ROTATE_90)),
    "rotated by 270 degrees": lambda photo: encode(photo.transpose(Transpose.ROTATE_270)),
    "JPEG of quality 60": lambda photo: encode(photo, "JPEG", quality=60),
    "half the size": lambda photo: encode(halve(photo)),
    "flipped, half the size, JPEG": lambda photo: encode(
        halve(photo).transpose(Transpose.FLIP_LEFT_RIGHT), "JPEG", quality=60
    ),
    "rotated by 90 degrees, half the size, JPEG": lambda photo: encode(
        halve(photo).transpose(Transpose.ROTATE_90), "JPEG", quality=60
    ),
    # Modifications that the search is not designed for.
    "gray": lambda photo: encode(photo.convert("L")),
    "20 % brighter": lambda photo: encode(photo.point(lambda value: min(255, value * 1.2))),
    "a tenth of the size": lambda photo: encode(photo.resize(shrink(photo.size, 10))),
    "cropped by 2 % at each side": lambda photo: encode(cut_border(photo, 0.02)),
    "cropped by 5 % at each side": lambda photo: encode(cut_border(photo, 0.05)),
    "rotated by 2 degrees": lambda photo: encode(photo.rotate(2)),
}


def shrink(size: tuple[int, int], divisor: int) -> tuple[int, int]:
    return max(1, size[0] // divisor), max(1, size[1] // divisor)


def halve(photo: Image.Image) -> Image.Image:
    return photo.resize(shrink(photo.size, 2))


def cut_border(photo: Image.Image, share: float) -> Image.Image:
    left, upper = round(photo.width * share), round(photo.height * share)
    return photo.crop((left, upper, photo.width - left, photo.height - upper))


# Inspected pairs of the material that show two objects, or are two photos of one object.
FALSE_ALARMS = {
    ("guitars/fender_jaguar/000016.jpg", "guitars/fender_jaguar/000019.jpg"),
    ("guitars/fender_jaguar/000031.jpg", "guitars/fender_jaguar/000112.jpg"),
    ("guitars/fender_jaguar/000041.jpg", "guitars/fender_jazzmaster/000156.jpg"),
    ("guitars/fender_jaguar/000074.jpg", "guitars/fender_jazzmaster/000230.jpg"),
    ("guitars/fender_stratocaster/000001.jpg", "guitars/fender_stratocaster/000056.jpg"),
    ("guitars/fender_stratocaster/000001.jpg", "guitars/fender_stratocaster/000222.jpg"),
    ("guitars/fender_stratocaster/000005.jpg", "guitars/fender_stratocaster/000025.jpg"),
    ("guitars/fender_stratocaster/000005.jpg", "guitars/fender_stratocaster/000222.jpg"),
    ("guitars/gibson_ES/000139.jpg", "guitars/gibson_ES/000260.jpg"),
    ("guitars/gibson_SG/000034.jpg", "guitars/gibson_les_paul/000030.jpg"),
    ("guitars/gibson_SG/000087.jpg", "guitars/gibson_SG/000137.jpg"),
    ("guitars/gibson_SG/000153.jpg", "guitars/gibson_SG/000244.jpg"),
    ("guitars/gibson_firebird/000193.jpg", "guitars/gibson_firebird/000286.jpg"),
}


def fingerprint(content: bytes) -> tuple[Fingerprint, float]:
    """A photo's fingerprint, and the seconds it took, without preparing the photo."""
    pixels = prepare_image(content, IMAGE_SIZE, "stretch", "bilinear", "rgb")
    started = time.perf_counter()
    return take_fingerprint(pixels), time.perf_counter() - started


def fingerprint_folder(folder: Path) -> tuple[dict[Path, Fingerprint], float]:
    """The fingerprints of a folder's photos, and the seconds they took; other files are skipped."""
    fingerprints, seconds = {}, 0.0
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        try:
            fingerprints[file], taken = fingerprint(file.read_bytes())
        except ImageError:
            continue
        seconds += taken
    return fingerprints, seconds


def count_copies_found(files: Sequence[Path], fingerprints: Mapping[Path, Fingerprint]) -> dict[str, int]:
    found = dict.fromkeys(CHANGES, 0)
    for file in files:
        photo = upright_rgb(decode_image(file.read_bytes()))
        for name, change in CHANGES.items():
            found[name] += len(find_duplicates([fingerprints[file], fingerprint(change(photo))[0]], SIMILARITY))
    return found


def measure_comparison(fingerprints: Sequence[Fingerprint]) -> tuple[list[DuplicatePair], float, float]:
    """The pairs, the seconds for the hashes, and the seconds for the rest of the comparison."""
    started = time.perf_counter()
    hash_thumbnails(np.array([one.thumbnail for one in fingerprints]))
    hashing = time.perf_counter() - started
    started = time.perf_counter()
    pairs = find_duplicates(fingerprints, SIMILARITY)
    # This computed the hashes again.
    return pairs, hashing, max(0.0, time.perf_counter() - started - hashing)


def measure_folder(folder: Path) -> None:
    fingerprints, fingerprinting = fingerprint_folder(folder)
    files = list(fingerprints)
    if not files:
        sys.exit(f"{folder} contains no photos")
    pairs, hashing, comparing = measure_comparison(list(fingerprints.values()))
    kinds = Counter(pair.kind for pair in pairs)
    print(f"\n## {folder.name}: {len(files):,} photos\n")
    print(f"pairs: {kinds['exact']} exact, {kinds['near']} near")

    false_alarms, others = [], []
    for pair in sorted(pairs, key=lambda pair: -pair.similarity):
        names = [files[number].relative_to(folder.parent).as_posix() for number in (pair.first, pair.second)]
        if pair.kind == "near":
            (false_alarms if tuple(names) in FALSE_ALARMS else others).append(
                f"{pair.similarity:.4f} {' '.join(names)}"
            )
    print("\n".join([f"known false alarms: {len(false_alarms)}", *false_alarms]))
    print("\n".join([f"other near duplicates: {len(others)}", *others]))

    per_thousand = 1000 / len(files)
    print("\n| seconds per 1,000 photos | |\n|---|---|")
    for name, seconds in {"fingerprints": fingerprinting, "hashes": hashing, "comparison": comparing}.items():
        print(f"| {name} | {seconds * per_thousand:.2f} |")

    chosen = np.random.default_rng(0).permutation(len(files))[:COPIED_PHOTOS]
    print("\n| copies | found | of |\n|---|---|---|")
    for name, found in count_copies_found([files[number] for number in chosen], fingerprints).items():
        print(f"| {name} | {found} | {len(chosen)} |")


def measure_digits() -> None:
    files = [MATERIAL / "mnist" / f"{part}-images-idx3-ubyte.gz" for part in ("train", "t10k")]
    name = "digits of MNIST"
    if all(file.exists() for file in files):
        contents = [gzip.decompress(file.read_bytes())[MNIST_HEADER_BYTES:] for file in files]
        digits = np.frombuffer(b"".join(contents), np.uint8).reshape(-1, 28, 28, 1)
    else:
        name = "random images"
        digits = np.random.default_rng(0).integers(0, 256, (70_000, 28, 28, 1), np.uint8)
    started = time.perf_counter()
    fingerprints = [take_fingerprint(digit) for digit in digits]
    fingerprinting = time.perf_counter() - started
    pairs, hashing, comparing = measure_comparison(fingerprints)
    kinds = Counter(pair.kind for pair in pairs)
    print(f"\n## {len(digits):,} {name} of 28x28\n")
    print(f"pairs: {kinds['exact']} exact, {kinds['near']} near")
    print("\n| seconds | |\n|---|---|")
    for part, seconds in {"fingerprints": fingerprinting, "hashes": hashing, "comparison": comparing}.items():
        print(f"| {part} | {seconds:.1f} |")


def main() -> None:
    if len(sys.argv) > 1:
        measure_folder(Path(sys.argv[1]).resolve())
        return
    for name in FOLDERS:
        if (MATERIAL / name).is_dir():
            measure_folder(MATERIAL / name)
        else:
            print(f"skipped, not found: {MATERIAL / name}")
    measure_digits()


if __name__ == "__main__":
    main()
