"""What an engine's process is told and what it answers: JSON, one line each."""

from __future__ import annotations

from typing import Literal

import msgspec

from bench.plan import Load, Plan


class Embed(msgspec.Struct, frozen=True, tag=True):
    """Embed these texts; the answer is :class:`Rows`."""

    texts: list[str]


class Batches(msgspec.Struct, frozen=True, tag=True):
    """Embed a batch of inputs of that length again and again; the answer is a :class:`Rate`, in tokens."""

    inputs: int
    tokens: int
    seconds: float


class Multiply(msgspec.Struct, frozen=True, tag=True):
    """Multiply ``[rows, inner]`` with constant ``[inner, columns]``; the answer is a :class:`Rate`."""

    engine: str
    dtype: Literal["fp32", "bf16"]
    rows: int
    inner: int
    columns: int
    seconds: float


class Rows(msgspec.Struct, frozen=True, tag=True):
    """Vectors."""

    rows: list[list[float]]


class Rate(msgspec.Struct, frozen=True, tag=True):
    """How often a second."""

    per_s: float


class Ready(msgspec.Struct, frozen=True, tag=True):
    """The first line of an engine: what it says that it is."""

    runtime: str
    dtype: str


class Failed(msgspec.Struct, frozen=True, tag=True):
    """Instead of an answer: why there is none."""

    reason: str


Command = Plan | Embed | Batches | Multiply
Answer = Load | Rows | Rate | Ready | Failed
