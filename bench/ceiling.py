"""What the machine's arithmetic gives, measured beside how much of it reaches models."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from contextlib import ExitStack, closing

from bench import models
from bench.engine_process import EngineProcess
from bench.engines import BackendEngine
from bench.machine import cores
from bench.matmul import DTYPES, SHAPES, openvino_matmul, torch_matmul
from bench.options import Options, log
from bench.results import Figures
from bench.run_spec import RunError
from embeddings_gateway.backends.spec import HfSpec
from embeddings_gateway.workers.local.process import ENGINE_SETTINGS

ENCODERS = {
    "all-MiniLM-L6-v2": (models.minilm, (384, 1536, 6)),
    "BERT-base's shape": (models.bert_base, (768, 3072, 12)),
}
"""Where a model is; its width, the inner width of its layers, their number."""
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
        products = [_start(stack, result, make, settings={}) for make in (torch_matmul, openvino_matmul)]
        encoders = {}
        for name, (find, _) in ENCODERS.items():
            log(f"building {name}, if it is not built yet")
            spec = HfSpec(path=str(find()), threads=cores(), max_batch_tokens=INPUTS * TOKENS)
            encoders[name] = _start(stack, result, BackendEngine, spec, settings=ENGINE_SETTINGS)
        for number in range(options.rounds):
            log(f"ceiling, round {number + 1} of {options.rounds}")
            for engine in filter(None, products):
                _add_products(result, engine.call("gflops", PRODUCT_S * options.seconds))
            for name, encoder in encoders.items():
                if encoder:
                    rate = encoder.call("tokens_per_s", INPUTS, TOKENS, MODEL_S * options.seconds)
                    result.add(f"{name} ({', '.join(encoder.call('runtime'))}), tokens/s", rate)
                    flops = models.flops_per_token(*ENCODERS[name][1], TOKENS)
                    result.add(f"{name}, GFLOP/s", 1e-9 * rate * flops)
    return result


def _start(
    stack: ExitStack,
    result: Figures,
    make: Callable[..., object],
    *arguments: object,
    settings: dict[str, str],
) -> EngineProcess | None:
    try:
        return stack.enter_context(closing(EngineProcess(make, *arguments, settings=settings)))
    except RunError as error:
        result.left_out.append(f"{make.__name__}: {error}")
        return None


def _add_products(result: Figures, gflops: dict[tuple[str, str, str], float]) -> None:
    for engine in dict.fromkeys(engine for engine, _, _ in gflops):
        for dtype in DTYPES:
            rates = {shape: gflops[engine, dtype, shape] for shape in SHAPES}
            # As many operations of each shape, so that the rate of all is the harmonic mean.
            for shape, rate in (*rates.items(), ("all", statistics.harmonic_mean(rates.values()))):
                result.add(f"{engine}, {dtype}, {shape}, GFLOP/s", rate)
