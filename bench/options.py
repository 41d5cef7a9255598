"""What the command line says."""

from __future__ import annotations

import argparse
import datetime
from collections.abc import Sequence
from pathlib import Path

import msgspec

from bench import peers
from bench.machine import commit
from bench.results import Group, Settings

PARTS = ("minilm", "gguf", "ceiling", "fake", "start", "large")
FOLDER = Path(__file__).parent
SECONDS, ROUNDS = 5.0, 3
QUICK_SECONDS, QUICK_ROUNDS = 1.0, 1


class UrlPeer(msgspec.Struct, frozen=True):
    """A server that somebody else has started."""

    name: str
    url: str
    model: str
    pid: int | None


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """What to measure, and how.

    Attributes:
        parts: of :data:`PARTS`; none is to make the report again.
        out: the folder for tables, plots and data.
        seconds: of each turn.
        rounds: turns of each side in each cell.
        quick: less of everything, for trying out.
        peers: the folder of the peers' environments.
        url_peers: servers that run already.
        url_group: the comparison in which they take part.
    """

    parts: tuple[str, ...]
    out: Path
    seconds: float
    rounds: int
    quick: bool
    peers: Path
    url_peers: tuple[UrlPeer, ...]
    url_group: Group

    @property
    def settings(self) -> Settings:
        """What is written down of them beside the figures."""
        now = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")
        return Settings(seconds=self.seconds, rounds=self.rounds, measured=now, commit=commit())


def parse(arguments: Sequence[str] | None = None) -> Options:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    add_arguments(parser)
    given = parser.parse_args(arguments)
    models, pids = [*given.peer_model], [*given.pid]
    url_peers = []
    for number, peer in enumerate(given.peer):
        name, found, url = peer.partition("=")
        if not found:
            parser.error(f"--peer {peer}: write NAME=URL")
        model = models[number] if number < len(models) else "model"
        url_peers.append(UrlPeer(name, url, model, pids[number] if number < len(pids) else None))
    parts = given.part or ["all"]
    if unknown := set(parts) - {*PARTS, "all", "report"}:
        parser.error(f"there is no part {', '.join(sorted(unknown))}")
    return Options(
        parts=() if parts == ["report"] else PARTS if "all" in parts else tuple(parts),
        out=given.out,
        seconds=given.seconds or (QUICK_SECONDS if given.quick else SECONDS),
        rounds=given.rounds or (QUICK_ROUNDS if given.quick else ROUNDS),
        quick=given.quick,
        peers=given.peers_dir.absolute(),
        url_peers=tuple(url_peers),
        url_group=given.peer_group,
    )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Say what can be given."""
    parser.add_argument("part", nargs="*", help=f"{', '.join(PARTS)}, all (default), or report: no measuring")
    parser.add_argument("--seconds", type=float, help=f"of each turn, default {SECONDS:g}")
    parser.add_argument("--rounds", type=int, help=f"turns of each side in each cell, default {ROUNDS}")
    parser.add_argument("--quick", action="store_true", help="one round of one second, for trying out")
    parser.add_argument(
        "--out", type=Path, default=FOLDER, help="where RESULTS.md, results.json and plots go"
    )
    parser.add_argument("--peers-dir", type=Path, default=peers.FOLDER, help="the peers' environments")
    parser.add_argument(
        "--peer",
        action="append",
        default=[],
        metavar="NAME=URL",
        help="a running API, up to before /embeddings",
    )
    parser.add_argument("--peer-model", action="append", default=[], help="the model to ask that peer for")
    parser.add_argument("--pid", action="append", default=[], type=int, help="that peer's process")
    parser.add_argument(
        "--peer-group", choices=["minilm", "gguf"], default="minilm", help="where such peers take part"
    )
