"""`python -m commands` runs `darkroom` with the code of the current folder."""

from commands.command_line import APP

APP(prog_name="darkroom")
