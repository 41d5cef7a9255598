"""Tables in Markdown, and figures as people read them."""

from __future__ import annotations

from collections.abc import Sequence

NOTHING = "-"


def table(head: Sequence[str], rows: Sequence[Sequence[str]], *, words: bool = False) -> str:
    """Return a table; all columns but the first stand to the right, unless they hold words."""
    rule = [":--", *(":--" if words else "--:" for _ in head[1:])]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (head, rule, *rows))


def times(ratio: float | None) -> str:
    """Write a ratio."""
    return NOTHING if ratio is None else f"{figure(ratio)} x"


def figure(value: float | None, unit: str = "") -> str:
    """Write a figure with three digits that mean something."""
    if value is None:
        return NOTHING
    size = abs(value)
    written = f"{value:,.0f}" if size >= 100 else f"{value:.1f}" if size >= 10 else f"{value:.2f}"
    return f"{written} {unit}".strip()


def percent(share: float | None) -> str:
    """Write a share."""
    return NOTHING if share is None else f"{100 * share:.0f} %"


def cosine(value: float | None) -> str:
    """Write a cosine; what matters of it is how far it is from 1."""
    return NOTHING if value is None else f"{value:.5f}"
