"""Exported models in their own runtimes, which need neither Keras nor this project.

Each maps pixels, 0 to 255, of any batch size to probabilities. Dims: B photos of a batch, H height, W width,
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

# The names of the input and the output, in both formats.
INPUT, OUTPUT = "pixels", "probabilities"
LITERT_SIGNATURE = "serving_default"
STDERR = 2
WHO_NEEDS = "exported models need"

Predict = Callable[[Pixels], Probabilities]  # (B, H, W, C) to (B, K)


def open_onnx(path: Path) -> Predict:
    """Open a model.onnx in ONNX Runtime, on all processors of this process.

    Raises:
        StageError: the package or the file is missing, or the file is not a model that `darkroom export` wrote.
    """
    require_packages(WHO_NEEDS, ["onnxruntime"])
    import onnxruntime
    from onnxruntime.capi import onnxruntime_pybind11_state as errors

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = count_processors()
    options.log_severity_level = 4  # fatal only: errors are raised as exceptions too
    check_exists(path)
    try:
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except (errors.Fail, errors.InvalidArgument, errors.InvalidGraph, errors.InvalidProtobuf) as error:
        raise unusable(path, "ONNX Runtime", str(error)) from None
    check_names(path, [value.name for value in session.get_inputs()], [value.name for value in session.get_outputs()])

    def predict(pixels: Pixels) -> Probabilities:
        probabilities: Probabilities = session.run([OUTPUT], {INPUT: pixels.astype(np.float32)})[0]
        return probabilities

    return predict


def open_litert(path: Path) -> Predict:
    """Open a model.tflite in LiteRT's interpreter, on all processors of this process. It is not thread-safe.

    Raises:
        StageError: the package or the file is missing, or the file is not a model that `darkroom export` wrote.
    """
    require_packages(WHO_NEEDS, ["ai_edge_litert"])
    from ai_edge_litert.interpreter import Interpreter

    check_exists(path)
    with holding_stderr():
        try:
            interpreter = Interpreter(str(path), num_threads=count_processors())
            interpreter.allocate_tensors()
        except (ValueError, RuntimeError) as error:
            raise unusable(path, "LiteRT", str(error)) from None
        signature = interpreter.get_signature_list().get(LITERT_SIGNATURE, {"inputs": [], "outputs": []})
        check_names(path, signature["inputs"], signature["outputs"])
        runner = interpreter.get_signature_runner(LITERT_SIGNATURE)

    def predict(pixels: Pixels) -> Probabilities:
        probabilities: Probabilities = runner(**{INPUT: pixels.astype(np.float32)})[OUTPUT]
        return probabilities

    return predict


def check_exists(path: Path) -> None:
    if not path.is_file():
        raise StageError(f"{path} is missing; run `darkroom export` to write it")


def check_names(path: Path, inputs: Sequence[str], outputs: Sequence[str]) -> None:
    if (list(inputs), list(outputs)) != ([INPUT], [OUTPUT]):
        raise StageError(
            f"{path}: expected a model from {INPUT} to {OUTPUT}, got one from {', '.join(inputs) or 'nothing'} to "
            f"{', '.join(outputs) or 'nothing'}; run `darkroom export` to write it again"
        )


def unusable(path: Path, runtime: str, reason: str) -> StageError:
    return StageError(
        f"{path}: {runtime} cannot load it ({' '.join(reason.split())}); run `darkroom export` to write it again"
    )


@contextmanager
def holding_stderr() -> Iterator[None]:
    """Discard what a block writes to stderr, also from native code, unless it raises another error than `StageError`;
    then print it."""
    sys.stderr.flush()
    original = os.dup(STDERR)
    is_discarded = False
    with TemporaryFile() as held:
        os.dup2(held.fileno(), STDERR)
        try:
            yield
            is_discarded = True
        except StageError:
            is_discarded = True
            raise
        finally:
            sys.stderr.flush()
            os.dup2(original, STDERR)
            os.close(original)
            if not is_discarded:
                held.seek(0)
                os.write(STDERR, held.read())
