"""Breakdown of the time from `python -m stages.train` to its first batch.

Runs the train stage of the recipe digits in a new process for each round. Prints the median seconds of each part:
imports, reading, opening MLflow, building the network, and the first batch, in which TensorFlow traces the training
step.

Run as  python -m benchmarks.startup     (about two minutes)
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from tests.project import copy_project

ROUNDS = 5
PARTS = """
import json, sys, time
started = float(sys.argv[1])
parts = {}
def done(part):
    global started
    now = time.time()
    parts[part] = now - started
    started = now
done("Python")
import keras
done("Keras and TensorFlow")
import mlflow
done("MLflow")
import stages.train as train
from darkroom.tracking.live_run import LiveRun
done("this project, scikit-learn, matplotlib")
class FirstBatch(keras.callbacks.Callback):
    def on_train_begin(self, logs=None):
        done("network")
    def on_train_batch_end(self, batch, logs=None):
        done("first batch")
        print(json.dumps(parts), flush=True)
        import os
        os._exit(0)
opened = LiveRun.open.__func__
def open_run(kind, *arguments):
    done("params, images and their digest")
    run = opened(kind, *arguments)
    done("run in MLflow")
    return run
LiveRun.open = classmethod(open_run)
train.EpochReport = lambda *arguments: FirstBatch()
train.main()
"""


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        project = copy_project(Path(folder, "project"))
        project.dvc("repro", "split")
        rounds = []
        for _ in range(ROUNDS):
            environment = project.command_environment(MLFLOW_TRACKING_URI="")
            command = [sys.executable, "-c", PARTS, str(time.time())]
            output = subprocess.run(
                command, cwd=project.root, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
            )
            rounds.append(json.loads(output.stdout.splitlines()[-1]))
    print("| from the start to the first batch | seconds |")
    print("|---|---|")
    for part in rounds[0]:
        print(f"| {part} | {median(parts[part] for parts in rounds):.1f} |")
    print(f"| total, {os.cpu_count()} CPUs | {median(sum(parts.values()) for parts in rounds):.1f} |")


if __name__ == "__main__":
    main()
