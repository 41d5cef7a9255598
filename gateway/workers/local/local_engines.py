"""The engines of a model on this machine, and their shares of its cores."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from msgspec.structs import replace

from embeddings_gateway.config import ModelConfig
from embeddings_gateway.metrics import ModelMetrics
from embeddings_gateway.workers.engine import MakeEngine
from embeddings_gateway.workers.local.cores import divide, usable
from embeddings_gateway.workers.local.hang_detector import WorkerTimeouts
from embeddings_gateway.workers.local.supervisor import Supervisor


def local_engines(
    name: str,
    config: ModelConfig,
    metrics: ModelMetrics,
    forward_stderr: Callable[[bytes], object] | None,
) -> list[MakeEngine]:
    """Return a factory for each engine of a model on this machine. The engines divide the cores.

    Args:
        name: of the model.
        config: what the engines load, and how many there are.
        metrics: count restarts and crashes.
        forward_stderr: gets the workers' standard error while they load.
    """
    serving = config.serving
    timeouts = WorkerTimeouts(serving.hang_timeout_s, serving.load_timeout_s)
    make = partial(Supervisor, name, metrics=metrics, timeouts=timeouts, forward_stderr=forward_stderr)
    return [
        partial(make, replace(config.spec, threads=share.threads), cores=share.cores)
        for share in divide(usable(), serving.replicas, config.spec.threads)
    ]
