"""Four times the load that a model can take: it does what it can, and refuses the rest at once."""

from __future__ import annotations

import asyncio
import time
from typing import NamedTuple

from embeddings_gateway.batching.batcher import MAX_IN_FLIGHT
from embeddings_gateway.batching.planner import Limits
from tests.faults.asking import answers
from tests.faults.figures import p99
from tests.faults.flood import Flood
from tests.faults.load import Load
from tests.faults.models import FULL_SIZE, fault, real, truth_of
from tests.faults.truth import Computed, vectors_of
from tests.faults.watch import metric
from tests.server import serving

pytestmark = FULL_SIZE
INPUTS, CHARS = 4, 48
TOKENS = INPUTS * (CHARS + 2)
SECONDS_PER_TOKEN = 1e-4
BATCH_TOKENS = 1000
QUEUE_TOKENS = 10_000
TIMES = 4
WARM_UP_REQUESTS_PER_S = 100
REFUSED_S = 0.05


class Measured(NamedTuple):
    """What a flood did: tokens a second, and how long answers took at the 99th percentile, in seconds."""

    rate: float
    right_s: float
    refused_s: float


def flooded(server, truth, inputs, rate, seconds) -> Measured:
    """Flood a model; check every answer, and that it is as it was afterwards."""
    flood = Flood(server, truth, inputs=inputs, rate=rate)
    before, began = metric(server, "tokens_total", model=truth.model), time.monotonic()
    asyncio.run(flood.run(seconds))
    spent_s = time.monotonic() - began
    tokens = metric(server, "tokens_total", model=truth.model) - before
    assert {answer.status for answer in flood.answers} == {200, 429}
    assert metric(server, "queue_tokens", model=truth.model) == 0
    texts = truth.texts(0, inputs)
    (after,) = answers(server, truth.model, texts, truncate="right")
    assert truth.right(texts, vectors_of(after))
    return Measured(tokens / spent_s, p99(flood.seconds(right=True)), p99(flood.seconds(right=False)))


def assert_goals(measured, capacity, max_queue_tokens, batch_tokens, overtakes=0) -> None:
    """Check what was measured."""
    assert measured.rate >= 0.9 * capacity
    assert measured.refused_s <= REFUSED_S
    # before the head of the queue there are the batch that runs and the next one, and where lengths differ so
    # many may overtake; what is no queue takes as long as a refusal may
    ahead = max_queue_tokens + (MAX_IN_FLIGHT + overtakes) * batch_tokens
    assert measured.right_s <= ahead / measured.rate + REFUSED_S


def test_known_capacity(tmp_path, tell):
    """A model of a known speed keeps it under four times its load."""
    keys = {"max_queue_tokens": QUEUE_TOKENS, "max_batch_tokens": BATCH_TOKENS}
    with serving(tmp_path, fault("model", seconds_per_token=SECONDS_PER_TOKEN, **keys)) as server:
        capacity = 1 / SECONDS_PER_TOKEN
        rate = TIMES * capacity / TOKENS
        truth = Computed("model", chars=(CHARS,))
        measured = flooded(server, truth, INPUTS, rate, 300)
        tell(capacity=capacity, **measured._asdict())
        assert_goals(measured, capacity, QUEUE_TOKENS, BATCH_TOKENS)


def test_real_model(tmp_path, tell):
    """A real model keeps the speed that it has when as many ask as it can take."""
    inputs, max_queue_tokens = 16, 50_000
    with serving(tmp_path, real("model") + f"max_queue_tokens = {max_queue_tokens}\n") as server:
        truth = truth_of(server, "model")
        flooded(server, truth, inputs, WARM_UP_REQUESTS_PER_S, 60)  # full batches meet new shapes
        tokens, requests = asyncio.run(capacity_of(server, truth, inputs, 30))
        measured = flooded(server, truth, inputs, TIMES * requests, 300)
        tell(capacity=tokens, **measured._asdict())
        assert_goals(measured, tokens, max_queue_tokens, 2048, Limits._field_defaults["overtakes_max"])


async def capacity_of(server, truth, inputs, seconds) -> tuple[float, float]:
    """Return how many tokens, and how many requests, a model does in a second."""
    load = Load(server, truth, inputs=inputs)
    async with load.clients(16):
        await load.more(50)
        answered, before = len(load.right), metric(server, "tokens_total", model="model")
        await asyncio.sleep(seconds)
        tokens = metric(server, "tokens_total", model="model") - before
        requests = len(load.right) - answered
    return tokens / seconds, requests / seconds
