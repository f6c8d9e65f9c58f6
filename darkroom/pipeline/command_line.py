"""The command line of what has options."""

import typer

WHICH_RUN = "A recorded run's id or name, the beginning of one, or an alias of its model such as @champion."


def make_app() -> typer.Typer:
    """An app that prints plain lines, as everywhere else in the pipeline, and leaves errors to `stage.py`."""
    return typer.Typer(rich_markup_mode=None, add_completion=False, pretty_exceptions_enable=False)
