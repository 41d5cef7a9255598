"""The loads: how many clients, how many inputs a request, what texts, and who takes part."""

from __future__ import annotations

import msgspec

from bench.results import SideKind
from bench.texts import Kind

TEXTS_PER_S = {"short": 10_000, "mixed": 2_000, "long": 1_000, "wide": 1_000}
"""More than a processor does: a turn that uses its texts up ends early."""
WARM_TEXTS = 1024

HTTP: tuple[SideKind, ...] = ("gateway", "server")


class Shape(msgspec.Struct, frozen=True):
    """One load.

    Attributes:
        clients: connections, each with one request at a time.
        inputs: texts of a request.
        kind: of the texts.
        sides: the kinds of sides that take part.
    """

    clients: int
    inputs: int
    kind: Kind
    sides: tuple[SideKind, ...]

    def texts(self, seconds: float) -> int:
        """Return how many texts are put ready for a turn, the warm-up's included."""
        return int(TEXTS_PER_S[self.kind] * seconds) + WARM_TEXTS + self.clients * self.inputs


MINILM = (
    Shape(1, 1, "short", (*HTTP, "library", "engine")),
    Shape(16, 1, "short", HTTP),
    Shape(64, 1, "short", HTTP),
    Shape(8, 32, "short", (*HTTP, "library")),
    Shape(8, 8, "mixed", (*HTTP, "library", "engine")),
    Shape(2, 256, "short", (*HTTP, "library", "engine")),
    Shape(8, 8, "long", (*HTTP, "library", "engine")),
)
GGUF = (
    Shape(1, 1, "short", (*HTTP, "engine")),
    Shape(16, 1, "short", HTTP),
    Shape(64, 1, "short", HTTP),
    Shape(8, 32, "short", HTTP),
    Shape(8, 8, "mixed", (*HTTP, "engine")),
    Shape(2, 256, "short", (*HTTP, "engine")),
    Shape(8, 8, "long", (*HTTP, "engine")),
)
