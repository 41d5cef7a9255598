"""The tables of the ceiling: matrix products, and what models reach of them."""

from __future__ import annotations

from collections.abc import Iterator

from bench.figures import median
from bench.goals import layer_gflops, share_of
from bench.results import Ceiling
from bench.tables import figure, percent, table


def ceiling_tables(found: Ceiling) -> Iterator[str]:
    """Yield the parts of the report."""
    settings = found.settings
    yield (
        "## The machine's own ceiling\n\n"
        f"Rounds: {settings.rounds}; {settings.when}. Medians of GFLOP/s of matrix products with "
        "constant weights. `all` is BERT-base's layer: four products of the first shape, one of both others."
    )
    shapes = list(dict.fromkeys(product.shape for product in found.products))
    kinds = list(dict.fromkeys((product.engine, product.dtype) for product in found.products))
    gflops = {
        (product.engine, product.dtype, product.shape): median(product.gflops) for product in found.products
    }
    rows = [
        (
            f"{engine}, {dtype}",
            *(figure(gflops.get((engine, dtype, shape))) for shape in shapes),
            figure(layer_gflops(found, engine, dtype)),
        )
        for engine, dtype in kinds
    ]
    yield table(("engine, dtype", *shapes, "all"), rows)
    if found.left_out:
        yield "Left out:\n\n" + "\n".join(f"- {reason}" for reason in found.left_out)
    yield (
        "What of that arrives at models through the gateway's backend, in process. A token's operations: 2 x "
        "the parameters of the linear layers + 4 x layers x width x length."
    )
    yield models_table(found)


def models_table(found: Ceiling) -> str:
    """Write down what models reach."""
    rows = []
    for model in found.models:
        tokens_per_s = median(model.tokens_per_s)
        rows.append(
            (
                f"{model.model} ({model.runtime}, {model.dtype}), {model.inputs} x {model.tokens} tokens",
                figure(tokens_per_s),
                figure(tokens_per_s * model.flops_per_token / 1e9 if tokens_per_s else None),
                percent(share_of(found, model, model.dtype)),
                percent(share_of(found, model, "bf16")),
            )
        )
    return table(("model", "tokens/s", "GFLOP/s", "of its own dtype's products", "of bf16 products"), rows)
