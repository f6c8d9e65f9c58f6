import os
from contextlib import suppress
from pathlib import Path

import pytest

from darkroom.photos.photo_file import UnreadableFile, check_size, describe_size, read_photo_file


def test_a_whole_file_is_read_up_to_the_limit(workspace: Path) -> None:
    (workspace / "a.jpg").write_bytes(b"12345")
    assert read_photo_file("a.jpg", 5) == b"12345"
    with pytest.raises(UnreadableFile, match="^larger than allowed: more than 4 bytes$"):
        read_photo_file("a.jpg", 4)


def test_a_link_is_followed_and_a_dangling_one_has_a_reason(workspace: Path) -> None:
    (workspace / "a.jpg").write_bytes(b"12345")
    os.symlink("a.jpg", "link.jpg")
    os.symlink("nowhere", "lost.jpg")
    assert read_photo_file(Path("link.jpg"), 5) == b"12345"
    with pytest.raises(UnreadableFile, match="^No such file or directory$"):
        read_photo_file("lost.jpg", 5)


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("missing.jpg", "No such file or directory"),
        (".", "not a regular file"),
        ("/dev/zero", "not a regular file"),
        ("x" * 300, "File name too long"),
        ("a\0b.jpg", "not a valid path on this system"),
        ("\ud800.jpg", "not a valid path on this system"),
    ],
)
@pytest.mark.usefixtures("workspace")
def test_paths_that_are_not_files_have_a_reason(path: str, reason: str) -> None:
    with pytest.raises(UnreadableFile, match=f"^{reason}$"):
        read_photo_file(path, 1000)


@pytest.mark.usefixtures("workspace")
def test_a_pipe_does_not_block() -> None:
    os.mkfifo("pipe")
    with pytest.raises(UnreadableFile, match="^not a regular file$"):
        read_photo_file("pipe", 1000)


def test_sizes_up_to_the_limit_are_allowed() -> None:
    check_size(10, 10)
    with pytest.raises(UnreadableFile, match=f"^{describe_size(10)}$"):
        check_size(11, 10)


@pytest.mark.usefixtures("workspace")
def test_no_descriptor_is_left_open() -> None:
    Path("a.jpg").write_bytes(b"12345")
    before = len(os.listdir("/dev/fd"))
    for path, maximum in ((".", 9), ("a.jpg", 9), ("a.jpg", 1), ("missing.jpg", 9)):
        with suppress(UnreadableFile):
            read_photo_file(path, maximum)
    assert len(os.listdir("/dev/fd")) == before


def test_a_number_is_not_a_path() -> None:
    with pytest.raises(TypeError):
        read_photo_file(0, 9)
