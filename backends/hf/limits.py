"""How long an input may be and which widths are offered: the model's limits and the configured ones."""

from __future__ import annotations

from collections.abc import Sequence

from embeddings_gateway.backends.base import LoadError


def longest_input(configured: int | None, author: int | None, positions: int | None, special: int) -> int:
    """Return the longest input in tokens, special tokens included.

    Args:
        configured: ``max_tokens`` of the configuration.
        author: what the model's files say.
        positions: what the architecture can number.
        special: the special tokens around every text.

    Raises:
        LoadError: the configured limit is above the model's or leaves no room for text, or there is none.
    """
    known = [limit for limit in (author, positions) if limit is not None]
    if configured is None and not known:
        raise LoadError("max_tokens is not set, and the model's files name no limit: set it")
    if configured is not None and known and configured > min(known):
        raise LoadError(f"max_tokens is {configured}, but the model takes {min(known)}: lower or remove it")
    limit = min(known) if configured is None else configured
    if limit <= special:
        raise LoadError(
            f"max_tokens is {limit}, but {special} special tokens stand around every text: raise it"
        )
    return limit


def widths(configured: Sequence[int] | None, author: Sequence[int], full: int) -> tuple[int, ...]:
    """Return the widths that a client may ask for, ascending, the full one last.

    Args:
        configured: ``dimensions`` of the configuration; it replaces what the author says.
        author: the Matryoshka widths in the model's files.
        full: the width of the model's vectors.

    Raises:
        LoadError: a configured width is larger than the model's.
    """
    for width in configured or ():
        if width > full:
            raise LoadError(f"dimensions has {width}, but the model's vectors have {full}: remove it")
    offered = author if configured is None else configured
    return (*sorted({width for width in offered if 0 < width < full}), full)
