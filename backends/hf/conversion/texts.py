"""Texts that a conversion is calibrated with and judged by: of the kinds people embed, in many languages."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from embeddings_gateway.backends import checksum
from embeddings_gateway.backends.base import LoadError

CORPUS = Path(__file__).parent / "corpus"
"""Of text files in UTF-8, one text a line, shuffled over kinds and languages: neighbours get joined."""

CALIBRATION: tuple[str, ...] = tuple((CORPUS / "calibration.txt").read_text("utf-8").splitlines())
"""What int8 is calibrated with."""

PROBES: tuple[str, ...] = tuple((CORPUS / "probes.txt").read_text("utf-8").splitlines())
"""What a conversion is judged by; none of them is among those it is calibrated with."""

CALIBRATION_MAX = 512
"""Texts that are used of a file; to calibrate a small model with as many takes a minute."""


def calibration(path: str | None) -> Sequence[str]:
    """Return the texts that int8 is calibrated with.

    Args:
        path: a file of texts in UTF-8, one a line, of which some are taken, evenly; ``None`` is ours.

    Raises:
        LoadError: there are no texts in the file.
    """
    if path is None:
        return CALIBRATION
    try:
        lines = [line for line in Path(path).read_text("utf-8").splitlines() if line.strip()]
    except OSError as error:
        raise _unreadable(path, error) from error
    except UnicodeDecodeError:
        raise LoadError(f"calibration {path!r} is not text in UTF-8, one text a line") from None
    if not lines:
        raise LoadError(f"calibration {path!r} has no texts: write one a line, like those to come")
    return lines[:: -(-len(lines) // CALIBRATION_MAX)]


def calibration_sum(path: str | None) -> str:
    """Return the SHA-256 of what :func:`calibration` reads.

    Raises:
        LoadError: it cannot be read.
    """
    try:
        return checksum.sha256(CORPUS / "calibration.txt" if path is None else Path(path))
    except OSError as error:
        raise _unreadable(str(path), error) from error


def _unreadable(path: str, error: OSError) -> LoadError:
    return LoadError(f"calibration {path!r} cannot be read: {error.strerror}")
