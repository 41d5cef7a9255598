"""All metrics, for Prometheus. The README lists each of them.

Metrics of each request or batch are bound to their labels once, so that the hot path looks nothing up. Values that can
be read on demand, such as the length of a queue, are read when the metrics are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Generic, TypeVar

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

PREFIX = "embeddings_gateway"
PHASES = ("tokenize", "queue", "infer", "encode")
CAUSES = ("exit", "signal", "memory", "hang", "protocol", "replaced")
SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
COUNTS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
TOKENS = (16, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, 65536)


M = TypeVar("M", Counter, Histogram)


class BoundMetric(dict[tuple[str, ...], M], Generic[M]):
    """The children of a metric by their labels. ``labels()`` itself takes a lock and makes a copy."""

    def __init__(self, metric: M) -> None:
        super().__init__()
        self._metric: M = metric

    def __missing__(self, labels: tuple[str, ...]) -> M:
        child: M = self._metric.labels(*labels)
        self[labels] = child
        return child


class Metrics:
    """All metrics of one gateway, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._requests = BoundMetric(
            self._counter("requests", "Answered requests for embeddings.", "model", "status")
        )
        self._errors = BoundMetric(
            self._counter("errors", "Refused or failed requests for embeddings.", "model", "code")
        )
        self._inputs = self._counter("inputs", "Embedded inputs.", "model")
        self._tokens = self._counter("tokens", "Embedded tokens, special tokens included.", "model")
        self._truncated = self._counter("truncated_inputs", "Inputs that were cut to fit.", "model")
        self._queue_jobs = self._gauge("queue_jobs", "Inputs that wait for a worker.", "model")
        self._queue_tokens = self._gauge("queue_tokens", "Tokens of the inputs that wait.", "model")
        self._batch_inputs = self._histogram("batch_inputs", "Inputs of a batch.", COUNTS, "model")
        self._batch_tokens = self._histogram("batch_tokens", "Tokens of a batch.", TOKENS, "model")
        self._phases = BoundMetric(
            self._histogram("phase_seconds", "Seconds of a request's phases.", SECONDS, "model", "phase")
        )
        self._restarts = self._counter(
            "worker_restarts", "Workers that were started again after they died.", "model"
        )
        self._deaths = self._counter("worker_deaths", "Workers that died, by cause.", "model", "cause")
        self._workers = self._gauge("workers_ready", "Workers that can take a batch.", "model")

    def model(self, name: str) -> ModelMetrics:
        """Return the metrics of the model ``name``."""
        return ModelMetrics(self, name)

    def request(self, model: str, status: int, code: str | None, seconds: Mapping[str, float]) -> None:
        """Count one answered request.

        Args:
            model: name of the served model; empty if it is unknown.
            status: of the response; 499 if the client disconnected.
            code: of the error, if there is one.
            seconds: phase -> seconds.
        """
        self._requests[model, str(status)].inc()
        if code is not None:
            self._errors[model, code].inc()
        for phase, duration in seconds.items():
            self._phases[model, phase].observe(duration)

    def expose(self) -> bytes:
        """Return all metrics in Prometheus' text format."""
        return generate_latest(self.registry)

    def _counter(self, name: str, description: str, *labels: str) -> Counter:
        return Counter(f"{PREFIX}_{name}", description, labels, registry=self.registry)

    def _gauge(self, name: str, description: str, *labels: str) -> Gauge:
        return Gauge(f"{PREFIX}_{name}", description, labels, registry=self.registry)

    def _histogram(self, name: str, description: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
        return Histogram(f"{PREFIX}_{name}", description, labels, registry=self.registry, buckets=buckets)


class ModelMetrics:
    """The metrics of one model."""

    def __init__(self, metrics: Metrics, model: str) -> None:
        self.inputs = metrics._inputs.labels(model)
        self.tokens = metrics._tokens.labels(model)
        self.truncated = metrics._truncated.labels(model)
        self.queue_jobs = metrics._queue_jobs.labels(model)
        self.queue_tokens = metrics._queue_tokens.labels(model)
        self.batch_inputs = metrics._batch_inputs.labels(model)
        self.batch_tokens = metrics._batch_tokens.labels(model)
        self.worker_restarts = metrics._restarts.labels(model)
        self.worker_deaths = {cause: metrics._deaths.labels(model, cause) for cause in CAUSES}
        self.workers_ready = metrics._workers.labels(model)

    def watch_workers(self, ready: Callable[[], int]) -> None:
        """Call ``ready`` for the number of workers that can take a batch, whenever the metrics are read."""
        self.workers_ready.set_function(ready)

    def watch_queue(self, jobs: Callable[[], int], tokens: Callable[[], int]) -> None:
        """Call these for the length of the queue, whenever the metrics are read."""
        self.queue_jobs.set_function(jobs)
        self.queue_tokens.set_function(tokens)
