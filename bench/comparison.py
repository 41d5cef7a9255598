"""The gateway beside its peers on one model."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from bench import models, peers
from bench.cast import Cast
from bench.compare import Comparer, Reference, Say
from bench.options import Options, UrlPeer
from bench.results import Comparison, Group, SideFacts
from bench.server import address_of
from bench.shape import GGUF, MINILM
from bench.side import Side, UrlSide
from embeddings_gateway.backends.spec import GgufSpec
from embeddings_gateway.config_file import read_config

Gather = Callable[[Cast, Path], Reference | None]
"""Starts the sides; returns the reference of vectors, if it could be had."""


def minilm(options: Options, say: Say) -> Comparison:
    """Compare on all-MiniLM-L6-v2, with the gateway as it comes."""
    model = models.minilm()
    (name, served) = next(iter(read_config(None).models.items()))

    def gather(cast: Cast, folder: Path) -> Reference | None:
        cast.gateway("`embeddings-gateway serve`, no settings", peers.gateway(folder, name))
        how = "`infinity_emb v2 --device cpu --engine torch --no-bettertransformer`"
        cast.server("infinity", how, lambda: peers.infinity(options.peers, model))
        reference = cast.library(model)
        cast.engine("the gateway's backend in process, as the default configures it", served.spec)
        return reference

    return compared("minilm", options, say, gather)


def gguf(options: Options, say: Say) -> Comparison:
    """Compare on all-MiniLM-L6-v2 as a GGUF file in bf16."""
    file, model = models.minilm_gguf(), models.minilm()

    def gather(cast: Cast, folder: Path) -> Reference | None:
        keys = {"backend": "gguf", "path": str(file)}
        recipe = peers.gateway(folder, "minilm-gguf", keys)
        cast.gateway("`embeddings-gateway serve`, no settings but the file", recipe)
        how = "`python -m llama_cpp.server`, same file, as many threads"
        cast.server(peers.LLAMA, how, lambda: peers.llama_server(options.peers, file))
        tuned = f"{how}, `{' '.join(peers.TUNED)}`"
        cast.server(peers.LLAMA_TUNED, tuned, lambda: peers.llama_server(options.peers, file, peers.TUNED))
        reference = cast.library(model)
        cast.engine("the gateway's backend in process", GgufSpec(path=str(file)))
        return reference

    return compared("gguf", options, say, gather)


def compared(group: Group, options: Options, say: Say, gather: Gather) -> Comparison:
    """Start the sides, measure all loads, end the sides."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        cast = Cast(stack, say)
        reference = gather(cast, folder)
        for peer in options.url_peers if options.url_group == group else ():
            add_running(cast, peer)
        comparer = Comparer(cast.sides, models.TokenCounter(models.minilm()), reference, say)
        shapes = MINILM if group == "minilm" else GGUF
        cells = [comparer.cell(shape, options.rounds, options.seconds) for shape in shapes]
        return Comparison(
            group=group,
            settings=options.settings,
            sides=[side.facts for side in cast.sides],
            cells=cells,
            left_out=cast.left_out,
        )


def add_running(cast: Cast, peer: UrlPeer) -> None:
    """Let a server take part that somebody else has started."""

    def make(facts: SideFacts) -> Side:
        return UrlSide(facts, address_of(peer.url, peer.model, peer.pid))

    cast.add(peer.name, "server", f"a server that ran already, asked for `{peer.model}`", make)
