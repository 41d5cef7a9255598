"""What the machine's arithmetic gives in torch and in OpenVINO, beside how much of it reaches models."""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Callable, Mapping
from contextlib import ExitStack, closing

import numpy as np

from bench import models
from bench.engines import BackendEngine, EngineProcess, calls_per_s
from bench.options import Options, log
from bench.results import Figures
from bench.run_spec import RunError, Vectors
from embeddings_gateway.backends.spec import HfSpec
from embeddings_gateway.workers.local.cores import usable
from embeddings_gateway.workers.local.environment import ENGINE_SETTINGS

SHAPES = {
    "[1024, 768] x [768, 768]": (1024, 768, 768),
    "[1024, 768] x [768, 3072]": (1024, 768, 3072),
    "[1024, 3072] x [3072, 768]": (1024, 3072, 768),
}
"""``[rows, inner] x [inner, columns]``: the linear layers of BERT-base, on 1024 tokens."""

Product = Callable[[], object]
Prepare = Callable[[str, Vectors, Vectors], Product]
"""From a dtype, a left matrix and weights ``[columns, inner]`` to something that multiplies them once."""
Make = Callable[..., object]
ENCODERS = {
    "all-MiniLM-L6-v2": ("", (384, 1536, 6)),
    "BERT-base's shape": ("bert-base", (768, 3072, 12)),
}
"""What is built, if anything; its width, the inner width of its layers, their number."""
INPUTS, TOKENS = 8, 128
PRODUCT_S = 0.1  # of a turn's second: there are eighteen products
MODEL_S = 0.5
ABOUT = f"""\
Rates of matrix products with constant weights; `all` is BERT-base's layer: four products of the first shape,
one of both others. Then what of that reaches models through the gateway's backend, in process, in batches of
{INPUTS} x {TOKENS} tokens: a token's operations are 2 x the parameters of the linear layers + 4 x layers x
width x length.
"""


def ceiling(options: Options) -> Figures:
    """Measure products and models in turn, round by round."""
    result = Figures(options.settings, ABOUT)
    with ExitStack() as stack:
        products = [_start(stack, result, make) for make in (torch_matmul, openvino_matmul)]
        encoders = {}
        for name, (folder, _) in ENCODERS.items():
            spec = HfSpec(
                path=str(models.built(folder) if folder else models.minilm()),
                threads=usable().total,
                max_batch_tokens=INPUTS * TOKENS,
            )
            encoders[name] = _start(stack, result, BackendEngine, spec)
        for number in range(options.rounds):
            log(f"ceiling, round {number + 1} of {options.rounds}")
            for engine in filter(None, products):
                for product, rate in engine.call("gflops", PRODUCT_S * options.seconds).items():
                    result.add(f"{product}, GFLOP/s", rate)
            for name, encoder in encoders.items():
                if encoder:
                    rate = encoder.call("tokens_per_s", INPUTS, TOKENS, MODEL_S * options.seconds)
                    result.add(f"{name} ({', '.join(encoder.call('runtime'))}), tokens/s", rate)
                    flops = models.flops_per_token(*ENCODERS[name][1], TOKENS)
                    result.add(f"{name}, GFLOP/s", 1e-9 * rate * flops)
    return result


def _start(stack: ExitStack, result: Figures, make: Make, *arguments: object) -> EngineProcess | None:
    settings = ENGINE_SETTINGS if make is BackendEngine else {}
    try:
        return stack.enter_context(closing(EngineProcess(make, *arguments, settings=settings)))
    except RunError as error:
        result.left_out.append(f"{make.__name__}: {error}")
        return None


class Matmul:
    """All products of one library, by engine and dtype, each prepared once."""

    def __init__(self, engines: Mapping[str, Prepare]) -> None:
        self._products: dict[str, dict[str, Product]] = {}
        draw = np.random.default_rng(0).standard_normal
        for name, (rows, inner, columns) in SHAPES.items():
            left, weights = draw((rows, inner), np.float32), draw((columns, inner), np.float32)
            for (engine, prepare), dtype in itertools.product(engines.items(), ("fp32", "bf16")):
                products = self._products.setdefault(f"{engine}, {dtype}", {})
                products[name] = prepare(dtype, left, weights)

    def gflops(self, seconds: float) -> dict[str, float]:
        """Measure every product for so many seconds."""
        result: dict[str, float] = {}
        for name, products in self._products.items():
            calls = {shape: calls_per_s(product, seconds) for shape, product in products.items()}
            rates = {shape: 2e-9 * math.prod(SHAPES[shape]) * per_s for shape, per_s in calls.items()}
            # `all` has as many operations of each shape, so that its rate is the harmonic mean.
            rates["all"] = statistics.harmonic_mean(rates.values())
            result |= {f"{name}, {shape}": rate for shape, rate in rates.items()}
        return result


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
