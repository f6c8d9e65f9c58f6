"""Checkpoints: the state of a training after an epoch, from which a killed training resumes with identical results.

The file is stored outside the outputs, because DVC deletes those before a stage runs. Its name is a fingerprint of
everything the training depends on, so a training never resumes from the state of a different one.
"""

import json
import zipfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np
import numpy.typing as npt
from filelock import FileLock, Timeout

from darkroom.pipeline.files import whole_file

SCORES = ("loss", "accuracy", "val_loss", "val_accuracy")
CURVES = (*SCORES, "learning_rate")
MAXIMUM_OTHER_FILES = 5
EXTENSION = ".npz"
DAMAGED = ".damaged"
PARTIAL = ".partial"
LOCK = ".lock"
# The attributes in which Keras's callbacks remember earlier epochs; their other attributes are settings.
EARLY_STOPPING_FACTS = ("wait", "stopped_epoch", "best", "best_epoch")
PLATEAU_FACTS = ("wait", "cooldown_counter", "best")

Weights = list[npt.NDArray[Any]]
Curves = dict[str, list[float]]


def empty_curves() -> Curves:
    return {name: [] for name in CURVES}


@dataclass
class State:
    """The state of a training at its beginning or after one of its epochs.

    Fields:
        run_id: the MLflow run of the training, "" for none.
        phase: counted from 0.
        epochs_before: number of epochs in earlier phases.
        curves: a value per epoch so far, by name.
        is_over: whether early stopping has ended the phase.
        early_stopping, plateau: attributes of the callbacks, by their names in Keras.
        weights_before: the network's weights at the beginning of the phase; empty in the first phase, where they follow
            from the seed.
        variables: of the trained model, with the states of its random generators.
        optimizer: its variables.
        best_weights: of the trained model, in the best epoch of this phase.
    """

    run_id: str = ""
    phase: int = 0
    epochs_before: int = 0
    curves: Curves = field(default_factory=empty_curves)
    is_over: bool = False
    early_stopping: dict[str, Any] = field(default_factory=dict)
    plateau: dict[str, Any] = field(default_factory=dict)
    weights_before: Weights = field(default_factory=list)
    variables: Weights = field(default_factory=list)
    optimizer: Weights = field(default_factory=list)
    best_weights: Weights = field(default_factory=list)

    @property
    def epochs(self) -> int:
        return len(self.curves["loss"])

    @property
    def is_under_way(self) -> bool:
        """Whether at least one epoch of the phase is complete."""
        return self.epochs > self.epochs_before


ARRAYS = ("weights_before", "variables", "optimizer", "best_weights")


@dataclass(frozen=True)
class Checkpoint:
    """The file of a training's state."""

    path: Path

    @property
    def lock(self) -> Path:
        """The file that a training locks while it uses the checkpoint."""
        return self.path.with_suffix(LOCK)

    def read(self) -> State | None:
        """Read the state that `write` wrote; a corrupt file, for example after a full disk, is moved aside.

        Returns:
            the state; None if there is none that can be read.
        """
        if not self.path.exists():
            return None
        try:
            with np.load(self.path, allow_pickle=False) as file:
                facts = json.loads(file["facts"].tobytes())
                counts = facts.pop("counts")
                arrays: dict[str, Any] = {name: [file[f"{name}/{n}"] for n in range(counts[name])] for name in ARRAYS}
            return State(**facts, **arrays)
        except (OSError, ValueError, KeyError, TypeError, EOFError, RuntimeError, zipfile.BadZipFile) as error:
            aside = self.path.with_suffix(DAMAGED)
            self.path.replace(aside)
            print(
                f"train: the checkpoint is corrupt ({' '.join(str(error).split())}) and was moved to {aside}; starting "
                "from epoch 1",
                flush=True,
            )
            return None

    def write(self, state: State) -> None:
        """Replace the saved state, either completely or not at all."""
        arrays = {name: getattr(state, name) for name in ARRAYS}
        facts = {name: value for name, value in vars(state).items() if name not in ARRAYS}
        facts["counts"] = {name: len(values) for name, values in arrays.items()}
        named = {f"{name}/{n}": value for name, values in arrays.items() for n, value in enumerate(values)}
        with whole_file(self.path) as partial, partial.open("wb") as file:
            np.savez(file, facts=np.frombuffer(json.dumps(facts).encode(), np.uint8), **named)

    def remove(self) -> None:
        self.path.unlink(missing_ok=True)


class Resumption(NamedTuple):
    """Where a training begins or resumes, and where its state is saved.

    Fields:
        checkpoint: where the state is saved after each epoch; None saves none.
        state: the state to begin or resume from.
    """

    checkpoint: Checkpoint | None
    state: State


def find_checkpoint(folder: Path, fingerprint: str, worker: int) -> Checkpoint:
    """Return the checkpoint of a training, and delete all but the latest checkpoints of other trainings.

    Args:
        folder: of all checkpoints.
        fingerprint: of the training, see `fingerprint.py`.
        worker: number of this worker; each worker has its own checkpoint.
    """
    own = folder / f"{fingerprint}-{worker}{EXTENSION}"
    others = [path for path in folder.glob("*") if path.suffix in (EXTENSION, DAMAGED, PARTIAL) and path != own]
    for path in sorted(others, key=modification_time, reverse=True)[MAXIMUM_OTHER_FILES:]:
        lock = FileLock(folder / f"{path.name.strip('.').partition('.')[0]}{LOCK}")
        with suppress(Timeout), lock.acquire(timeout=0):  # times out while another training uses it
            path.unlink(missing_ok=True)
    return Checkpoint(own)


def modification_time(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:  # another training has just deleted it
        return 0


def copy_values(variables: Sequence[keras.Variable]) -> Weights:
    return [np.array(keras.ops.convert_to_numpy(variable)) for variable in variables]


def assign_values(variables: Sequence[keras.Variable], values: Weights) -> None:
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)


class SaveState(keras.callbacks.Callback):  # type: ignore[misc]
    """Save a training's state after each epoch, and restore it when the training resumes.

    Place it after the callbacks whose state it saves, because they reset themselves when a training begins.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        state: State,
        early_stopping: keras.callbacks.EarlyStopping,
        plateau: Sequence[keras.callbacks.ReduceLROnPlateau],
    ) -> None:
        """Save the state of a phase.

        Args:
            checkpoint: where to save it.
            state: where the phase begins or resumes; another callback extends its curves.
            early_stopping, plateau: the callbacks of the phase.
        """
        super().__init__()
        self.checkpoint = checkpoint
        self.state = state
        self.early_stopping = early_stopping
        self.plateau = plateau

    def on_train_begin(self, logs: dict[str, float] | None = None) -> None:  # noqa: ARG002
        state = self.state
        if not state.is_under_way:
            return
        self.model.optimizer.build(self.model.trainable_variables)
        assign_values(self.model.variables, state.variables)
        assign_values(self.model.optimizer.variables, state.optimizer)
        self.early_stopping.best_weights = state.best_weights
        restore_facts(self.early_stopping, state.early_stopping)
        for callback in self.plateau:
            restore_facts(callback, state.plateau)
        state.variables, state.optimizer, state.best_weights = [], [], []  # frees several times the size of the network

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:  # noqa: ARG002
        self.checkpoint.write(
            replace(
                self.state,
                is_over=bool(self.model.stop_training),
                early_stopping=read_facts(self.early_stopping, EARLY_STOPPING_FACTS),
                plateau={
                    name: value for each in self.plateau for name, value in read_facts(each, PLATEAU_FACTS).items()
                },
                variables=copy_values(self.model.variables),
                optimizer=copy_values(self.model.optimizer.variables),
                best_weights=self.early_stopping.best_weights,
            )
        )


def read_facts(callback: keras.callbacks.Callback, names: Sequence[str]) -> dict[str, Any]:
    return {name: to_json_value(getattr(callback, name)) for name in names}


def restore_facts(callback: keras.callbacks.Callback, facts: Mapping[str, Any]) -> None:
    for name, value in facts.items():
        setattr(callback, name, value)


def to_json_value(value: Any) -> Any:
    """Convert a value to one that JSON can hold: Keras may store scalars of NumPy or of the backend."""
    return value if value is None or isinstance(value, int | float) else float(value)
