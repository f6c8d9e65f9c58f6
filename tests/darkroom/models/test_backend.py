from pathlib import Path

import keras
import pytest

from darkroom.models.backend import describe_backend, describe_determinism, find_device, read_processor

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


def test_determinism_is_read_from_the_backend() -> None:
    assert describe_determinism() == {"threads": 2, "deterministic": True}
