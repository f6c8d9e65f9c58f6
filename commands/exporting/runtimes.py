"""Exported models in their own runtimes, which know neither Keras nor this project.

Each takes pixels, 0 to 255, of any batch, and gives probabilities. Dims: B photos of a batch, H height, W width,
C channels, K labels.
"""

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryFile

import numpy as np

from commands.extras import require_packages
from darkroom.pipeline.arrays import Pixels, Probabilities
from darkroom.pipeline.processors import count_processors
from darkroom.pipeline.stage import StageError

# What the one input and the one output are called, in both formats.
INPUT, OUTPUT = "pixels", "probabilities"
LITERT_SIGNATURE = "serving_default"
STDERR = 2
WHO_NEEDS = "exported models need"

Ask = Callable[[Pixels], Probabilities]  # (B, H, W, C) to (B, K)


def open_onnx(path: Path) -> Ask:
    """Open a model.onnx in ONNX Runtime, on all processors of this process.

    Raises:
        StageError: the package is missing, or the file, or it is no model that `commands.export` wrote.
    """
    require_packages(WHO_NEEDS, ["onnxruntime"])
    import onnxruntime
    from onnxruntime.capi import onnxruntime_pybind11_state as faults

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = count_processors()
    options.log_severity_level = 4  # what is an error is raised as well
    check_there(path)
    try:
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except (faults.Fail, faults.InvalidArgument, faults.InvalidGraph, faults.InvalidProtobuf) as error:
        raise unusable(path, "ONNX Runtime", str(error)) from None
    check_names(path, [value.name for value in session.get_inputs()], [value.name for value in session.get_outputs()])

    def ask(pixels: Pixels) -> Probabilities:
        probabilities: Probabilities = session.run([OUTPUT], {INPUT: pixels.astype(np.float32)})[0]
        return probabilities

    return ask


def open_litert(path: Path) -> Ask:
    """Open a model.tflite in LiteRT's interpreter, on all processors of this process; for one caller at a time.

    Raises:
        StageError: the package is missing, or the file, or it is no model that `commands.export` wrote.
    """
    require_packages(WHO_NEEDS, ["ai_edge_litert"])
    from ai_edge_litert.interpreter import Interpreter

    check_there(path)
    with hold_stderr():
        try:
            interpreter = Interpreter(str(path), num_threads=count_processors())
            interpreter.allocate_tensors()
        except (ValueError, RuntimeError) as error:
            raise unusable(path, "LiteRT", str(error)) from None
        signature = interpreter.get_signature_list().get(LITERT_SIGNATURE, {"inputs": [], "outputs": []})
        check_names(path, signature["inputs"], signature["outputs"])
        runner = interpreter.get_signature_runner(LITERT_SIGNATURE)

    def ask(pixels: Pixels) -> Probabilities:
        probabilities: Probabilities = runner(**{INPUT: pixels.astype(np.float32)})[OUTPUT]
        return probabilities

    return ask


def check_there(path: Path) -> None:
    if not path.is_file():
        raise StageError(f"{path} is missing; `darkroom export` writes it")


def check_names(path: Path, inputs: Sequence[str], outputs: Sequence[str]) -> None:
    if (list(inputs), list(outputs)) != ([INPUT], [OUTPUT]):
        raise StageError(
            f"{path}: expected a model from {INPUT} to {OUTPUT}, got one from {', '.join(inputs) or 'nothing'} to "
            f"{', '.join(outputs) or 'nothing'}; `darkroom export` writes it anew"
        )


def unusable(path: Path, runtime: str, reason: str) -> StageError:
    return StageError(
        f"{path}: {runtime} cannot load it ({' '.join(reason.split())}); `darkroom export` writes it anew"
    )


@contextmanager
def hold_stderr() -> Iterator[None]:
    """Hold back what a block writes to stderr, native code too; an error other than a `StageError` lets it out."""
    sys.stderr.flush()
    kept = os.dup(STDERR)
    is_needless = False
    with TemporaryFile() as held:
        os.dup2(held.fileno(), STDERR)
        try:
            yield
            is_needless = True
        except StageError:
            is_needless = True
            raise
        finally:
            sys.stderr.flush()
            os.dup2(kept, STDERR)
            os.close(kept)
            if not is_needless:
                held.seek(0)
                os.write(STDERR, held.read())
