"""From a model to its conversion: the one that is kept, or one that a process of its own makes now."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import msgspec

from embeddings_gateway.backends.base import LoadError
from embeddings_gateway.backends.hf.conversion import key
from embeddings_gateway.backends.hf.conversion.cache import Cache
from embeddings_gateway.backends.hf.conversion.record import (
    Converted,
    Failed,
    Order,
    Outcome,
    Refused,
    Unservable,
)
from embeddings_gateway.backends.hf.files.layout import Layout
from embeddings_gateway.backends.hf.files.weights import Weights
from embeddings_gateway.backends.hf.runtimes.choice import Dtype
from embeddings_gateway.backends.spec import HfSpec

COMMAND = (sys.executable, "-P", "-m", "embeddings_gateway.backends.hf.conversion")
SECONDS_MAX = 3600
CONVERTING = "Converting the model for OpenVINO, once; this takes from seconds to a few minutes.\n"


class Conversion(NamedTuple):
    """A conversion and where its files are."""

    folder: Path
    record: Converted


class Source(NamedTuple):
    """A model that can be converted.

    Attributes:
        spec: how it is configured.
        dtype: of the arithmetic.
        layout: as read from the directory.
        weights: verified.
    """

    spec: HfSpec
    dtype: Dtype
    layout: Layout
    weights: Weights


def obtain(source: Source, *, instead_of: Converted | None = None) -> Conversion | Refused | Failed:
    """Return the model's conversion, or why there is none.

    Args:
        source: the model.
        instead_of: the record of one that turned out not to be usable.

    Raises:
        LoadError: the model cannot be served by any runtime.
    """
    name = key.of(*source)
    cache = Cache(source.spec.cache_dir)
    kept = cache.read(name)
    made = _made(source, name, cache, instead_of) if kept is None or kept == instead_of else kept
    return Conversion(cache.folder(name), made) if isinstance(made, Converted) else made


def _made(
    source: Source, name: str, cache: Cache, instead_of: Converted | None
) -> Converted | Refused | Failed:
    try:
        with cache.writing(name) as folder:
            kept = cache.read(name)
            if kept is not None and kept != instead_of:  # somebody else was faster
                return kept
            sys.stderr.write(CONVERTING)  # shown where there is a terminal
            # The worker has found the directory; nothing is to be fetched again.
            spec = msgspec.structs.replace(source.spec, path=str(source.layout.root), revision=None)
            made = _run(Order(spec=spec, dtype=source.dtype, key=name, folder=str(folder)))
            if isinstance(made, Unservable):
                raise LoadError(made.reason)
            if not isinstance(made, Failed):
                cache.keep(name, folder, made)
            return made
    except OSError as error:
        return Failed(f"{cache!r} cannot be written: {error.strerror}; cache_dir names another place")


def _run(order: Order) -> Outcome:
    """Have a process carry out the order."""
    said = msgspec.json.encode(order)
    try:
        done = subprocess.run(  # noqa: S603 - our own module
            [*COMMAND, str(os.getpid())],
            input=said,
            stdout=subprocess.PIPE,
            timeout=SECONDS_MAX,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return Failed(f"converting took longer than {SECONDS_MAX} s")
    if done.returncode < 0:
        return Failed(f"the converting process was ended by {signal.Signals(-done.returncode).name}")
    try:
        outcome: Outcome = msgspec.json.decode(done.stdout, type=Outcome)
    except msgspec.DecodeError:
        return Failed(f"the converting process ended with status {done.returncode}")
    return outcome
