"""The command line of stages with options."""

import typer


def make_app() -> typer.Typer:
    """Create an app that prints plain text, like the rest of the pipeline, and leaves error handling to `stage.py`."""
    return typer.Typer(rich_markup_mode=None, add_completion=False, pretty_exceptions_enable=False)
