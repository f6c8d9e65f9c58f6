"""The version of this project; CHANGELOG.md lists what each version changes."""

__version__ = "0.2.0.dev0"
