import re
from pathlib import Path

import pytest

from darkroom.pipeline.stage import StageError
from darkroom.pipeline.yaml_file import load_yaml

BOMB = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 10)}]\n" for before, name in zip("abcdef", "bcdefg", strict=True)
)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        pytest.param(
            b"a: 1\n<<<<<<< HEAD\nb: 1\n=======\nb: 2\n>>>>>>> other\n",
            "{path}: line 2 is a conflict marker of Git (<<<<<<< HEAD); edit the file, or take one side with "
            "`git checkout --ours {path}` or `--theirs`, then run this again",
            id="a conflict",
        ),
        pytest.param(
            b"a: 1\nb: B\xe4r\n",
            "{path} is not valid YAML: line 2 has the byte 0xe4, which is not UTF-8; save the file as UTF-8",
            id="Latin-1",
        ),
        pytest.param(
            "a: 1\n".encode("utf-16"),
            "{path} is not valid YAML: line 1 has the byte 0xff, which is not UTF-8; save the file as UTF-8",
            id="UTF-16",
        ),
        pytest.param(
            b"a:\n  x: 1\n  x: 2\n",
            '{path} is not valid YAML: line 3: found duplicate key "x" with value "2" (original value: "1")',
            id="a key twice",
        ),
        pytest.param(
            b"a:\n\tx: 1\n",
            "{path} is not valid YAML: line 2: found character that cannot start any token; indent with spaces, not "
            "with tabs",
            id="a tab",
        ),
        pytest.param(
            b"a: 1\nb: " + b"[" * 100_000 + b"]" * 100_000,
            "{path}: line 2 is nested deeper than 100 levels; use fewer levels",
            id="too many levels",
        ),
        pytest.param(
            BOMB.encode(), "{path}: line 6: aliases make more than 1,000,000 values; use fewer of them", id="a bomb"
        ),
        pytest.param(
            b"a: &a [1, *a]\n", "{path}: line 1: the alias *a stands for a value that contains it", id="a cycle"
        ),
        pytest.param(b"a: 1\n---\nb: 2\n", "{path} is not valid YAML: line 2: but found another document", id="two"),
        pytest.param(b"a: 2024-99-99\n", "{path} is not valid YAML: month must be in 1..12", id="a value"),
    ],
)
def test_a_wrong_file_is_described_in_one_line(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "params.yaml"
    path.write_bytes(content)
    with pytest.raises(StageError, match=f"^{re.escape(message.format(path=path))}$"):
        load_yaml(path)


@pytest.mark.parametrize(
    ("content", "values"),
    [
        (b"\xef\xbb\xbfa: B\xc3\xa4r\n", {"a": "Bär"}),
        (b"a: &a {x: 1e-3}\nb: *a\nc:\n  <<: *a\n", {name: {"x": 0.001} for name in "abc"}),
        (b"a: |\n  =======\n", {"a": "=======\n"}),
        (b"", None),
    ],
    ids=["a byte order mark", "aliases", "text like a conflict", "empty"],
)
def test_other_files_are_loaded(tmp_path: Path, content: bytes, values: object) -> None:
    (tmp_path / "file.yaml").write_bytes(content)
    assert load_yaml(tmp_path / "file.yaml") == values
