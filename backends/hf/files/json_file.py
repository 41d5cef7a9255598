"""Reads one JSON file of a model directory into a typed value; what does not fit is a LoadError."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

import msgspec

from embeddings_gateway.backends.base import LoadError

T = TypeVar("T")


def read(path: Path, kind: type[T]) -> T:
    """Return the file's content as ``kind``. Keys that ``kind`` does not name are ignored.

    Raises:
        LoadError: the file is missing, is not JSON, or holds another type than expected.
    """
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except OSError as error:
        raise LoadError(
            f"{path} cannot be read: {error.strerror}. Is the model directory complete?"
        ) from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise LoadError(f"{path} is not what a model directory holds there: {error}") from error


def read_if_present(path: Path, kind: type[T]) -> T | None:
    """Return the file's content as ``kind``, or nothing where there is no such file.

    Raises:
        LoadError: as :func:`read`, for a file that exists.
    """
    return read(path, kind) if path.exists() else None
