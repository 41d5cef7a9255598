"""What the machine's arithmetic gives, measured beside what of it arrives at models."""

from __future__ import annotations

from contextlib import ExitStack

import msgspec

from bench import models
from bench.compare import Say
from bench.engine_process import EngineError, EngineProcess
from bench.engines.command import Batches, Multiply, Rate
from bench.machine import cores
from bench.options import Options
from bench.results import Ceiling, ModelRate, Product
from embeddings_gateway.backends.spec import HfSpec
from embeddings_gateway.workers.process import ENGINE_SETTINGS

ENGINES = {
    "torch": ("bench.engines.torch_products", ("torch", "torch, prepacked")),
    "OpenVINO": ("bench.engines.openvino_products", ("OpenVINO",)),
}
SHAPES = {
    "[1024, 768] x [768, 768]": (1024, 768, 768),
    "[1024, 768] x [768, 3072]": (1024, 768, 3072),
    "[1024, 3072] x [3072, 768]": (1024, 3072, 768),
}
"""The linear layers of BERT-base, on 1024 tokens."""
MINILM, BERT_BASE = "all-MiniLM-L6-v2", "BERT-base's shape, random weights"
BATCH_INPUTS, BATCH_TOKENS = 8, 128
PRODUCT_S = 0.1  # of a turn's second: there are eighteen products
MODEL_S = 0.5


def ceiling(options: Options, say: Say) -> Ceiling:
    """Measure products and models in turn, round by round."""
    found = Ceiling(settings=options.settings, products=[], models=[], left_out=[])
    with ExitStack() as stack:
        products = list(start_products(stack, found))
        encoders = list(start_models(stack, found, say))
        for number in range(options.rounds):
            say(f"ceiling, round {number + 1} of {options.rounds}")
            for engine, product, command in products:
                ask = msgspec.structs.replace(command, seconds=PRODUCT_S * options.seconds)
                flops = 2.0 * command.rows * command.inner * command.columns
                product.gflops.append(engine.ask(ask, Rate).per_s * flops / 1e9)
            for engine, model in encoders:
                batches = Batches(BATCH_INPUTS, BATCH_TOKENS, MODEL_S * options.seconds)
                model.tokens_per_s.append(engine.ask(batches, Rate).per_s)
    return found


def start_products(stack: ExitStack, found: Ceiling) -> list[tuple[EngineProcess, Product, Multiply]]:
    """Start what multiplies, and list what it shall."""
    wanted = []
    for name, (module, kinds) in ENGINES.items():
        try:
            engine = stack.enter_context(EngineProcess(module))
        except EngineError as error:
            found.left_out.append(f"{name}: {error}")
            continue
        for kind in kinds:
            for dtype in ("fp32", "bf16"):
                for shape, (rows, inner, columns) in SHAPES.items():
                    product = Product(kind, dtype, shape, [])
                    found.products.append(product)
                    wanted.append((engine, product, Multiply(kind, dtype, rows, inner, columns, 0.0)))
    return wanted


def start_models(stack: ExitStack, found: Ceiling, say: Say) -> list[tuple[EngineProcess, ModelRate]]:
    """Start the encoders, in the backend's default dtype."""
    say("building a model of BERT-base's shape, if there is none yet")
    folders = {MINILM: models.minilm(), BERT_BASE: models.bert_base()}
    started = []
    for name, folder in folders.items():
        spec = HfSpec(path=str(folder), threads=cores(), max_batch_tokens=BATCH_INPUTS * BATCH_TOKENS)
        try:
            engine = stack.enter_context(
                EngineProcess(
                    "bench.engines.backend", msgspec.json.encode(spec).decode(), environment=ENGINE_SETTINGS
                )
            )
        except EngineError as error:
            found.left_out.append(f"{name}: {error}")
            continue
        rate = ModelRate(
            model=name,
            runtime=engine.ready.runtime,
            dtype=engine.ready.dtype,
            inputs=BATCH_INPUTS,
            tokens=BATCH_TOKENS,
            flops_per_token=models.layers_of(folder).flops_per_token(BATCH_TOKENS),
            tokens_per_s=[],
        )
        found.models.append(rate)
        started.append((engine, rate))
    return started
