"""torch's products of matrices. Run as ``python -m bench.engines.torch_products``."""

from __future__ import annotations

import torch

from bench.engines.command import Multiply, Ready
from bench.engines.desk import Respond, serve
from bench.engines.products import Product, random, respond_with

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def start() -> tuple[Ready, Respond]:
    """Nothing has to be loaded."""
    return Ready("torch", "fp32, bf16"), respond_with({"torch": plain, "torch, prepacked": prepacked})


def plain(command: Multiply) -> Product:
    """Multiply as ``torch.nn.Linear`` does."""
    left, weights = tensors(command)

    def product() -> object:
        with torch.inference_mode():
            return torch.nn.functional.linear(left, weights)

    return product


def prepacked(command: Multiply) -> Product:
    """Multiply with weights that lie as oneDNN likes them, as torch's compiler lays them out."""
    left, weights = tensors(command)
    packed = torch.ops.mkldnn._reorder_linear_weight(weights, command.rows)

    def product() -> object:
        with torch.inference_mode():
            return torch.ops.mkldnn._linear_pointwise(left, packed, None, "none", [], "")

    return product


def tensors(command: Multiply) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the left matrix and the weights, these as torch keeps them: ``[columns, inner]``."""
    dtype = DTYPES[command.dtype]
    left, weights = random(command.rows, command.inner), random(command.columns, command.inner)
    return torch.from_numpy(left).to(dtype), torch.from_numpy(weights).to(dtype)


if __name__ == "__main__":
    serve(start)
