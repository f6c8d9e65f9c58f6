"""The figures of the manual, docs/figures/*.png: drawn by the stages, by the web page and by MLflow's pages.

Two projects are run in a temporary folder: the recipe digits, with two networks, and crops of scikit-learn's two sample
photos, for figures that need colors. docs/figures/sources.json has the digest of the files that draw each figure.

Run as  python -m tests.figures     (about ten minutes on two processors; needs chromium and requirements-extras.lock)
"""

import hashlib
import io
import json
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import pandas as pd
from matplotlib.figure import Figure as Chart
from PIL import Image
from selenium.webdriver.common.by import By
from sklearn.datasets import load_sample_image

from tests.browser import HOST, Pages, free_port, open_browser, run_server
from tests.project import ROOT, Project, copy_project

FOLDER = ROOT / "docs/figures"
SOURCES = FOLDER / "sources.json"
LARGEST_FILE = 200_000
CROPS = 3  # of a sample photo
HOUR = 3600  # seconds
SETTLING_SECONDS = 3  # until a page has moved its parts into place
# MLflow opens for language models and with a chat beside the page, unless its page has stored these.
MLFLOW_SETTINGS = """
    localStorage.setItem("mlflow.workflowType_v1", '"machine_learning"');
    localStorage.setItem("mlflow.assistant.panelOpen_v1", "false");
    localStorage.setItem("mlflow.assistant.fab.autoOpenedOnFirstLoad_v1", "true");
"""
COUNT_CURVES = "return document.querySelectorAll('path.js-line').length;"
# Without a mouse, Plotly shows the toolbar of each chart all the time.
HIDE_TOOLBARS = "document.querySelectorAll('.modebar-container').forEach(toolbar => toolbar.remove());"


class Projects(NamedTuple):
    """Both have run."""

    digits: Project
    photos: Project


class Figure(NamedTuple):
    draw: Callable[[Projects], Image.Image]
    sources: tuple[str, ...]  # the modules that decide how it looks


def of_digits(path: str) -> Callable[[Projects], Image.Image]:
    return lambda projects: Image.open(projects.digits.root / path)


def of_photos(path: str) -> Callable[[Projects], Image.Image]:
    return lambda projects: Image.open(projects.photos.root / path)


def draw_curves(projects: Projects) -> Image.Image:
    history = pd.read_csv(projects.digits.root / "data/train/history.csv", index_col="epoch")
    chart = Chart(figsize=(12, 3.5), layout="constrained")
    panels = (["loss", "val_loss"], ["accuracy", "val_accuracy"], ["learning_rate"])
    for axes, columns in zip(chart.subplots(1, len(panels)), panels, strict=True):
        for column in columns:
            axes.plot(history.index, history[column], marker=".", label=column)
        axes.set(xlabel="epoch")
        axes.grid(alpha=0.3)
        axes.legend()
    axes.set(ylim=(0, 1.2 * history["learning_rate"].max()))
    file = io.BytesIO()
    chart.savefig(file, format="png", dpi=100)
    return Image.open(file)


def choose_digit(root: Path) -> Path:
    """A test photo that was classified correctly with a probability near 0.9."""
    rows = pd.read_csv(root / "data/evaluate/predictions.csv", dtype={"label": str, "predicted": str})
    correct = rows[rows["label"] == rows["predicted"]]
    row = correct.loc[(correct["probability"] - 0.9).abs().idxmin()]
    return root / f"data/acquire/photos/{row['label']}/{row['photo']}.png"


def show_page(projects: Projects) -> Image.Image:
    """The page of `darkroom app` with a classified digit."""
    root = projects.digits.root
    photo = root / "my-digit.png"
    Image.open(choose_digit(root)).resize((320, 320), Image.Resampling.LANCZOS).save(photo)
    port = free_port()
    command = [sys.executable, "-m", "commands", "app", "--port", str(port)]

    def classify(pages: Pages) -> None:
        pages.open("")
        pages.wait_for_texts("Drop File Here")
        pages.browser.find_element(By.CSS_SELECTOR, "input[type=file]").send_keys(str(photo))
        pages.wait_for_texts("Grad-CAM for")

    return show(projects.digits, command, port, "/", (1100, 720), classify)


def show_run(projects: Projects) -> Image.Image:
    """The learning curves of a run in MLflow."""
    run = projects.digits.runs()[-1]
    route = f"/experiments/{run.info.experiment_id}/runs/{run.info.run_id}/model-metrics"
    return show_charts(projects.digits, route, runs=1)


def compare_runs(projects: Projects) -> Image.Image:
    """The learning curves of all runs in MLflow."""
    runs = projects.digits.runs()
    return show_charts(
        projects.digits, f"/experiments/{runs[0].info.experiment_id}/runs?compareRunsMode=CHART", len(runs)
    )


def show_charts(project: Project, route: str, runs: int) -> Image.Image:
    """Three charts of a page of MLflow, with a curve for each run."""
    port = free_port()
    store = f"sqlite:///{project.root}/mlflow.db"
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", store]
    command += ["--host", HOST, "--port", str(port), "--workers", "1"]

    def open_charts(pages: Pages) -> None:
        pages.open("/")
        pages.run(MLFLOW_SETTINGS)
        pages.open(route)
        pages.find("//input[@placeholder='Search metric charts']").send_keys("^(loss|val_loss|val_accuracy)$")
        pages.wait_for(lambda: "accuracy_by_level" not in pages.text(), "filtered charts")
        pages.wait_for(lambda: pages.run(COUNT_CURVES) >= 3 * runs, "curves")
        pages.run(HIDE_TOOLBARS)

    return show(project, command, port, "/health", (1400, 690), open_charts)


def show(
    project: Project, command: list[str], port: int, path: str, size: tuple[int, int], act: Callable[[Pages], None]
) -> Image.Image:
    """A screenshot of a server's page, of this width and height, after `act` has opened it."""
    environment = project.command_environment(
        PYTHONPATH=str(project.root), MLFLOW_SERVER_ENABLE_JOB_EXECUTION="false", MLFLOW_DISABLE_TELEMETRY="true"
    )
    with (
        TemporaryDirectory() as folder,
        run_server(command, port, project.root, environment, path),
        open_browser(Path(folder)) as browser,
    ):
        window = {"width": size[0], "height": size[1], "deviceScaleFactor": 1, "mobile": False}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", window)
        browser.execute_cdp_cmd("Emulation.setScrollbarsHidden", {"hidden": True})
        act(Pages(browser, f"http://{HOST}:{port}"))
        time.sleep(SETTLING_SECONDS)
        return Image.open(io.BytesIO(browser.get_screenshot_as_png()))


SHEET = "darkroom/contact_sheet.py"
FIGURES: Mapping[str, Figure] = {
    "preview": Figure(of_photos("data/augment/preview.png"), (SHEET, "stages/augment.py")),
    "augmentation": Figure(of_photos("data/train/preview.png"), (SHEET, "darkroom/training/previews.py")),
    "normalization": Figure(of_photos("data/train/normalization.png"), (SHEET, "darkroom/training/previews.py")),
    "curves": Figure(draw_curves, ("tests/figures.py",)),
    "confusion": Figure(of_digits("data/evaluate/confusion.png"), ("darkroom/evaluation/score_charts.py",)),
    "calibration": Figure(of_digits("data/evaluate/reliability.png"), ("darkroom/evaluation/score_charts.py",)),
    "mistakes": Figure(of_digits("data/evaluate/top_losses.png"), (SHEET, "darkroom/evaluation/mistakes.py")),
    "gradcam": Figure(of_digits("data/explain/gradcam.png"), (SHEET, "darkroom/explanation/sheets.py")),
    "filters": Figure(of_digits("data/explain/filters.png"), (SHEET, "darkroom/explanation/filters.py")),
    "corruptions": Figure(of_digits("data/explain/corruptions.png"), (SHEET, "darkroom/explanation/sheets.py")),
    "robustness": Figure(of_digits("data/explain/robustness.png"), ("darkroom/explanation/robustness.py",)),
    "page": Figure(show_page, ("commands/page/page.py",)),
    "mlflow_run": Figure(show_run, ("darkroom/recording/result.py",)),
    "mlflow_compare": Figure(compare_runs, ("darkroom/recording/result.py",)),
}


def digest_sources(figure: Figure) -> str:
    content = b"".join((ROOT / source).read_bytes() for source in figure.sources)
    return hashlib.sha256(content).hexdigest()


def run_digits(folder: Path) -> Project:
    """The recipe digits, after a short training of another network, so that MLflow has two runs."""
    project = copy_project(folder)
    for network, epochs in (("keras_mnist_cnn", 10), ("compact_cnn", 30)):
        project.set_params(train__network=network, train__epochs=epochs)
        project.run("dvc", "repro", timeout_seconds=HOUR)
    return project


def run_photos(folder: Path) -> Project:
    """Crops of two sample photos, as two classes, trained for one epoch."""
    photos = folder.with_name("photos")
    for name in ("china", "flower"):
        (photos / name).mkdir(parents=True)
        image = Image.fromarray(load_sample_image(f"{name}.jpg"))
        for number in range(CROPS):
            left = number * (image.width - image.height) // (CROPS - 1)
            image.crop((left, 0, left + image.height, image.height)).save(photos / name / f"{number}.png")
    project = copy_project(folder)
    project.set_params(
        acquire__source="folder",
        acquire__folder=str(photos),
        acquire__layout={"label_from": "folder", "table": None, "subset_folders": {}},
        augment__image_size=[120, 120],
        augment__color="rgb",
        augment__horizontal_flip=True,
        train__normalization="imagenet_caffe",
        train__epochs=1,
    )
    augmentation = {"rotation_range": 20, "width_shift_range": 0.1, "height_shift_range": 0.1, "zoom_range": 0.2}
    fixed = {"shear_range": 0, "vertical_flip": False, "fill_mode": "nearest"}
    project.set_params(
        train__augmentation={**augmentation, **fixed, "channel_shift_range": 20, "horizontal_flip": True}
    )
    project.run("dvc", "repro", "train", timeout_seconds=HOUR)
    return project


def encode(image: Image.Image) -> bytes:
    """A PNG file of 256 colors, with fewer pixels if it would be too large."""
    for scale in (1, 0.85, 0.7, 0.55, 0.4):
        size = round(image.width * scale), round(image.height * scale)
        colors = image.convert("RGB").resize(size, Image.Resampling.LANCZOS).quantize(256, dither=Image.Dither.NONE)
        file = io.BytesIO()
        colors.save(file, "PNG", optimize=True)
        if len(file.getvalue()) < LARGEST_FILE:
            return file.getvalue()
    raise ValueError(f"still larger than {LARGEST_FILE} bytes at {scale} of its size")


def draw_all(projects: Projects) -> None:
    FOLDER.mkdir(exist_ok=True)
    for name, figure in FIGURES.items():
        content = encode(figure.draw(projects))
        (FOLDER / f"{name}.png").write_bytes(content)
        print(f"figures: {name}.png, {len(content) // 1000} kB")
    digests = {name: digest_sources(figure) for name, figure in FIGURES.items()}
    SOURCES.write_text(json.dumps(digests, indent=2) + "\n")


if __name__ == "__main__":
    with TemporaryDirectory() as scratch:
        draw_all(Projects(run_digits(Path(scratch, "digits")), run_photos(Path(scratch, "crops"))))
