"""What a run found, as plain data: kept as JSON, so that tables and plots can be made again."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import msgspec

from bench.texts import Kind

Group = Literal["minilm", "gguf"]
SideKind = Literal["gateway", "server", "library", "engine"]
"""``gateway`` is this project over HTTP, ``server`` a peer over HTTP, ``library`` sentence-transformers in
process, ``engine`` this project's own backend in process."""


class Machine(msgspec.Struct, frozen=True, kw_only=True):
    """Where it was measured."""

    processor: str
    cores: int
    memory_gb: float
    flags: tuple[str, ...]
    system: str
    load_before: float
    versions: dict[str, str]


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """How it was measured, when, and which commit of this project."""

    seconds: float
    rounds: int
    measured: str
    commit: str = ""

    @property
    def when(self) -> str:
        """When it was measured, and which commit, if that is known."""
        return f"{self.measured}, commit {self.commit}" if self.commit else self.measured


class Turn(msgspec.Struct, frozen=True, kw_only=True):
    """One side's share of one round.

    Attributes:
        elapsed_s: from the first request to the last answer.
        requests, inputs, tokens: answered well.
        failed: requests without an answer, or with another status than 200.
        wrong: answers without one finite vector other than zero for each input, in order, all of one width.
        p50_ms, p95_ms, p99_ms: latency of a request that was answered.
        cpu_s: processor time of the side's whole process tree; ``None`` where its process is not known.
        rss_peak_mb: the largest sum of resident memory that sampling saw.
        client_cpu_s: processor time of the load generator.
        idle_cpu_s: processor time of all other sides together, which should be next to nothing.
        errors: the first few reasons of failures.
    """

    side: str
    round: int
    elapsed_s: float
    requests: int
    inputs: int
    tokens: int
    failed: int = 0
    wrong: int = 0
    p50_ms: float | None = None
    p95_ms: float | None = None
    p99_ms: float | None = None
    cpu_s: float | None = None
    rss_peak_mb: float | None = None
    client_cpu_s: float = 0.0
    idle_cpu_s: float = 0.0
    errors: tuple[str, ...] = ()


class Cell(msgspec.Struct, frozen=True, kw_only=True):
    """One load on several sides: rounds of turns, one side after the other.

    Attributes:
        cosines: by side, the least cosine of a few vectors to sentence-transformers in fp32.
    """

    kind: Kind
    clients: int
    inputs: int
    turns: list[Turn]
    cosines: dict[str, float]

    @property
    def name(self) -> str:
        """Clients, inputs of a request, texts."""
        return f"{self.clients} x {self.inputs} {self.kind}"


class SideFacts(msgspec.Struct, frozen=True):
    """What a side is, and how it was run."""

    name: str
    kind: SideKind
    how: str


class Comparison(msgspec.Struct, frozen=True, kw_only=True):
    """The gateway beside others, on one model."""

    group: Group
    settings: Settings
    sides: list[SideFacts]
    cells: list[Cell]
    left_out: list[str]


class Product(msgspec.Struct, frozen=True):
    """A matrix product's rate, in GFLOP/s, one figure a round."""

    engine: str
    dtype: str
    shape: str
    gflops: list[float]


class ModelRate(msgspec.Struct, frozen=True, kw_only=True):
    """A model's rate in process, one figure a round."""

    model: str
    runtime: str
    dtype: str
    inputs: int
    tokens: int
    flops_per_token: float
    tokens_per_s: list[float]


class Ceiling(msgspec.Struct, frozen=True):
    """What the machine's arithmetic gives, and what arrives at models."""

    settings: Settings
    products: list[Product]
    models: list[ModelRate]
    left_out: list[str]


class FakeRate(msgspec.Struct, frozen=True, kw_only=True):
    """The gateway without a model: requests a second of its process, one figure a round."""

    settings: Settings
    clients: int
    pinned: bool
    requests_per_s: list[float]
    gateway_cpu_us: list[float]
    worker_cpu_us: list[float]
    client_cpu_us: list[float]
    failed: int


class WarmStart(msgspec.Struct, frozen=True):
    """Seconds from starting the command to the first vector, second and later starts."""

    settings: Settings
    seconds: list[float]


class Large(msgspec.Struct, frozen=True, kw_only=True):
    """A model of BGE-M3's shape with random weights, over HTTP.

    Attributes:
        rss_loading_mb: the largest that was sampled until the first vector.
        right: vectors that came, with the right width, finite and of unit length.
        cosine_min: a few vectors against sentence-transformers in fp32, each with its own text's.
        cosine_other: the largest cosine of one of them with another text's reference.
    """

    settings: Settings
    runtime: str
    dtype: str
    texts: int
    tokens: int
    right: int
    failed: int
    elapsed_s: float
    cpu_s: float
    rss_loading_mb: float
    rss_peak_mb: float
    rss_final_mb: float
    pss_peak_mb: float | None
    pss_final_mb: float | None
    cosine_min: float | None
    cosine_other: float | None


class Results(msgspec.Struct, frozen=True, kw_only=True):
    """All that was measured, each part by its latest run."""

    machine: Machine
    minilm: Comparison | None = None
    gguf: Comparison | None = None
    ceiling: Ceiling | None = None
    fake: FakeRate | None = None
    start: WarmStart | None = None
    large: Large | None = None


def read_results(path: Path) -> Results | None:
    """Return what was kept, if anything was."""
    return msgspec.json.decode(path.read_bytes(), type=Results) if path.exists() else None


def write_results(path: Path, results: Results) -> None:
    """Keep the results, so that people can read them too."""
    path.write_bytes(msgspec.json.format(msgspec.json.encode(results), indent=1))
