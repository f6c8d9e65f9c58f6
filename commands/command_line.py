"""The command line `darkroom`: one function per command, which declares its options and imports its module when called.

A new command is a module in commands/ with a `main`, and a function here.
"""

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from commands.exporting.formats import Format
from commands.page.address import HOST, PORT
from darkroom.pipeline.paths import PREDICT_GRADCAM
from darkroom.pipeline.stage import run_command, run_stage
from darkroom.version import __version__

RUN_HELP = "Id or name of a recorded run, the beginning of either, or an alias of its model such as @champion."
RUN_OPTION_HELP = (
    "Use the model of a recorded run: its id or name, the beginning of either, or an alias such as @champion."
)

# Plain help without markup; `stage.py` prints errors.
APP = typer.Typer(
    name="darkroom",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
RunArgument = Annotated[str, typer.Argument(metavar="RUN", help=RUN_HELP)]
RunOption = Annotated[str | None, typer.Option(metavar="RUN", help=RUN_OPTION_HELP)]


def print_version(is_given: bool) -> None:
    if is_given:
        print(f"darkroom {__version__}")
        raise typer.Exit


@APP.callback()
def options(
    version: Annotated[  # noqa: ARG001
        bool, typer.Option("--version", callback=print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Use the results of the pipeline. `dvc repro` runs the pipeline itself."""


@APP.command()
def predict(
    photos: Annotated[
        list[str],
        typer.Argument(
            metavar="PHOTO", help='Image files, folders, patterns such as "a/**/*.jpg", or - for standard input.'
        ),
    ],
    top: Annotated[int, typer.Option(min=1, help="Number of most likely labels to print.")] = 3,
    explain: Annotated[
        bool, typer.Option("--explain", help=f"Save Grad-CAM for the predicted labels as {PREDICT_GRADCAM}.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one line of JSON per file.")] = False,
    run: RunOption = None,
) -> None:
    """Classify photos and print the most likely labels.

    Uses the model of the last `dvc repro`, unless --run names another one. Exit code 1: a file could not be read.
    """

    def call() -> None:
        from commands.predict import main

        main(photos, top, explain, as_json, run)

    run_command("predict", call)


@APP.command()
def app(
    run: RunOption = None,
    host: Annotated[str, typer.Option(help="Address to serve the page at.")] = HOST,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to serve the page at; 0 picks a free one.")] = PORT,
) -> None:
    """Serve a web page that classifies photos.

    Uses the model of the last `dvc repro`, unless --run names another one. Needs `make extras`.
    """

    def call() -> None:
        from commands.app import main

        main(run, host, port)

    run_command("app", call)


@APP.command()
def export(
    formats: Annotated[
        list[Format] | None, typer.Option("--format", help="Format to write; repeat it for several. Default: all.")
    ] = None,
    run: RunOption = None,
) -> None:
    """Export the model for ONNX Runtime and LiteRT.

    Uses the model of the last `dvc repro`, unless --run names another one. Needs `make extras`.
    """

    def call() -> None:
        from commands.export import main

        main([name for name in Format if name in (formats or Format)], run)

    run_stage("export", call)


@APP.command()
def compare(
    run_a: RunArgument,
    run_b: RunArgument,
    confidence_level: Annotated[
        float, typer.Option(help="Confidence level of the interval; the runs differ if p is below 1 minus this.")
    ] = 0.95,
) -> None:
    """Compare two runs on the photos that both tested."""

    def call() -> None:
        from commands.compare import main

        main((run_a, run_b), confidence_level)

    run_command("compare", call)


@APP.command()
def promote(
    run: RunArgument,
    confidence_level: Annotated[
        float, typer.Option(help="Confidence level of the comparison; the runs differ if p is below 1 minus this.")
    ] = 0.95,
) -> None:
    """Make a run's model the champion if it is better.

    Exit code 0: the run is the champion now. Exit code 1: it is not better, or an error occurred; the champion stays.
    """

    def call() -> None:
        from commands.promote import main

        main(run, confidence_level)

    run_command("promote", call)


@APP.command()
def rebuild(
    run: RunArgument,
    tolerance: Annotated[
        float, typer.Option(min=0, help="Largest difference between probabilities that counts as equal.")
    ] = 0.001,
    keep: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Rebuild in this new folder and do not delete it.")
    ] = None,
) -> None:
    """Rebuild a run's result and compare it with the record.

    Runs the stages of the run's commit in a separate folder. Exit code 0: identical, or equal within the tolerance.
    Exit code 1: different, or an error occurred.
    """

    def call() -> None:
        from commands.rebuild import main

        main(run, tolerance, keep)

    run_stage("rebuild", call)


@APP.command()
def recipe(
    name: Annotated[
        str | None, typer.Argument(metavar="NAME", help="Name of the recipe; without it, list all recipes.")
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="PARAM=VALUE", help="Change a value, such as train.epochs=5; repeatable."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite uncommitted changes.")] = False,
) -> None:
    """Write params.yaml from a recipe.

    Prints the changed values. Does not overwrite uncommitted changes without --force.
    """

    def call() -> None:
        from commands.recipe import main

        main(name, settings or [], force)

    run_command("recipe", call)


@APP.command()
def inflation() -> None:
    """Measure how much a split by row would inflate accuracy."""

    def call() -> None:
        from commands.inflation import main

        main()

    run_stage("inflation", call)


def main() -> None:
    """Run a command with the code of the project in the current folder, as `python -m` would.

    The environment may belong to another clone, whose code would otherwise read and write the files of this one.
    """
    here = Path("commands", "command_line.py")
    if here.is_file() and not here.samefile(__file__):
        path = os.pathsep.join([str(Path.cwd()), *filter(None, [os.environ.get("PYTHONPATH")])])
        command = [sys.executable, "-m", "commands", *sys.argv[1:]]
        os.execve(sys.executable, command, os.environ | {"PYTHONPATH": path})
    APP(prog_name="darkroom")
