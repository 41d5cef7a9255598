"""The command line, and what is logged while it runs."""

from __future__ import annotations

import argparse
import datetime
import itertools
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from bench.machine import commit
from bench.results import Group, Settings
from bench.server import GATEWAY, PEERS

PARTS = ("minilm", "gguf", "ceiling", "fake", "start", "large")
FOLDER = Path(__file__).parent
SECONDS, ROUNDS = 5.0, 3
QUICK_SECONDS, QUICK_ROUNDS = 1.0, 1
Named = tuple[str, str]


class Options:
    """What to measure, and how; :func:`parse` fills it, and ``--help`` explains it."""

    parts: Sequence[str]
    out: Path
    seconds: float
    rounds: int
    quick: bool
    peers_dir: Path
    gateway_command: list[Named]
    peer: list[Named]
    peer_model: list[str]
    pid: list[int]
    peer_group: Group

    @property
    def settings(self) -> Settings:
        """How the figures are measured."""
        now = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")
        return Settings(seconds=self.seconds, rounds=self.rounds, measured=now, commit=commit())

    @property
    def gateways(self) -> dict[str, Sequence[str]]:
        """The commands of this checkout's gateway and of others, by name."""
        return {"gateway": GATEWAY, **{name: shlex.split(line) for name, line in self.gateway_command}}

    def url_peers(self, group: Group) -> list[tuple[str, str, str, int | None]]:
        """Return name, URL, model and process id of the servers that take part in a comparison."""
        peers = itertools.zip_longest(self.peer, self.peer_model, self.pid)
        chosen = [peer for peer in peers if peer[0] and group == self.peer_group]
        return [(*named, model or "model", pid) for named, model, pid in chosen]


def log(text: str) -> None:
    """Write a line for whoever watches; standard output is for the report alone."""
    print(text, file=sys.stderr, flush=True)


def _named(text: str) -> Named:
    name, separator, value = text.partition("=")
    if not separator:
        raise argparse.ArgumentTypeError("write NAME=VALUE")
    return name, value


def parse(arguments: Sequence[str] | None = None) -> Options:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m bench", description="Measures the gateway.")
    add = parser.add_argument
    add(
        "parts", nargs="*", help=f"{', '.join(PARTS)}, all (default), or report: no measuring", metavar="part"
    )
    add("--seconds", type=float, help=f"of each turn, default {SECONDS:g}")
    add("--rounds", type=int, help=f"turns of each contender in each cell, default {ROUNDS}")
    add("--quick", action="store_true", help="one round of one second, for trying out")
    add("--out", type=Path, default=FOLDER, help="where RESULTS.md, results.json and plots go")
    add("--peers-dir", type=Path, default=PEERS, help="the peers' environments")
    other = 'another checkout\'s, like "env PYTHONPATH=DIR/src PYTHON -m embeddings_gateway.cli"'
    add("--gateway-command", type=_named, action="append", default=[], metavar="NAME=COMMAND", help=other)
    url = "a running API, up to before /embeddings"
    add("--peer", type=_named, action="append", default=[], metavar="NAME=URL", help=url)
    add("--peer-model", action="append", default=[], help="the model to ask that peer for")
    add("--pid", action="append", default=[], type=int, help="that peer's process")
    add("--peer-group", choices=["minilm", "gguf"], default="minilm", help="where such peers take part")
    options = parser.parse_args(arguments, Options())
    if unknown := set(options.parts) - {*PARTS, "all", "report"}:
        parser.error(f"there is no part {', '.join(sorted(unknown))}")
    if not options.parts or "all" in options.parts:
        options.parts = PARTS
    options.parts = [part for part in options.parts if part != "report"]
    options.seconds = options.seconds or (QUICK_SECONDS if options.quick else SECONDS)
    options.rounds = options.rounds or (QUICK_ROUNDS if options.quick else ROUNDS)
    return options
