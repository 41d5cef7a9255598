"""Runs a Network with torch, on the processor or on one GPU; batches are packed where the model allows it.

Each model is tried when it is loaded (the packing check). A list of model families would become outdated, and
would not know the device's kernels.
"""

from __future__ import annotations

import gc
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from embeddings_gateway.backends.base import Batch, CostRule, EmbedError, LoadError, OutOfMemory, Vectors
from embeddings_gateway.backends.hf.files.layout import Layout, resolve
from embeddings_gateway.backends.hf.files.weights import Weights
from embeddings_gateway.backends.hf.network.encoder import load_encoder
from embeddings_gateway.backends.hf.network.network import Network, build_network
from embeddings_gateway.backends.hf.network.packed_attention import (
    PACKED,
    UnpackableError,
    attention_name,
    set_attention,
)
from embeddings_gateway.backends.hf.network.packed_batch import PackedTensors
from embeddings_gateway.backends.hf.runtimes.runtime import (
    Dtype,
    LoadedModel,
    RuntimeChoice,
    is_out_of_memory,
    pad,
)
from embeddings_gateway.backends.hf.tokenizer_check import check_tokenizer
from embeddings_gateway.backends.invariance import cosine
from embeddings_gateway.backends.spec import HfSpec

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
PACKED_DTYPES = ("bf16", "fp16")  # what the kernel for packed batches takes on a GPU

PACKING_LENGTHS = (5, 1, 300, 2, 33, 17, 129, 1)
PACKING_TOKENS_MAX = 8192
"""The longest input that is tried, if the model takes it: windows of attention show in no shorter ones."""

PACKED_COSINE_MIN: dict[Dtype, float] = {"fp32": 0.99999, "bf16": 0.999, "fp16": 0.999}
"""The lowest cosine to the padded vectors. In bf16 two kernels differ by 0.00013 on all-MiniLM-L6-v2."""

PACKED_BATCH_INVARIANCE = 0.99999
"""The lowest cosine between an input's vectors in batches of the same lengths: the arithmetic is the same."""


def load_torch(
    spec: HfSpec, choice: RuntimeChoice, layout: Layout, weights: Weights, *, packed: bool | None = None
) -> LoadedModel:
    """Load the model's weights onto its device.

    ``packed``: whether to pack batches, if the model can; ``None``: where there is a kernel for it.
    """
    if spec.threads is not None:
        torch.set_num_threads(spec.threads)
    transformer = load_encoder(layout, weights, DTYPES[choice.dtype])
    facts, tokenizer = transformer.facts, check_tokenizer(layout)
    resolved = resolve(layout, spec, facts.causal)
    network = build_network(resolved, transformer.model, tokenizer.segments)
    notes = (*transformer.notes, *tokenizer.notes)
    runtime = TorchRuntime(network, torch.device(choice.device), choice.dtype, facts.pad_id)
    if packed is None:
        packed = choice.device != "cpu" and choice.dtype in PACKED_DTYPES
    if not packed:
        return LoadedModel(runtime, facts, tokenizer, notes=notes)
    limits = (spec.max_tokens, layout.max_tokens, facts.positions, PACKING_TOKENS_MAX)
    max_tokens = min(limit for limit in limits if limit is not None)
    reason = runtime.use_packing(max_tokens, facts.vocabulary_size)
    note = f"inputs are padded to the longest of their batch on {choice.device}: {reason}"
    return LoadedModel(runtime, facts, tokenizer, notes=(*notes, *([note] if reason else [])))


class TorchRuntime:
    """A :class:`Network` on its device; implements ``Runtime``."""

    name = "torch"

    def __init__(self, network: Network, device: torch.device, dtype: Dtype, pad_id: int) -> None:
        self.dtype = dtype
        self.device = str(device)
        self.cost: CostRule = "padded"
        self._device = device
        self._pad_id = pad_id
        try:
            self._network: Network | None = network.eval().to(device)
        except RuntimeError as error:
            raise LoadError(f"the model does not fit on {device}: {type(error).__name__}") from error

    def use_packing(self, max_tokens: int, vocabulary_size: int) -> str:
        """Pack batches from now on, if packed inputs have the same vectors as alone.

        Return why batches stay padded; empty if they are packed.
        """
        network = self._open()
        padded = attention_name(network.transformer)
        probes, others = (packing_probes(max_tokens, vocabulary_size, seed) for seed in (1, 2))
        try:
            expected = np.concatenate([self._vectors(network, one) for one in probes.singles()])
            self._use("packed", PACKED)
            packed = partial(self._vectors, network)
            reason = packing_check(packed, probes, others, expected, PACKED_COSINE_MIN[self.dtype])
        except UnpackableError as error:
            reason = str(error)
        except Exception as error:  # the model's code or the device's kernel may not support packing
            reason = f"{type(error).__name__} on probes: {' '.join(str(error).split())[:200]}"
        if reason:
            self._use("padded", padded)
            self._free()
        return reason

    def run(self, batch: Batch) -> Vectors:
        """Compute one vector per input."""
        network = self._open()
        try:
            return self._vectors(network, batch)
        except torch.OutOfMemoryError as error:
            self._free()
            raise OutOfMemory(f"{self.device} is out of memory") from error
        except Exception as error:
            if is_out_of_memory(error):
                raise OutOfMemory("torch is out of memory") from None
            # Only the kind: a message of torch may hold values of the input.
            raise EmbedError(f"torch failed on {self.device}: {type(error).__name__}") from None

    def close(self) -> None:
        """Free the memory."""
        self._network = None
        gc.collect()
        self._free()

    def _open(self) -> Network:
        if self._network is None:
            raise EmbedError("the model is closed")
        return self._network

    def _use(self, cost: CostRule, kind: str) -> None:
        """Compute packed or padded from now on, with that kind of attention."""
        set_attention(self._open().transformer, kind)
        self.cost = cost

    @torch.inference_mode()
    def _vectors(self, network: Network, batch: Batch) -> Vectors:
        if self.cost == "packed":
            ids, cu_seqlens = batch.ids.astype(np.int64), batch.offsets().astype(np.int32)
            packed = PackedTensors(self._put(ids), self._put(cu_seqlens), int(batch.lengths.max()))
            out = network.forward_packed(packed)
        else:
            out = network(*map(self._put, pad(batch, self._pad_id)))
        return np.ascontiguousarray(out.cpu().numpy(), dtype=np.float32)

    def _put(self, array: NDArray[np.integer]) -> Tensor:
        tensor = torch.from_numpy(array)
        if self._device.type == "cpu":
            return tensor
        return tensor.pin_memory().to(self._device, non_blocking=True)

    def _free(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.empty_cache()


def packing_probes(max_tokens: int, vocabulary_size: int, seed: int) -> Batch:
    """Return inputs of many lengths, of tokens without meaning; the lengths do not depend on the seed."""
    longest = min(max_tokens, PACKING_TOKENS_MAX)
    source = np.random.default_rng(seed)
    lengths = (*(min(length, longest) for length in PACKING_LENGTHS), longest)
    return Batch.of([source.integers(0, vocabulary_size, length, np.int32) for length in lengths])


def packing_check(
    packed: Callable[[Batch], Vectors], probes: Batch, others: Batch, expected: Vectors, cosine_min: float
) -> str:
    """Return what is wrong with the vectors of packed batches; empty if nothing is.

    Args:
        packed: computes a packed batch.
        probes, others: two series of inputs of the same several lengths.
        expected: the vector of each probe, alone and padded.
        cosine_min: the lowest cosine to those.
    """
    together = packed(probes)
    for vectors in together, np.concatenate([packed(one) for one in probes.singles()]):
        lowest = cosine(vectors, expected).min()
        if not lowest >= cosine_min:  # also where it is NaN
            return f"the cosine to the padded vectors is {lowest:.5f} on probes, and has to be {cosine_min}"
    both = Batch.concat([probes, others])
    rows = np.arange(len(probes))
    for parity in 0, 1:
        mixed = both.select(np.where(rows % 2 == parity, rows, rows + len(probes)))
        same = cosine(packed(mixed)[parity::2], together[parity::2]).min()
        if not same >= PACKED_BATCH_INVARIANCE:
            return "an input's vector depends on those beside it"
    return ""
