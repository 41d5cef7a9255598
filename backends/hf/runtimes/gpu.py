"""The GPUs that torch finds."""

from __future__ import annotations

import torch

from embeddings_gateway.backends.base import LoadError


def find(wanted: str) -> str:
    """Return the device that the configuration asks for; ``auto`` is a GPU where there is one.

    Args:
        wanted: ``auto``, ``cuda`` or ``cuda:N``.

    Raises:
        LoadError: the configuration names a GPU that is not there.
    """
    found = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if wanted == "auto" and not found:
        return "cpu"
    index = torch.device("cuda" if wanted == "auto" else wanted).index or 0
    if index >= found:
        raise LoadError(f"device is {wanted!r}, but torch finds {found} GPUs here: use cpu or auto")
    return f"cuda:{index}"


def has_bf16(device: str) -> bool:
    """Tell whether a GPU computes in bf16 by itself."""
    with torch.cuda.device(device):
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
