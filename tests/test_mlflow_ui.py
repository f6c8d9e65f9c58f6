"""Recorded runs in MLflow's own pages, with a real server and a real browser, over loopback only."""

import sys
from collections.abc import Iterator

import pytest
from mlflow.entities import Run
from PIL import Image
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.actions.wheel_input import ScrollOrigin
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement

from tests.browser import HOST, TEXT_AT_CROSSING, Pages, free_port, needs_browser, open_browser, run_server, with_text
from tests.project import Project

# Of a table that is an artifact; the other columns are visible only after scrolling.
COLUMNS_IN_VIEW = 6
METRICS_IN_VIEW = """
    const isInView = link => {
        const box = link.getBoundingClientRect();
        return link.contains(document.elementFromPoint(box.left + 3, box.top + box.height / 2));
    };
    return [...document.querySelectorAll("a[title='Plot chart']")].filter(isInView).map(link => [link.innerText, link]);
"""
# js-line is Plotly's class for a curve.
CURVE_WIDTHS = "return [...document.querySelectorAll('path.js-line')].map(curve => curve.getBBox().width);"
IMAGE_SIZES = "return [...document.images].map(image => [image.naturalWidth, image.naturalHeight]);"

pytestmark = [needs_browser, pytest.mark.slow]


@pytest.fixture(scope="module")
def server(recorded_project: Project, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of MLflow's server over the store of the recorded project."""
    port = free_port()
    store = f"sqlite:///{recorded_project.root}/mlflow.db"
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", store]
    command += ["--host", HOST, "--port", str(port), "--workers", "1"]
    environment = recorded_project.command_environment(
        MLFLOW_SERVER_ENABLE_JOB_EXECUTION="false", MLFLOW_DISABLE_TELEMETRY="true"
    )
    with run_server(command, port, tmp_path_factory.mktemp("server"), environment):
        yield f"http://{HOST}:{port}"


@pytest.fixture(scope="module")
def pages(server: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pages]:
    with open_browser(tmp_path_factory.mktemp("browser")) as browser:
        yield Pages(browser, server)


@pytest.fixture(scope="module")
def runs(recorded_project: Project) -> list[Run]:
    """Two runs, of three and of two epochs."""
    return recorded_project.runs()


def runs_route(run: Run) -> str:
    return f"/experiments/{run.info.experiment_id}/runs"


def run_route(run: Run) -> str:
    return f"{runs_route(run)}/{run.info.run_id}"


def comparison_route(runs: list[Run]) -> str:
    ids = ",".join(f'"{run.info.run_id}"' for run in runs)
    return f'/compare-runs?runs=[{ids}]&experiments=["{runs[0].info.experiment_id}"]'


def format_exact(value: float) -> str:
    """A number as pages show it without rounding."""
    return repr(value).removesuffix(".0")


def format_rounded(value: float) -> str:
    """A number below ten as a comparison shows it."""
    return format_exact(round(value, 3))


def find_metric(pages: Pages, name: str, column: WebElement) -> WebElement | None:
    """Find a comparison's metric; if it is out of view, scroll the metrics, which are a separate scroll area."""
    links = dict(pages.run(METRICS_IN_VIEW))
    if links and name not in links:
        middle = list(links.values())[len(links) // 2]
        scroll(pages, middle, column, 120)
    return links.get(name)


def scroll(pages: Pages, row: WebElement, column: WebElement, pixels: int) -> None:
    """Scroll over a value, then back by a pixel: the page moves the names one scroll event later than the values."""
    origin = ScrollOrigin.from_viewport(column.location["x"] + 3, row.location["y"])
    actions = ActionChains(pages.browser).scroll_from_origin(origin, 0, pixels)
    actions.pause(0.2).scroll_from_origin(origin, 0, -1).perform()


def test_list_shows_both_runs_with_their_test_accuracy(pages: Pages, runs: list[Run]) -> None:
    rows = [with_text(run.info.run_name) for run in runs]
    pages.open(runs_route(runs[0]))
    # If it is opened before the runs are loaded, the menu of columns does not show the metrics.
    pages.find(rows[0])
    pages.click(with_text("Columns"))
    pages.click(with_text("test_accuracy"))
    ActionChains(pages.browser).send_keys(Keys.ESCAPE).perform()
    pages.wait_until_equal(
        lambda: [pages.read_row(row, [with_text("test_accuracy")]) for row in rows],
        [[format_exact(run.data.metrics["test_accuracy"])] for run in runs],
    )


class TestComparison:
    """The page stays open from test to test; the last one leaves it."""

    @pytest.fixture(scope="class")
    def page(self, pages: Pages, runs: list[Run]) -> Pages:
        pages.open(comparison_route(runs))
        return pages

    def test_it_names_the_runs_and_the_param_that_differs(self, page: Pages, runs: list[Run]) -> None:
        columns = [with_text(run.info.run_id) for run in runs]
        names = [run.info.run_name for run in runs]
        page.wait_until_equal(lambda: page.read_row(with_text("Run Name:"), columns), names)

        page.click("//button[@aria-label='Parameters - Show diff only']")
        params = runs[0].data.params
        page.wait_until_equal(
            lambda: [row.text for row in page.shown("//th[@scope='row']") if row.text in params], ["train.epochs"]
        )
        page.wait_until_equal(lambda: page.read_row("//th[.='train.epochs']", columns), ["3", "2"])

    def test_it_shows_a_test_metric_of_both_runs(self, page: Pages, runs: list[Run]) -> None:
        metric = "test_loss"
        columns = [page.find(with_text(run.info.run_id)) for run in runs]
        page.find("//button[@aria-label='Metrics - Show diff only']")

        def read_values() -> list[str]:
            row = find_metric(page, metric, columns[0])
            if row is None:
                return []
            texts = [page.run(TEXT_AT_CROSSING, row, column) for column in columns]
            scroll(page, row, columns[0], 0)
            return texts

        page.wait_until_equal(read_values, [format_rounded(run.data.metrics[metric]) for run in runs])

    def test_it_leads_to_the_curves_of_both_runs(self, page: Pages, runs: list[Run], recorded_project: Project) -> None:
        metric = "val_loss"
        column = page.find(with_text(runs[0].info.run_id))
        page.find("//button[@aria-label='Metrics - Show diff only']")
        page.wait_for(lambda: find_metric(page, metric, column), metric).click()

        rows = [f"//a[normalize-space()='{run.info.run_name}']" for run in runs]
        latest = [recorded_project.curve(run, metric)[-1] for run in runs]
        page.wait_until_equal(
            lambda: [page.read_row(row, [with_text("Latest")]) for row in rows],
            [[f"{format_exact(value)} (step={epoch})"] for epoch, value in latest],
        )
        page.wait_for_texts(*(f"{run.info.run_name} ({metric})" for run in runs))
        # The curve of two epochs is half as wide as the curve of three.
        page.wait_until_equal(lambda: relative_widths(page.run(CURVE_WIDTHS)), [0.5, 1.0])


def relative_widths(widths: list[float]) -> list[float]:
    return sorted({round(width / max(widths), 1) for width in widths if width > 0})


def test_run_page_shows_its_test_accuracy_datasets_and_key(pages: Pages, runs: list[Run]) -> None:
    run = runs[0]
    pages.open(run_route(run))
    accuracy = [format_exact(run.data.metrics["test_accuracy"])]
    pages.wait_until_equal(lambda: pages.read_row(with_text("test_accuracy"), [with_text("Value")]), accuracy)
    pages.wait_for_texts("Finished", "darkroom.key", run.data.tags["darkroom.key"])

    datasets = {entry.dataset.name: entry.dataset.digest for entry in run.inputs.dataset_inputs}
    assert set(datasets) == {"photos", "images", "train", "validation", "test"}
    pages.click(with_text("+4"))
    pages.wait_for_texts(*(f"{name} ({digest})" for name, digest in datasets.items()))


def test_run_page_leads_to_the_model(pages: Pages, runs: list[Run]) -> None:
    run = runs[0]
    pages.open(run_route(run))
    pages.click("//*[starts-with(normalize-space(text()), 'Logged models')]/following::a[normalize-space()='model']")
    pages.wait_for_texts("Ready", run.outputs.model_outputs[0].model_id, run.info.run_id, "train.epochs")


def test_run_page_opens_a_table_and_an_image(pages: Pages, runs: list[Run], recorded_project: Project) -> None:
    """MLflow chooses how to show a file by its extension, so one of each is enough."""
    table, image = "metrics/evaluate/classes.csv", "data/explain/gradcam.png"
    listed = recorded_project.client.list_artifacts(runs[-1].info.run_id, "data/train")
    assert "data/train/history.csv" in {file.path for file in listed}
    pages.open(run_route(runs[-1]))
    pages.click(with_text("Artifacts"))

    open_artifact(pages, table)
    names, *rows = (recorded_project.root / table).read_text().splitlines()
    columns = names.split(",")[:COLUMNS_IN_VIEW]
    pages.wait_for_texts(table, *columns, *(" ".join(map(format_cell, row.split(","))) for row in rows))
    pages.click(with_text("metrics"))  # closes the folder, since folders in it have the same names as others

    open_artifact(pages, image)
    with Image.open(recorded_project.root / image) as drawn:
        size = list(drawn.size)
    pages.wait_for_texts(image)
    pages.wait_until_equal(lambda: size in pages.run(IMAGE_SIZES), True)


def format_cell(cell: str) -> str:
    """A cell as a table shows it: whole numbers have no decimal point."""
    return cell.removesuffix(".0")


def open_artifact(pages: Pages, path: str) -> None:
    """Open a file in the tree of a run's artifacts, folder by folder."""
    for text in path.split("/"):
        pages.click(with_text(text))
