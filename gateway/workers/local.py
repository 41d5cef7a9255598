"""The workers of a model on this machine."""

from __future__ import annotations

import functools
from collections.abc import Callable

from msgspec.structs import replace

from embeddings_gateway.config import ModelConfig
from embeddings_gateway.metrics import ModelMetrics
from embeddings_gateway.workers.cores import divide, usable
from embeddings_gateway.workers.replicas import MakeWorker
from embeddings_gateway.workers.supervisor import Supervisor
from embeddings_gateway.workers.vigil import Patience


def local(
    name: str, config: ModelConfig, metrics: ModelMetrics, echo: Callable[[bytes], object] | None
) -> list[MakeWorker]:
    """Return what makes each of them; they divide the cores.

    Args:
        name: of the model.
        config: what they load, and how many of them there are.
        metrics: where their deaths are counted.
        echo: is given what they write to their standard error.
    """
    serving = config.serving
    patience = Patience(serving.hang_timeout_s, serving.load_timeout_s)
    make = functools.partial(Supervisor, name, metrics=metrics, patience=patience, echo=echo)
    return [
        functools.partial(make, replace(config.spec, threads=share.threads), cores=share.cores)
        for share in divide(usable(), serving.replicas, config.spec.threads)
    ]
