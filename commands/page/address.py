"""The default address of the page."""

HOST = "127.0.0.1"  # reachable from this machine only
PORT = 7860
