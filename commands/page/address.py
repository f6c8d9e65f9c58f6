"""Where the page is served unless something else is asked for."""

HOST = "127.0.0.1"  # reachable from this machine alone
PORT = 7860
