"""What is known of one HTTP request when it ends: filled on its way, logged and counted in one place."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass(slots=True)
class Record:
    """One request.

    Attributes:
        id: the client's, or one of ours.
        path: what was asked for.
        began: monotonic seconds.
        model: the served model; empty where none is known.
        space: fingerprint of its embedding space.
        inputs, tokens: how many.
        truncated: inputs that were cut.
        seconds: phase -> how long it took.
        status: of the answer; 0 until there is one.
        code: of the error, if it is one.
    """

    id: str
    path: str
    began: float = field(default_factory=time.monotonic)
    model: str = ""
    space: str = ""
    inputs: int = 0
    tokens: int = 0
    truncated: Sequence[int] = ()
    seconds: dict[str, float] = field(default_factory=dict)
    status: int = 0
    code: str | None = None

    def headers(self) -> list[tuple[bytes, bytes]]:
        """Return the headers that every answer carries."""
        spent = 1000 * (time.monotonic() - self.began)
        headers = {"x-request-id": self.id, "openai-processing-ms": f"{spent:.0f}"}
        if self.seconds:
            headers["server-timing"] = ", ".join(f"{k};dur={1000 * v:.2f}" for k, v in self.seconds.items())
        if self.space:
            headers["x-embedding-space"] = self.space
        if self.truncated:
            headers["x-truncated-inputs"] = ",".join(map(str, self.truncated))
        return [(name.encode(), value.encode()) for name, value in headers.items()]
