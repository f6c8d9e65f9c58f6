"""`python -m commands` is `darkroom`, with the code of the current folder."""

from commands.command_line import main

main()
