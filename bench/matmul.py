"""Rates of matrix products with constant weights, in torch and in OpenVINO, as encoders have them."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from bench.engines import calls_per_s
from bench.run_spec import Vectors

SHAPES = {
    "[1024, 768] x [768, 768]": (1024, 768, 768),
    "[1024, 768] x [768, 3072]": (1024, 768, 3072),
    "[1024, 3072] x [3072, 768]": (1024, 3072, 768),
}
"""``[rows, inner] x [inner, columns]``: the linear layers of BERT-base, on 1024 tokens."""
DTYPES = ("fp32", "bf16")

Product = Callable[[], object]
Make = Callable[[str, Vectors, Vectors], Product]
"""From a dtype, a left matrix and weights ``[columns, inner]`` to something that multiplies them once."""


class Matmul:
    """All products of one library, each prepared once."""

    def __init__(self, engines: Mapping[str, Make]) -> None:
        draw = np.random.default_rng(0).standard_normal
        self._products = {
            (engine, dtype, shape): make(
                dtype, draw((rows, inner), np.float32), draw((columns, inner), np.float32)
            )
            for engine, make in engines.items()
            for dtype in DTYPES
            for shape, (rows, inner, columns) in SHAPES.items()
        }

    def gflops(self, seconds: float) -> dict[tuple[str, str, str], float]:
        """Measure every product for so many seconds; keys are engine, dtype and shape."""
        return {
            key: 2e-9 * float(np.prod(SHAPES[key[2]])) * calls_per_s(product, seconds)
            for key, product in self._products.items()
        }


def torch_matmul() -> Matmul:
    """Return torch's products: as ``torch.nn.Linear`` multiplies, and with weights in oneDNN's own layout."""
    import torch  # only in this engine's process

    dtypes = {"fp32": torch.float32, "bf16": torch.bfloat16}

    def linear(dtype: str, left: Vectors, weights: Vectors) -> Product:
        x, w = (torch.from_numpy(matrix).to(dtypes[dtype]) for matrix in (left, weights))
        return torch.inference_mode()(lambda: torch.nn.functional.linear(x, w))

    def prepacked(dtype: str, left: Vectors, weights: Vectors) -> Product:
        x, w = (torch.from_numpy(matrix).to(dtypes[dtype]) for matrix in (left, weights))
        packed = torch.ops.mkldnn._reorder_linear_weight(w, len(left))
        multiply = torch.ops.mkldnn._linear_pointwise
        return torch.inference_mode()(lambda: multiply(x, packed, None, "none", [], ""))

    return Matmul({"torch": linear, "torch, prepacked": prepacked})


def openvino_matmul() -> Matmul:
    """Return OpenVINO's products: a compiled model that is nothing else, inputs and outputs in the dtype."""
    import openvino  # only in this engine's process
    import openvino.opset13 as operations

    dtypes = {"fp32": openvino.Type.f32, "bf16": openvino.Type.bf16}

    def compiled(dtype: str, left: Vectors, weights: Vectors) -> Product:
        kind = dtypes[dtype]
        x = operations.parameter(list(left.shape), kind)
        product = operations.matmul(x, operations.constant(weights, kind), False, True)
        settings = {"INFERENCE_PRECISION_HINT": kind, "PERFORMANCE_HINT": "LATENCY"}
        model = openvino.Core().compile_model(openvino.Model([product], [x]), "CPU", settings)
        request = model.create_infer_request()
        request.set_input_tensor(openvino.Tensor(kind, openvino.Shape(list(left.shape))))
        return request.infer  # type: ignore[no-any-return]

    return Matmul({"OpenVINO": compiled})
