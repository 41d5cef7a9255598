"""Converts one model: load, trace, quantise if asked, save, and judge the files that would be served."""

from __future__ import annotations

import gc
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from embeddings_gateway.backends import checksum
from embeddings_gateway.backends.base import BackendError, TokenIds, Vectors
from embeddings_gateway.backends.hf.conversion import agreement, key, probes
from embeddings_gateway.backends.hf.conversion.convert import UnconvertibleError, save, trace
from embeddings_gateway.backends.hf.conversion.record import (
    GRAPH,
    Converted,
    Failed,
    Golden,
    Order,
    Outcome,
    Refused,
)
from embeddings_gateway.backends.hf.conversion.texts import PROBES, calibration
from embeddings_gateway.backends.hf.facts import Facts
from embeddings_gateway.backends.hf.files import layout, weights
from embeddings_gateway.backends.hf.files.layout import Layout
from embeddings_gateway.backends.hf.network import encoder, network
from embeddings_gateway.backends.hf.runtimes import budget
from embeddings_gateway.backends.hf.runtimes.batch import pad
from embeddings_gateway.backends.hf.runtimes.openvino_runtime import OpenvinoRuntime
from embeddings_gateway.backends.hf.text import vocabulary
from embeddings_gateway.backends.hf.text.tokenizer import HfTokenizer, open_tokenizer

GOLDEN = 4


class Subject(NamedTuple):
    """What has to be known of a model once its weights are in the file: its facts, and what torch gives.

    Attributes:
        facts: of the transformer.
        inputs: the probes' token ids.
        expected: float32 ``[inputs, dimensions]``, of torch in fp32.
    """

    facts: Facts
    inputs: Sequence[TokenIds]
    expected: Vectors


def make(order: Order) -> Outcome:
    """Write the graph and its weights into the order's folder and tell how good they are.

    Raises:
        LoadError: the model cannot be served by any runtime.
    """
    spec = order.spec
    model = layout.read(Path(spec.path))
    if key.of(spec, order.dtype, model, weights.verify(model, spec.sha256)) != order.key:
        return Failed("the model's files changed while it was converted")
    if spec.threads is not None:
        torch.set_num_threads(spec.threads)
    try:
        subject = _convert(order, model)
    except UnconvertibleError as error:
        return Refused(f"it cannot be converted: {error}")
    except OSError as error:  # a full disk, say: no refusal, which would be kept
        return Failed(f"{error}; cache_dir names another place")
    gc.collect()  # the weights in fp32, before the converted ones are loaded
    try:
        return _judge(order, subject)
    except BackendError as error:  # of OpenVINO alone: torch has computed the probes
        return Refused(str(error))


def _convert(order: Order, model: Layout) -> Subject:
    folder = Path(order.folder)
    tokenizer = open_tokenizer(model)
    vocabulary.keep(model.folder, folder)
    transformer = encoder.load_encoder(model.folder, torch.float32)
    facts = transformer.facts
    settled = layout.settle(model, order.spec, facts.causal)
    whole = network.build(settled, transformer.model)
    tokens_max = min(limit for limit in (model.max_tokens, facts.positions, probes.TOKENS_MAX) if limit)
    inputs = probes.inputs_of(tokenizer, PROBES, tokens_max, facts.vocabulary)
    expected = probes.vectors_of(whole, inputs)
    graph = trace(whole, int(inputs[0][0]))
    if order.dtype == "int8":
        graph = _quantized(order, graph, tokenizer, facts, tokens_max)
    save(graph, folder / GRAPH, half=order.dtype != "fp32")
    return Subject(facts, inputs, expected)


def _quantized(order: Order, graph: object, tokenizer: HfTokenizer, facts: Facts, tokens_max: int) -> object:
    from embeddings_gateway.backends.hf.conversion import quantize

    texts = calibration(order.spec.calibration)
    inputs = probes.inputs_of(tokenizer, texts, tokens_max, facts.vocabulary)
    return quantize.quantize(graph, [pad([ids], facts.pad_id) for ids in inputs])


def _judge(order: Order, subject: Subject) -> Converted | Refused:
    """Look at the files as a worker would: what is judged is what is served."""
    folder, spec = Path(order.folder), order.spec
    facts, inputs, expected = subject
    runtime = OpenvinoRuntime(folder / GRAPH, order.dtype, spec.threads, facts)
    found = agreement.measure(runtime, inputs, expected)
    shortfall = found.shortfall(order.dtype)
    if shortfall:
        return Refused(shortfall)
    golden = inputs[:GOLDEN]
    names = [file.name for file in sorted(folder.iterdir())]
    return Converted(
        facts=facts,
        sums={name: checksum.sha256(folder / name) for name in names},
        threads=spec.threads,
        batch_tokens=budget.measure(runtime.run, "cpu", int(inputs[0][0]), max(map(len, inputs))),
        cosine_min=found.lowest,
        cosine_mean=found.mean,
        golden=Golden.of(golden, np.concatenate([runtime.run([ids]) for ids in golden])),
    )
