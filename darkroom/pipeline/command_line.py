"""The command line of a stage that has options."""

import typer


def make_app() -> typer.Typer:
    """An app that prints plain lines, as everywhere else in the pipeline, and leaves errors to `stage.py`."""
    return typer.Typer(rich_markup_mode=None, add_completion=False, pretty_exceptions_enable=False)
