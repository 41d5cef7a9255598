"""Runs a Network with torch, on the processor or on one GPU."""

from __future__ import annotations

import gc
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from backends.base import EmbedError, LoadError, Vectors
from backends.hf.network.network import Network
from backends.hf.runtimes.runtime import Padded

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
# A processor is near its best from 512 tokens on (MiniLM on two cores, fp32, inputs of 14 to 256 tokens: at
# 90 to 100 %), and a larger batch only makes the next one wait longer. A GPU wants thousands to be busy.
BATCH_TOKENS = {"cpu": 512, "cuda": 16384}


def choose_device(wanted: str) -> torch.device:
    """Return the device that the configuration asks for; ``auto`` is a GPU where there is one.

    Raises:
        LoadError: the configuration names a GPU that is not there.
    """
    if wanted == "cpu" or (wanted == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    device = torch.device("cuda" if wanted == "auto" else wanted)
    found = torch.cuda.device_count() if torch.cuda.is_available() else 0
    index = device.index or 0
    if index >= found:
        raise LoadError(f"device is {wanted!r}, but torch finds {found} GPUs here: use cpu or auto")
    return torch.device("cuda", index)


def choose_dtype(wanted: str, device: torch.device) -> Literal["fp32", "bf16"]:
    """Return the dtype of the weights; ``auto`` is bf16 on a GPU that has it, else fp32.

    Raises:
        LoadError: the configuration asks for bf16 on a GPU without it.
    """
    able = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    if wanted == "bf16" and device.type == "cuda" and not able:
        raise LoadError(f"dtype is 'bf16', but {device} does not have it: use fp32 or auto")
    return "bf16" if wanted == "bf16" or (wanted == "auto" and able) else "fp32"


class TorchRuntime:
    """A Network on its device. See :class:`backends.hf.runtimes.runtime.Runtime`."""

    name = "torch"

    def __init__(self, network: Network, device: torch.device, dtype: Literal["fp32", "bf16"]) -> None:
        self.dtype: str = dtype
        self.device = str(device)
        self.batch_tokens = BATCH_TOKENS[device.type]
        self._device = device
        try:
            self._network: Network | None = network.eval().to(device)
        except RuntimeError as error:
            raise LoadError(f"the model does not fit on {device}: {type(error).__name__}") from error

    @torch.inference_mode()
    def run(self, ids: Padded, mask: Padded) -> Vectors:
        """Compute one vector per row; one copy to the device and one back."""
        if self._network is None:
            raise EmbedError("the model is closed")
        try:
            vectors = self._network(self._put(ids), self._put(mask)).cpu().numpy()
        except torch.OutOfMemoryError as error:
            torch.cuda.empty_cache()
            raise EmbedError(f"{self.device} is out of memory") from error
        except Exception as error:
            # Only the kind: a message of torch may hold values of the input.
            raise EmbedError(f"torch failed on {self.device}: {type(error).__name__}") from None
        return np.ascontiguousarray(vectors, dtype=np.float32)

    def close(self) -> None:
        """Give the memory back."""
        self._network = None
        gc.collect()
        if self._device.type == "cuda":
            torch.cuda.empty_cache()

    def _put(self, array: Padded) -> Tensor:
        tensor = torch.from_numpy(array)
        return (
            tensor if self._device.type == "cpu" else tensor.pin_memory().to(self._device, non_blocking=True)
        )
