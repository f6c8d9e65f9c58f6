"""The command line `darkroom`: one function per command, which says its arguments and imports the rest when it runs.

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

WHICH_RUN = "A recorded run's id or name, the beginning of one, or an alias of its model such as @champion."
RUN_OPTION = f"Use the model of a recorded run: {WHICH_RUN[0].lower()}{WHICH_RUN[1:]}"

# Plain lines, as everywhere else in the project; errors are left to `stage.py`.
APP = typer.Typer(
    name="darkroom",
    help="Use what the pipeline made. `dvc repro` runs the pipeline itself.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
RunArgument = Annotated[str, typer.Argument(metavar="RUN", help=WHICH_RUN)]
RunOption = Annotated[str | None, typer.Option(metavar="RUN", help=RUN_OPTION)]


@APP.command()
def predict(
    photos: Annotated[
        list[str],
        typer.Argument(
            metavar="PHOTO", help='Image files, folders of them, patterns such as "a/**/*.jpg", or - for stdin.'
        ),
    ],
    top: Annotated[int, typer.Option(min=1, help="How many of the most likely labels to print.")] = 3,
    explain: Annotated[
        bool, typer.Option("--explain", help=f"Draw Grad-CAM for the predicted label into {PREDICT_GRADCAM}.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Write a line of JSON per file, for programs.")] = False,
    run: RunOption = None,
) -> None:
    """Classify photos, with a probability for each label.

    The model is that of the last `dvc repro`, unless --run names another. Exit code 1: a file could not be read.
    """

    def call() -> None:
        from commands.predict import main

        main(photos, top, explain, as_json, run)

    run_command("predict", call)


@APP.command()
def app(
    run: RunOption = None,
    host: Annotated[str, typer.Option(help="The address to serve the page at.")] = HOST,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Its port; 0 is any free one.")] = PORT,
) -> None:
    """Open a page in the browser that classifies photos.

    The model is that of the last `dvc repro`, unless --run names another. Needs `make extras`.
    """

    def call() -> None:
        from commands.app import main

        main(run, host, port)

    run_command("app", call)


@APP.command()
def export(
    formats: Annotated[
        list[Format] | None, typer.Option("--format", help="Which file to write; may be given twice. Default: both.")
    ] = None,
    run: RunOption = None,
) -> None:
    """Export the model for ONNX Runtime and LiteRT.

    The model is that of the last `dvc repro`, unless --run names another. Needs `make extras`.
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
        float, typer.Option(help="Of the interval; p must be below 1 minus this for the runs to differ.")
    ] = 0.95,
) -> None:
    """Compare two recorded runs on the photos that both tested."""

    def call() -> None:
        from commands.compare import main

        main((run_a, run_b), confidence_level)

    run_command("compare", call)


@APP.command()
def promote(
    run: RunArgument,
    confidence_level: Annotated[
        float, typer.Option(help="Of the comparison; p must be below 1 minus this for the runs to differ.")
    ] = 0.95,
) -> None:
    """Make a run's model the champion if it is better.

    Exit code 0: the run is the champion now. Exit code 1: it is not better, or something failed; the champion stays.
    """

    def call() -> None:
        from commands.promote import main

        main(run, confidence_level)

    run_command("promote", call)


@APP.command()
def rebuild(
    run: RunArgument,
    tolerance: Annotated[
        float, typer.Option(min=0, help="How far probabilities of test photos may differ and count as equal.")
    ] = 0.001,
    keep: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Rebuild the result in this new folder, and keep it.")
    ] = None,
) -> None:
    """Compute a recorded run's result again, and compare.

    It runs the stages of the run's commit in a folder of their own. Exit code 0: identical, or equal within the
    tolerance. Exit code 1: different, or something failed.
    """

    def call() -> None:
        from commands.rebuild import main

        main(run, tolerance, keep)

    run_stage("rebuild", call)


@APP.command()
def recipe(
    name: Annotated[str | None, typer.Argument(metavar="NAME", help="Which one; without it, all are listed.")] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="PARAM=VALUE", help="Another value, such as train.epochs=5; repeatable."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite uncommitted changes.")] = False,
) -> None:
    """Write params.yaml from a recipe.

    It prints what changed. It does not overwrite uncommitted changes.
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

    The environment may be that of another clone, whose code would read and write this one's files otherwise.
    """
    here = Path("commands", "command_line.py")
    if here.is_file() and not here.samefile(__file__):
        path = os.pathsep.join([str(Path.cwd()), *filter(None, [os.environ.get("PYTHONPATH")])])
        command = [sys.executable, "-m", "commands", *sys.argv[1:]]
        os.execve(sys.executable, command, os.environ | {"PYTHONPATH": path})
    APP(prog_name="darkroom")
