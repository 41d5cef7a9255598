"""What measures faults: needed to watch processes, and to say at full size what was found."""

from __future__ import annotations

import pytest

pytest.importorskip("psutil", reason="the extra bench is not installed")


@pytest.fixture
def tell(request, full_size):
    """Return a function that prints figures, in one line, at full size."""

    def line(**figures) -> None:
        if full_size:
            line_of_figures = ", ".join(
                f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}"
                for name, value in figures.items()
            )
            print(f"\n{request.node.name}: {line_of_figures}")  # noqa: T201 - what --full-size is for

    return line
