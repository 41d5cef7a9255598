"""The results of all parts, as plain data: stored as JSON, so that report and plots can be made again."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import msgspec

Group = Literal["minilm", "gguf"]
Kind = Literal["gateway", "server", "library", "engine"]
"""``gateway`` is this project over HTTP, ``server`` a peer over HTTP, ``library`` sentence-transformers in
process, ``engine`` this project's own backend in process."""


class Settings(msgspec.Struct, frozen=True):
    """How it was measured, when, and which commit of this project."""

    seconds: float
    rounds: int
    measured: str
    commit: str = ""

    @property
    def when(self) -> str:
        """The time of measuring, and the commit if it is known."""
        return f"{self.measured}, commit {self.commit}" if self.commit else self.measured


class Turn(msgspec.Struct, frozen=True, kw_only=True):
    """One contender's share of one round; ``None`` is what could not be measured."""

    contender: str = ""
    round: int = 0
    elapsed_s: float = 0.0  # from the first request to the last answer
    requests: int = 0  # with a right answer, as inputs and tokens
    inputs: int = 0
    tokens: int = 0
    failed: int = 0  # requests without an answer
    wrong: int = 0  # answers that do not fit their request
    p50_ms: float | None = None  # latency of a request with an answer
    p95_ms: float | None = None
    p99_ms: float | None = None
    cpu_s: float | None = None  # processor time of the contender's process tree
    rss_peak_mb: float | None = None  # the largest sum of resident memory that was sampled
    client_cpu_s: float = 0.0  # processor time of the load generator
    idle_cpu_s: float = 0.0  # processor time of all other contenders, which should be next to nothing
    errors: list[str] = []  # the first few reasons of failures


class Cell(msgspec.Struct, frozen=True):
    """One workload on several contenders, in rounds of turns."""

    workload: str
    turns: list[Turn]
    cosines: dict[str, float]  # by contender, the least of a few vectors to sentence-transformers in fp32


class ContenderInfo(msgspec.Struct, frozen=True):
    """A contender, and how it was run."""

    name: str
    kind: Kind
    how: str


class Comparison(msgspec.Struct, frozen=True):
    """The gateway beside other contenders, on one model."""

    settings: Settings
    contenders: list[ContenderInfo]
    cells: list[Cell]
    left_out: list[str]


class Figures(msgspec.Struct, frozen=True):
    """Figures that stand by themselves: by name and unit, a value for each round."""

    settings: Settings
    about: str
    figures: dict[str, list[float]] = {}
    left_out: list[str] = []

    def add(self, name: str, value: float | None) -> None:
        """Add the value of another round, if there is one."""
        if value is not None:
            self.figures.setdefault(name, []).append(value)


class Results(msgspec.Struct, frozen=True, kw_only=True):
    """The latest run of each part."""

    machine: dict[str, str]
    minilm: Comparison | None = None
    gguf: Comparison | None = None
    ceiling: Figures | None = None
    fake: Figures | None = None
    start: Figures | None = None
    large: Figures | None = None


def read_results(path: Path) -> Results | None:
    """Return the stored results, if there are any."""
    return msgspec.json.decode(path.read_bytes(), type=Results) if path.exists() else None


def write_results(path: Path, results: Results) -> None:
    """Store the results in a form that people can read too."""
    path.write_bytes(msgspec.json.format(msgspec.json.encode(results), indent=1))
