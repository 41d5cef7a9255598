"""Converts one model: load, trace, quantise if asked, save, and judge the files that would be served.

:mod:`.converting_process` runs it in a process of its own.
"""

from __future__ import annotations

import contextlib
import gc
import io
import logging
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from embeddings_gateway.backends import checksum
from embeddings_gateway.backends.base import BackendError, Batch, Vectors
from embeddings_gateway.backends.hf.conversion.conversion_cache import (
    GRAPH,
    ConversionFailed,
    ConversionOrder,
    ConversionOutcome,
    ConversionRefused,
    Converted,
    ReferenceVectors,
    conversion_key,
)
from embeddings_gateway.backends.hf.conversion.probes import (
    PROBE_TOKENS_MAX,
    PROBES,
    calibration_texts,
    long_inputs,
    long_lengths,
    measure_agreement,
    probe_inputs,
)
from embeddings_gateway.backends.hf.conversion.trace import UnconvertibleError, trace
from embeddings_gateway.backends.hf.files.layout import Layout, read_layout, resolve
from embeddings_gateway.backends.hf.files.tokenizer_settings import TokenizerSettings
from embeddings_gateway.backends.hf.files.weights import Weights, verify_weights
from embeddings_gateway.backends.hf.network.encoder import load_encoder
from embeddings_gateway.backends.hf.network.network import Network, build_network
from embeddings_gateway.backends.hf.runtimes.openvino_runtime import OpenvinoRuntime, openvino
from embeddings_gateway.backends.hf.runtimes.runtime import TransformerFacts, best_batch_tokens, pad
from embeddings_gateway.backends.hf.tokenizer import HfTokenizer, open_tokenizer, save_vocabulary
from embeddings_gateway.backends.hf.tokenizer_check import check_tokenizer

REFERENCES = 4
"""Probes whose vectors are stored, and compared each time the conversion is loaded."""


class ConvertedModel(NamedTuple):
    """A model that was written; ``expected`` are torch's vectors of the probes, in fp32."""

    facts: TransformerFacts
    tokenizer: TokenizerSettings
    notes: tuple[str, ...]
    probes: Batch
    expected: Vectors


def convert(order: ConversionOrder) -> ConversionOutcome:
    """Write the graph and its weights into the order's folder, and judge them."""
    spec = order.spec
    layout = read_layout(Path(spec.path), spec.pooling)
    weights = verify_weights(layout, spec.sha256)
    if conversion_key(spec, order.dtype, layout, weights) != order.key:
        return ConversionFailed("the model's files changed while it was converted")
    if spec.threads is not None:
        torch.set_num_threads(spec.threads)
    try:
        model = _write(order, layout, weights)
    except UnconvertibleError as error:
        return ConversionRefused(f"it cannot be converted: {error}")
    except OSError as error:  # such as a full disk; a refusal would be cached
        return ConversionFailed(f"{error}; cache_dir names another place")
    gc.collect()  # the weights in fp32, before the converted ones are loaded
    try:
        return _judge(order, model)
    except BackendError as error:  # of OpenVINO alone: torch has computed the probes
        return ConversionRefused(str(error))


def _write(order: ConversionOrder, layout: Layout, weights: Weights) -> ConvertedModel:
    folder = Path(order.folder)
    settings = check_tokenizer(layout)
    tokenizer = open_tokenizer(layout, settings)
    save_vocabulary(layout.folder, folder)
    transformer = load_encoder(layout, weights, torch.float32)
    facts = transformer.facts
    resolved = resolve(layout, order.spec, facts.causal)
    network = build_network(resolved, transformer.model, settings.segments)
    limit = min((limit for limit in (layout.max_tokens, facts.positions) if limit), default=None)
    max_tokens = min(limit or PROBE_TOKENS_MAX, PROBE_TOKENS_MAX)
    parameters = sum(weight.numel() for weight in network.parameters())
    long = long_inputs(tokenizer, long_lengths(layout.config, limit, parameters), facts.vocabulary_size)
    probes = Batch.concat([probe_inputs(tokenizer, PROBES, max_tokens, facts.vocabulary_size), long])
    expected = _torch_vectors(network, probes)
    graph = trace(network, int(probes.ids[0]))
    if order.dtype == "int8":
        graph = _quantize(order, graph, tokenizer, facts, max_tokens)
    save(graph, folder / GRAPH, half=order.dtype != "fp32")
    return ConvertedModel(facts, settings, transformer.notes, probes, expected)


@torch.inference_mode()
def _torch_vectors(network: Network, batch: Batch) -> Vectors:
    """Return float32 ``[inputs, dimensions]``, each input computed alone."""
    rows = []
    for ids in batch.split():
        row = torch.from_numpy(ids.astype(np.int64))[None]
        rows.append(network(row, torch.ones_like(row)).numpy())
    return np.concatenate(rows).astype(np.float32)


def save(model: openvino.Model, path: Path, *, half: bool) -> None:
    """Write the graph as ``path``, which ends in ``.xml``, and beside it the weights as ``.bin``.

    ``half``: whether weights are stored as fp16, which has more digits than the bf16 they are used in.
    """
    try:
        openvino.save_model(model, path, compress_to_fp16=half)
    except RuntimeError as error:  # all that it says of a full disk
        raise OSError(f"{path.parent} cannot be written: is the disk full?") from error


def _quantize(
    order: ConversionOrder,
    graph: openvino.Model,
    tokenizer: HfTokenizer,
    facts: TransformerFacts,
    max_tokens: int,
) -> openvino.Model:
    """Return the graph with its matrices in int8, scaled by what it computes for the calibration texts."""
    import nncf

    texts = calibration_texts(order.spec.calibration)
    inputs = probe_inputs(tokenizer, texts, max_tokens, facts.vocabulary_size)
    batches = [pad(single, facts.pad_id) for single in inputs.singles()]
    logging.getLogger("nncf").setLevel(logging.ERROR)
    with contextlib.redirect_stdout(io.StringIO()):  # its progress bars
        return nncf.quantize(
            graph,
            nncf.Dataset(batches, list),
            model_type=nncf.ModelType.TRANSFORMER,
            subset_size=len(batches),
        )


def _judge(order: ConversionOrder, model: ConvertedModel) -> Converted | ConversionRefused:
    """Load the files as a worker would, so that what is judged is what is served."""
    folder, spec = Path(order.folder), order.spec
    facts, probes = model.facts, model.probes
    runtime = OpenvinoRuntime(folder / GRAPH, order.dtype, spec.threads, facts)
    agreement = measure_agreement(runtime, probes, model.expected)
    if shortfall := agreement.shortfall(order.dtype):
        return ConversionRefused(shortfall)
    references = probes.select(np.arange(min(REFERENCES, len(probes))))
    vectors = np.concatenate([runtime.run(single) for single in references.singles()])
    names = [file.name for file in sorted(folder.iterdir())]
    return Converted(
        facts=facts,
        tokenizer=model.tokenizer,
        notes=model.notes,
        sums={name: checksum.sha256(folder / name) for name in names},
        threads=spec.threads,
        batch_tokens=best_batch_tokens(runtime.run, "cpu", int(probes.ids[0]), int(probes.lengths.max())),
        cosine_min=agreement.lowest,
        cosine_mean=agreement.mean,
        reference_vectors=ReferenceVectors.of(references, vectors),
    )
