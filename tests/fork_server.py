"""A process that has imported TensorFlow, DVC and all else that takes seconds, and forks a child for each stage.

Stages of a test project start at once if its `python` is the client of this server, and so do common commands of its
`dvc`. They run the project's own code, as DVC calls it: nothing of ours is imported before the fork, and no operation
of TensorFlow runs before it. All other calls of `python` and `dvc` run in a new Python process.
"""

import array
import atexit
import gc
import importlib
import json
import os
import runpy
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import NoReturn
from uuid import uuid4

import psutil
from filelock import FileLock

PACKAGES = (
    *("dvc.cli.parser", "dvc.repo.reproduce", "dvc.stage.run", "dvc_data.index", "scmrepo.git"),
    *("cv2", "imagehash", "keras", "matplotlib.pyplot", "mlflow", "mlflow.pyfunc", "pandas", "pyrate_limiter"),
    *(
        "mlflow.store.tracking.sqlalchemy_store",
        "ruamel.yaml",
        "scipy.optimize",
        "sklearn.metrics",
        "tenacity",
        "typer",
    ),
)
# Not commands.rebuild, which asks the system for the environment that its process was started with.
MODULES = ("stages.", "commands inflation", "darkroom.params.sections")
# Not exp and queue: the queue starts workers that outlive the command.
DVC_COMMANDS = ("checkout", "config", "metrics", "params", "plots", "pull", "push", "remote", "repro", "status")
FORKED = (*MODULES, *(f"dvc {command}" for command in DVC_COMMANDS))
START_SECONDS = 300
# It sends its arguments, folder, environment and open files, and exits with the exit code of the stage.
CLIENT = """#!{python} -IS
import array, json, os, socket, sys
arguments = {first} + sys.argv[1:]
is_forked = len(arguments) > 1 and arguments[0] == "-m" and " ".join(arguments[1:]).startswith({forked})
if not is_forked or os.environ.get("KERAS_BACKEND", "tensorflow") != "tensorflow":
    os.execv("{python}", ["{python}", *arguments])
request = json.dumps([arguments[1:], os.getcwd(), dict(os.environ)]).encode()
with socket.socket(socket.AF_UNIX) as server:
    server.connect("{address}")
    files = array.array("i", range(3))
    server.sendmsg([len(request).to_bytes(8, "big")], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, files)])
    server.sendall(request)
    status = server.recv(1)
sys.exit(status[0] if status else "the process that forks stages has lost this one")
"""


def exclude_imports_from_garbage_collection() -> None:
    """Each full collection would scan them for half a second, and TensorFlow creates objects that start many."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)


@cache
def start_forks() -> Path:
    """Return the folder of the server's `python`. The processes of a test run share it, and it ends with them."""
    run = os.environ.get("PYTEST_XDIST_TESTRUNUID", uuid4().hex)[:12]  # the address of a socket must be short
    runner = os.getppid() if "PYTEST_XDIST_WORKER" in os.environ else os.getpid()
    folder = Path(tempfile.gettempdir(), f"darkroom-forks-{run}")
    folder.mkdir(mode=0o700, exist_ok=True)
    address, client = folder / "socket", folder / "bin/python"
    with FileLock(folder / "lock"):
        if not address.exists():
            client.parent.mkdir(exist_ok=True)
            for command, first in (("python", []), ("dvc", ["-m", "dvc"])):
                script = client.with_name(command)
                script.write_text(CLIENT.format(python=sys.executable, address=address, forked=FORKED, first=first))
                script.chmod(0o700)
            server = subprocess.Popen([sys.executable, __file__, str(address), str(runner)], stdin=subprocess.DEVNULL)
            wait_for_server(server, address)
    return client.parent


def wait_for_server(server: subprocess.Popen[bytes], address: Path) -> None:
    end = time.monotonic() + START_SECONDS
    while not address.exists():
        assert server.poll() is None, "the process that forks stages has ended"
        assert time.monotonic() < end, f"the process that forks stages is not ready after {START_SECONDS} s"
        time.sleep(0.05)


def serve(address: Path, runner: int) -> None:
    """Handle each client in a new process, until the process `runner` ends."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(address.with_suffix(".new")))
        listener.listen()
        address.with_suffix(".new").rename(address)
        while psutil.pid_exists(runner):
            if not select.select([listener], [], [], 1)[0]:
                continue
            with listener.accept()[0] as connection:
                if os.fork() == 0:
                    listener.close()
                    attend(connection, str(address.with_name("bin") / "python"))
    shutil.rmtree(address.parent, ignore_errors=True)


def attend(connection: socket.socket, client: str) -> NoReturn:
    """Fork the stage, wait for it as its parent, and send its exit code to the client."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    head, ((_, _, files), *_), *_ = connection.recvmsg(8, socket.CMSG_SPACE(3 * array.array("i").itemsize))
    with connection.makefile("rb") as stream:
        arguments, folder, environment = json.loads(stream.read(int.from_bytes(head, "big")))
    stage = os.fork()
    if stage == 0:
        connection.close()
        for number, file in enumerate(array.array("i", files)):
            os.dup2(file, number)
            os.close(file)
        run(arguments, folder, environment, client)
    _, status = os.waitpid(stage, 0)
    connection.sendall(bytes([os.waitstatus_to_exitcode(status) % 256]))
    os._exit(0)


def run(arguments: list[str], folder: str, environment: dict[str, str], client: str) -> NoReturn:
    """Run a module like `python -m`; the check of the params, which it starts as `sys.executable -m`, is forked too."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.executable = client
    sys.dont_write_bytecode = False  # later stages and copies of the project reuse compiled modules
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv, sys.path[0] = arguments, folder
    sys.path[1:1] = filter(None, environment.get("PYTHONPATH", "").split(os.pathsep))
    try:
        runpy.run_module(arguments[0], run_name="__main__", alter_sys=True)
    except SystemExit as end:
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
        end_process(1 if isinstance(end.code, str) else end.code or 0)
    end_process(0)


def end_process(code: int) -> NoReturn:
    """End as Python does, but without freeing memory: freeing TensorFlow's takes as long as a short stage."""
    threading._shutdown()
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    os._exit(code % 256)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # it ends with the tests, also after Ctrl-C
    # As darkroom sets them, which comes too late for what is imported here.
    os.environ |= {"TF_CPP_MIN_LOG_LEVEL": "2", "MLFLOW_DISABLE_TELEMETRY": "true"}
    for package in PACKAGES:
        importlib.import_module(package)
    exclude_imports_from_garbage_collection()  # else the first collection in a child copies all of them
    serve(Path(sys.argv[1]), int(sys.argv[2]))
