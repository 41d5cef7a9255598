"""OpenVINO's products of matrices. Run as ``python -m bench.engines.openvino_products``."""

from __future__ import annotations

import openvino
import openvino.opset13 as operations

from bench.engines.command import Multiply, Ready
from bench.engines.desk import Respond, serve
from bench.engines.products import Product, random, respond_with

TYPES = {"fp32": openvino.Type.f32, "bf16": openvino.Type.bf16}


def start() -> tuple[Ready, Respond]:
    """Nothing has to be loaded."""
    return Ready("OpenVINO", "fp32, bf16"), respond_with({"OpenVINO": compiled})


def compiled(command: Multiply) -> Product:
    """Multiply in a compiled model that is nothing but the product, its inputs and outputs in the dtype."""
    dtype = TYPES[command.dtype]
    left = operations.parameter([command.rows, command.inner], dtype)
    weights = operations.constant(random(command.columns, command.inner), dtype)
    model = openvino.Model([operations.matmul(left, weights, False, True)], [left], "product")
    settings = {"INFERENCE_PRECISION_HINT": dtype, "PERFORMANCE_HINT": "LATENCY"}
    request = openvino.Core().compile_model(model, "CPU", settings).create_infer_request()
    request.set_input_tensor(openvino.Tensor(dtype, openvino.Shape([command.rows, command.inner])))

    def product() -> object:
        return request.infer()

    return product


if __name__ == "__main__":
    serve(start)
