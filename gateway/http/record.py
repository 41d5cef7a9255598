"""What is known of one HTTP request when it ends: filled on its way, logged and counted in one place."""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from urllib.parse import quote

LIST_BYTES_MAX = 1024
"""Bytes of a list of inputs in a header: a proxy such as nginx takes 4 KiB of all headers together."""


@dataclass(slots=True)
class Record:
    """One request.

    Attributes:
        id: the client's, or one of ours.
        path: what was asked for.
        began: when its head had arrived; monotonic seconds.
        model: the served model; empty where none is known.
        space: fingerprint of its embedding space.
        inputs, tokens: how many.
        truncated: inputs that were cut.
        averaged: inputs whose vectors are averages of several windows.
        prompt: the name of the prompt that went before the texts.
        seconds: phase -> how long it took.
        status: of the answer; 0 until there is one.
        code: of the error, if it is one.
    """

    id: str
    path: str
    began: float
    model: str = ""
    space: str = ""
    inputs: int = 0
    tokens: int = 0
    truncated: Sequence[int] = ()
    averaged: Sequence[int] = ()
    prompt: str | None = None
    seconds: dict[str, float] = field(default_factory=dict)
    status: int = 0
    code: str | None = None

    def headers(self) -> list[tuple[bytes, bytes]]:
        """Return the headers that every answer carries."""
        spent = 1000 * (time.monotonic() - self.began)
        headers = [(b"x-request-id", self.id.encode()), (b"openai-processing-ms", b"%.0f" % spent)]
        if self.seconds:
            timing = ", ".join([f"{phase};dur={1000 * spent:.2f}" for phase, spent in self.seconds.items()])
            headers.append((b"server-timing", timing.encode()))
        if self.space:
            headers.append((b"x-embedding-space", self.space.encode()))
        if self.truncated:
            headers.append((b"x-truncated-inputs", listed(self.truncated)))
        if self.averaged:
            headers.append((b"x-averaged-inputs", listed(self.averaged)))
        if self.prompt is not None:
            headers.append((b"x-prompt", quote(self.prompt).encode()))
        return headers


def listed(inputs: Sequence[int]) -> bytes:
    """Return ascending places as ``0,3-5``; those that a header has no room for as ``...``."""
    said = ""
    for _, run in itertools.groupby(enumerate(inputs), key=lambda pair: pair[1] - pair[0]):
        places = [place for _, place in run]
        more = f"{places[0]}-{places[-1]}" if len(places) > 1 else f"{places[0]}"
        if len(said) + len(more) > LIST_BYTES_MAX:
            return f"{said},...".encode()
        said += f",{more}" if said else more
    return said.encode()
