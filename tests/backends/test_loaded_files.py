"""A file that is changed in place is noticed; one that another takes the name of is not changed."""

from __future__ import annotations

import os

import pytest

from embeddings_gateway.backends.loaded_files import LoadedFiles


@pytest.fixture
def path(tmp_path):
    """Return a file."""
    path = tmp_path / "weights"
    path.write_bytes(b"a" * 100)
    later = tmp_path / "later"
    later.touch()
    while later.stat().st_mtime_ns == path.stat().st_ctime_ns:  # until the system's clock goes on
        later.touch()
    return path


@pytest.fixture
def files(path, tmp_path):
    """Return it as it was loaded, beside one that is not there."""
    files = LoadedFiles([path, tmp_path / "missing"])
    assert files.changed() == ""
    yield files
    files.close()


def overwrite(path):
    """Write other bytes into a file."""
    with path.open("r+b") as file:
        file.write(b"b")


def overwrite_unseen(path):
    """Write other bytes into a file, and set its times back."""
    before = path.stat()
    overwrite(path)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.mark.parametrize("change", [overwrite, overwrite_unseen, lambda path: os.truncate(path, 10)])
def test_changed_in_place(path, files, change):
    """Whatever is written into a file, or cut off it, is noticed, also if its times are set back."""
    change(path)
    assert files.changed() == str(path)
    assert files.changed() == str(path)


def replace(path):
    """Rename another file over it."""
    path.with_name("new").write_bytes(b"b" * 100)
    path.with_name("new").rename(path)


@pytest.mark.parametrize(
    "change", [replace, lambda path: path.unlink(), lambda path: path.with_name("link").hardlink_to(path)]
)
def test_other_file_in_its_place(path, files, change):
    """A file that loses its name to another, or gets another name, is as it was loaded."""
    change(path)
    assert files.changed() == ""


def test_written_after_a_rename(path, files):
    """A file that lost its name and is then written to is noticed all the same."""
    path.with_name("link").hardlink_to(path)
    replace(path)
    assert files.changed() == ""
    overwrite(path.with_name("link"))
    assert files.changed() == str(path)
