"""Where a training stands after an epoch: one file, from which a training that was killed goes on to the same end.

The file lies outside the outputs, which DVC deletes before a stage runs, and is named by everything that the training
depends on. So whatever changes, no training goes on from the state of another.
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
KEPT_FILES = 5
ENDING = ".npz"
DAMAGED = ".damaged"
PARTIAL = ".partial"
LOCK = ".lock"
# What Keras's callbacks know of the epochs before; the rest of them are settings.
EARLY_STOPPING_FACTS = ("wait", "stopped_epoch", "best", "best_epoch")
PLATEAU_FACTS = ("wait", "cooldown_counter", "best")

Weights = list[npt.NDArray[Any]]
Curves = dict[str, list[float]]


def no_curves() -> Curves:
    return {name: [] for name in CURVES}


@dataclass
class State:
    """A training at its beginning, or after one of its epochs.

    Fields:
        run_id: the MLflow run that shows it, "" for none.
        phase: counted from 0.
        epochs_before: how many epochs the earlier phases had.
        curves: a value for each epoch so far, by name.
        is_over: whether early stopping has ended the phase.
        early_stopping, plateau: what the callbacks know, by the names of Keras.
        weights_before: of the network at the beginning of the phase; none in the first one, which a seed gives.
        variables: of what is fitted, with the states of its random generators.
        optimizer: its variables.
        best_weights: of what is fitted, in its best epoch of this phase.
    """

    run_id: str = ""
    phase: int = 0
    epochs_before: int = 0
    curves: Curves = field(default_factory=no_curves)
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
        """Whether an epoch of the phase is done."""
        return self.epochs > self.epochs_before


ARRAYS = ("weights_before", "variables", "optimizer", "best_weights")


@dataclass(frozen=True)
class Checkpoint:
    """The file of a training's state."""

    path: Path

    @property
    def lock(self) -> Path:
        """The file that a training locks while it uses the state."""
        return self.path.with_suffix(LOCK)

    def read(self) -> State | None:
        """Read what `write` wrote; a file that is damaged, as by a full disk, is put aside, and the training starts
        over."""
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
                f"train: starts over, because the state of an earlier one is damaged ({' '.join(str(error).split())}); "
                f"it was put aside as {aside}",
                flush=True,
            )
            return None

    def write(self, state: State) -> None:
        """Replace the state that is there, at once or not at all."""
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
        checkpoint: of the state after each epoch; None saves none.
        state: what the checkpoint holds of this training, with the id of the MLflow run that shows it.
    """

    checkpoint: Checkpoint | None
    state: State


def find_checkpoint(folder: Path, key: str, worker: int) -> Checkpoint:
    """The file of the training with this key; of those that others have left, only the latest few are kept.

    Args:
        folder: of all states.
        key: of the training, see `fingerprint.py`.
        worker: which of those that train together; each keeps a state of its own.
    """
    own = folder / f"{key}-{worker}{ENDING}"
    others = [path for path in folder.glob("*") if path.suffix in (ENDING, DAMAGED, PARTIAL) and path != own]
    for path in sorted(others, key=written_at, reverse=True)[KEPT_FILES:]:
        lock = FileLock(folder / f"{path.name.strip('.').partition('.')[0]}{LOCK}")
        with suppress(Timeout), lock.acquire(timeout=0):  # else it is another training's that is under way
            path.unlink(missing_ok=True)
    return Checkpoint(own)


def written_at(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:  # another training has just removed it
        return 0


def copy_values(variables: Sequence[keras.Variable]) -> Weights:
    return [np.array(keras.ops.convert_to_numpy(variable)) for variable in variables]


def assign_values(variables: Sequence[keras.Variable], values: Weights) -> None:
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)


class KeepState(keras.callbacks.Callback):  # type: ignore[misc]
    """Write a training's state after each epoch, and take it up where a training goes on.

    It stands behind the callbacks whose state it keeps, which forget all when a training begins.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        state: State,
        early_stopping: keras.callbacks.EarlyStopping,
        plateau: Sequence[keras.callbacks.ReduceLROnPlateau],
    ) -> None:
        """Keep the state of a phase.

        Args:
            checkpoint: where.
            state: where the phase begins or goes on; others extend its curves.
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
        state.variables, state.optimizer, state.best_weights = [], [], []  # as large as the network, several times

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:  # noqa: ARG002
        self.checkpoint.write(
            replace(
                self.state,
                is_over=bool(self.model.stop_training),
                early_stopping=take_facts(self.early_stopping, EARLY_STOPPING_FACTS),
                plateau={
                    name: value for each in self.plateau for name, value in take_facts(each, PLATEAU_FACTS).items()
                },
                variables=copy_values(self.model.variables),
                optimizer=copy_values(self.model.optimizer.variables),
                best_weights=self.early_stopping.best_weights,
            )
        )


def take_facts(callback: keras.callbacks.Callback, names: Sequence[str]) -> dict[str, Any]:
    return {name: plain(getattr(callback, name)) for name in names}


def restore_facts(callback: keras.callbacks.Callback, facts: Mapping[str, Any]) -> None:
    for name, value in facts.items():
        setattr(callback, name, value)


def plain(value: Any) -> Any:
    """A value as JSON gives it back: what Keras compares may be a scalar of NumPy's or of a backend's."""
    return value if value is None or isinstance(value, int | float) else float(value)
