"""Runs a Network with torch, on the processor or on one GPU."""

from __future__ import annotations

import gc
from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from embeddings_gateway.backends.base import CostRule, EmbedError, LoadError, OutOfMemory, TokenIds, Vectors
from embeddings_gateway.backends.hf.facts import Facts
from embeddings_gateway.backends.hf.files.layout import Layout, settle
from embeddings_gateway.backends.hf.network import attention
from embeddings_gateway.backends.hf.network.encoder import load_encoder
from embeddings_gateway.backends.hf.network.network import Network, build
from embeddings_gateway.backends.hf.network.packed import Packed
from embeddings_gateway.backends.hf.runtimes import packing
from embeddings_gateway.backends.hf.runtimes.batch import join, pad
from embeddings_gateway.backends.hf.runtimes.choice import Choice, Dtype
from embeddings_gateway.backends.hf.runtimes.runtime import exhausted
from embeddings_gateway.backends.spec import HfSpec

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


class Loaded(NamedTuple):
    """A model in torch.

    Attributes:
        runtime: what computes it.
        facts: of its transformer.
        notes: what an operator should know.
    """

    runtime: TorchRuntime
    facts: Facts
    notes: tuple[str, ...]


def load(spec: HfSpec, choice: Choice, layout: Layout, *, pack: bool | None = None) -> Loaded:
    """Load the model's weights onto its device.

    Args:
        spec, choice: how it is configured, and computed.
        layout: as read from the directory.
        pack: whether to lay inputs end to end, if the model can; ``None`` is where there is a kernel for it.

    Raises:
        LoadError: it cannot be loaded, or does not fit there.
    """
    if spec.threads is not None:
        torch.set_num_threads(spec.threads)
    transformer = load_encoder(layout.folder, DTYPES[choice.dtype])
    facts = transformer.facts
    whole = build(settle(layout, spec, facts.causal), transformer.model)
    runtime = TorchRuntime(whole, torch.device(choice.device), choice.dtype, facts.pad_id)
    if pack is None:
        pack = choice.device != "cpu" and choice.dtype == "bf16"
    if not pack:
        return Loaded(runtime, facts, ())
    known = (spec.max_tokens, layout.max_tokens, facts.positions, packing.TOKENS_MAX)
    reason = runtime.pack(min(limit for limit in known if limit is not None), facts.vocabulary)
    notes = (f"inputs are padded to the longest of their batch on {choice.device}: {reason}",)
    return Loaded(runtime, facts, notes if reason else ())


class TorchRuntime:
    """A Network on its device. See :class:`embeddings_gateway.backends.hf.runtimes.runtime.Runtime`.

    Args:
        network: on the processor.
        device: where it shall run.
        dtype: of its transformer.
        pad_id: the model's own padding id.

    Raises:
        LoadError: it does not fit there.
    """

    name = "torch"

    def __init__(self, network: Network, device: torch.device, dtype: Dtype, pad_id: int) -> None:
        self.dtype: str = dtype
        self.device = str(device)
        self.cost: CostRule = "padded"
        self._near = packing.NEAR[dtype]
        self._device = device
        self._pad_id = pad_id
        try:
            self._network: Network | None = network.eval().to(device)
        except RuntimeError as error:
            raise LoadError(f"the model does not fit on {device}: {type(error).__name__}") from error

    def pack(self, tokens_max: int, vocabulary: int) -> str:
        """Lay the inputs of a batch end to end from now on, if that gives them the vectors they have alone.

        Args:
            tokens_max: the longest input that the model takes.
            vocabulary: the number of its tokens.

        Returns:
            Why they are padded after all; empty if they are not.
        """
        network = self._open()
        padded = attention.name_of(network.transformer)
        inputs, others = (packing.probes(tokens_max, vocabulary, seed) for seed in (1, 2))
        try:
            expected = np.concatenate([self._vectors(network, [ids]) for ids in inputs])
            self._use("packed", attention.PACKED)
            packed = partial(self._vectors, network)
            reason = packing.shortfall(packed, inputs, others, expected, self._near)
        except attention.UnpackableError as error:
            reason = str(error)
        except Exception as error:  # the model's code was not made for this, nor the kernel for every device
            reason = f"{type(error).__name__} on probes: {' '.join(str(error).split())[:200]}"
        if reason:
            self._use("padded", padded)
            self._free()
        return reason

    def run(self, batch: Sequence[TokenIds]) -> Vectors:
        """Compute one vector per input."""
        network = self._open()
        try:
            return self._vectors(network, batch)
        except torch.OutOfMemoryError as error:
            self._free()
            raise OutOfMemory(f"{self.device} is out of memory") from error
        except Exception as error:
            if exhausted(error):
                raise OutOfMemory("torch is out of memory") from None
            # Only the kind: a message of torch may hold values of the input.
            raise EmbedError(f"torch failed on {self.device}: {type(error).__name__}") from None

    def close(self) -> None:
        """Give the memory back."""
        self._network = None
        gc.collect()
        self._free()

    def _open(self) -> Network:
        if self._network is None:
            raise EmbedError("the model is closed")
        return self._network

    def _use(self, cost: CostRule, kind: str) -> None:
        """Compute packed or padded from now on, with that kind of attention."""
        attention.choose(self._open().transformer, kind)
        self.cost = cost

    @torch.inference_mode()
    def _vectors(self, network: Network, batch: Sequence[TokenIds]) -> Vectors:
        """Compute; one copy back from the device."""
        forward = self._packed if self.cost == "packed" else self._padded
        return np.ascontiguousarray(forward(network, batch).cpu().numpy(), dtype=np.float32)

    def _padded(self, network: Network, batch: Sequence[TokenIds]) -> Tensor:
        ids, mask = pad(batch, self._pad_id)
        out: Tensor = network(self._put(ids), self._put(mask))
        return out

    def _packed(self, network: Network, batch: Sequence[TokenIds]) -> Tensor:
        ids, bounds = join(batch)
        longest = max(map(len, batch))
        return network.forward_packed(Packed(self._put(ids).long(), self._put(bounds), longest))

    def _put(self, array: NDArray[np.integer]) -> Tensor:
        tensor = torch.from_numpy(array)
        if self._device.type == "cpu":
            return tensor
        return tensor.pin_memory().to(self._device, non_blocking=True)

    def _free(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.empty_cache()
