"""The paths that each stage writes, relative to the folder that it runs in."""

import os
from pathlib import Path

PARAMS = Path("params.yaml")
DVC_LOCK = Path("dvc.lock")
LOCK_FILE = Path("requirements.lock")

ACQUIRE_FOLDER = Path("data/acquire")
ACQUIRE_PARTIAL = ACQUIRE_FOLDER / ".partial"
ACQUIRE_PHOTOS_FOLDER = ACQUIRE_FOLDER / "photos"
ACQUIRE_PHOTOS = ACQUIRE_FOLDER / "photos.csv"
ACQUIRE_REJECTED = ACQUIRE_FOLDER / "rejected.csv"
ACQUIRE_CREDITS = ACQUIRE_FOLDER / "CREDITS.md"
ACQUIRE_METRICS = Path("metrics/acquire.json")

AUGMENT_IMAGES = Path("data/augment/images.npy")
AUGMENT_INDEX = Path("data/augment/images.csv")
AUGMENT_PREVIEW = Path("data/augment/preview.png")
AUGMENT_METRICS = Path("metrics/augment.json")

SUBSETS = ("train", "validation", "test")
SPLIT_FOLDER = Path("data/split")
SPLIT_PHOTOS = SPLIT_FOLDER / "photos.csv"
SPLIT_DUPLICATES = SPLIT_FOLDER / "duplicates.csv"
SPLIT_CLASSES = Path("metrics/split/classes.csv")
SPLIT_METRICS = Path("metrics/split.json")

TRAIN_MODEL = Path("data/train/model.keras")
TRAIN_LABELS = Path("data/train/labels.json")
TRAIN_HISTORY = Path("data/train/history.csv")
TRAIN_PREVIEW = Path("data/train/preview.png")
TRAIN_NORMALIZATION = Path("data/train/normalization.png")
TRAIN_ENVIRONMENT = Path("data/train/environment.json")
TRAIN_METRICS = Path("metrics/train.json")

EVALUATE_FOLDER = Path("data/evaluate")
EVALUATE_METRICS = Path("metrics/evaluate.json")
EVALUATE_CLASSES = Path("metrics/evaluate/classes.csv")
EVALUATE_CONFUSED = Path("metrics/evaluate/confused.csv")
EVALUATE_RELIABILITY = Path("metrics/evaluate/reliability.csv")
EVALUATE_SCALED_RELIABILITY = Path("metrics/evaluate/reliability_scaled.csv")
EVALUATE_SOURCES = Path("metrics/evaluate/sources.csv")
EVALUATE_CREATORS = Path("metrics/evaluate/creators.csv")
EVALUATE_PREDICTIONS = EVALUATE_FOLDER / "predictions.csv"
EVALUATE_CONFUSION_PLOT = EVALUATE_FOLDER / "confusion.png"
EVALUATE_RELIABILITY_PLOT = EVALUATE_FOLDER / "reliability.png"
EVALUATE_TOP_LOSSES = EVALUATE_FOLDER / "top_losses.png"

EXPLAIN_FOLDER = Path("data/explain")
EXPLAIN_METRICS = Path("metrics/explain.json")
# Accuracy by level of each corruption.
EXPLAIN_ROBUSTNESS = {
    corruption: Path(f"metrics/explain/{corruption}.csv")
    for corruption in ("scribbles", "noise", "blur", "rotation", "jpeg")
}
EXPLAIN_GRADCAM = EXPLAIN_FOLDER / "gradcam.png"
EXPLAIN_FILTERS = EXPLAIN_FOLDER / "filters.png"
EXPLAIN_CORRUPTIONS = EXPLAIN_FOLDER / "corruptions.png"
EXPLAIN_ROBUSTNESS_PLOT = EXPLAIN_FOLDER / "robustness.png"

PREDICT_GRADCAM = Path("data/predict/gradcam.png")

EXPORT_ONNX = Path("data/export/model.onnx")
EXPORT_LITERT = Path("data/export/model.tflite")
EXPORT_PREPARATION = Path("data/export/preparation.json")


def subset_rows(subset: str) -> Path:
    """The file with the row numbers of a subset."""
    return SPLIT_FOLDER / f"{subset}.npy"


def project_root() -> Path:
    """The project's folder, even if DVC runs an experiment in a temporary one."""
    return Path(os.environ.get("DVC_ROOT") or Path.cwd()).resolve()
