import importlib
import os
import subprocess
import sys
from pathlib import Path

import keras
import pytest

import darkroom.models
from commands.rebuilding.comparison import describe_environments
from darkroom.models import set_keras_defaults
from darkroom.models.backend import describe_backend, describe_determinism, find_device, read_processor
from darkroom.recording.logged_model import SERVING_CODE
from tests.imports import ROOT, reached_modules

XEON = "processor\t: 0\nmodel name\t: Xeon\nflags\t\t: fpu amx_bf16 avx512_bf16\n\nmodel name\t: Other\n"
GENOA = "model name\t: Genoa\nflags\t\t: fpu avx512_bf16\n"
OLD = "model name\t: Old\nflags\t\t: fpu avx2\n"
ARM = "processor\t: 0\nFeatures\t: fp asimd bf16\n"


@pytest.mark.parametrize(
    ("facts", "name", "half_precisions", "has_matrix_unit"),
    [
        (XEON, "Xeon", {"bfloat16"}, True),
        (GENOA, "Genoa", {"bfloat16"}, False),
        (OLD, "Old", set(), False),
        (ARM, None, {"bfloat16"}, False),
    ],
)
def test_the_cpu_is_read_from_the_facts_of_the_system(
    tmp_path: Path, facts: str, name: str | None, half_precisions: set[str], has_matrix_unit: bool
) -> None:
    (tmp_path / "cpuinfo").write_text(facts)
    device = read_processor(tmp_path / "cpuinfo")
    assert (device.kind, device.half_precisions, device.has_matrix_unit) == ("cpu", half_precisions, has_matrix_unit)
    assert device.name == name or (name is None and device.name)


def test_without_facts_the_cpu_has_a_name_and_no_half_precisions(tmp_path: Path) -> None:
    device = read_processor(tmp_path / "absent")
    assert device.name
    assert not device.half_precisions


def test_the_environment_names_device_backend_and_versions() -> None:
    described = describe_backend()
    assert find_device().name in str(described["device"])
    assert str(described["backend"]).startswith(keras.backend.backend())
    assert isinstance(described["versions"], dict)
    assert described["versions"]["keras"] == keras.__version__


def test_the_environment_names_the_variables_that_change_last_digits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TF_XLA_FLAGS", raising=False)
    unset = describe_backend()
    monkeypatch.setenv("TF_XLA_FLAGS", "--tf_xla_auto_jit=2")
    differing = describe_environments(unset, describe_backend())
    assert differing == "variables.TF_XLA_FLAGS: None then, --tf_xla_auto_jit=2 now"


def test_determinism_is_read_from_the_backend() -> None:
    assert describe_determinism() == {"threads": 2, "deterministic": True}


def test_importing_the_package_of_models_sets_what_a_user_s_keras_json_would_decide() -> None:
    try:
        keras.config.set_image_data_format("channels_first")
        keras.config.set_floatx("float16")
        keras.config.set_epsilon(0.01)
        keras.config.set_max_epochs(1)
        keras.config.set_max_steps_per_epoch(1)
        importlib.reload(darkroom.models)
        assert (keras.config.image_data_format(), keras.config.floatx()) == ("channels_last", "float32")
        assert keras.config.epsilon() == 1e-7
        assert (keras.config.max_epochs(), keras.config.max_steps_per_epoch()) == (None, None)
    finally:
        set_keras_defaults()


@pytest.mark.parametrize(
    ("variables", "backend"),
    [({}, "tensorflow"), ({"KERAS_BACKEND": ""}, "tensorflow"), ({"KERAS_BACKEND": "torch"}, "torch")],
    ids=["unset", "empty", "set"],
)
def test_only_the_environment_chooses_the_backend(variables: dict[str, str], backend: str) -> None:
    inherited = {name: value for name, value in os.environ.items() if name != "KERAS_BACKEND"}
    command = [sys.executable, "-c", "import os, darkroom; print(os.environ['KERAS_BACKEND'])"]
    done = subprocess.run(command, cwd=ROOT, env=inherited | variables, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == backend


def test_every_process_with_a_model_imports_the_package_of_models() -> None:
    starts = [*ROOT.glob("stages/*.py"), *ROOT.glob("commands/*.py"), ROOT / SERVING_CODE]
    without = set()
    for start in starts:
        reached = reached_modules(start.relative_to(ROOT))
        uses_keras = any("import keras" in (ROOT / module).read_text() for module in reached)
        if uses_keras and Path("darkroom/models/__init__.py") not in reached:
            without.add(start.name)
    assert without == set()
