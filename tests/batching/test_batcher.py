"""The batcher: when a batch leaves, where it goes, who goes first, and whose results come back."""

from __future__ import annotations

import random

import pytest

from embeddings_gateway.batching.batcher import Batcher
from embeddings_gateway.batching.request import Caller
from embeddings_gateway.config import ServingConfig
from embeddings_gateway.errors import ModelUnavailable
from embeddings_gateway.workers.isolation import Quarantine
from tests.gateway.fakes import (
    HeldEngine,
    all_quiet,
    is_right,
    make_dispatcher,
    make_info,
    make_request,
)

pytestmark = pytest.mark.anyio

FULL = 16
"""Tokens of a row that fills a batch alone."""

BULK = Caller(traffic="bulk")


def make_batcher(metrics, *engines, dispatcher=None, **serving):
    """Return a batcher over these engines."""
    return Batcher(
        "m",
        dispatcher or make_dispatcher(*engines),
        ServingConfig(**{"audit_every": 0, **serving}),
        metrics.model("m"),
        quarantine=Quarantine(),
        unavailable=lambda: ModelUnavailable("gone", "model", 5),
    )


async def finish_all(batcher, *engines):
    """End every batch, the oldest first, until nothing is left."""
    while not batcher.idle:
        next(engine for engine in engines if engine.running).running[0].finish()
        await all_quiet()


async def test_leaves_at_once(metrics):
    """A single small row goes to an idle engine at once, and then nothing waits and nothing runs."""
    engine = HeldEngine()
    batcher, request = make_batcher(metrics, engine), make_request(3)
    assert batcher.idle
    batcher.enqueue(request)
    await all_quiet()
    assert repr(batcher) == "<Batcher 0 rows, 0 tokens, 1 running>"
    assert not batcher.idle
    engine.running[0].finish()
    await batcher.finished(request)
    await all_quiet()
    assert is_right(request)
    assert batcher.idle


async def test_two_in_flight(metrics):
    """An engine never holds more than two batches, however full the queue is."""
    engine = HeldEngine()
    batcher, request = make_batcher(metrics, engine), make_request(*[FULL] * 5)
    batcher.enqueue(request)
    most = 0
    while not request.done.done():
        await all_quiet()
        most = max(most, len(engine.running))
        engine.running[0].finish()
        await all_quiet()
    assert most == 2
    assert is_right(request)


async def test_second_only_when_full(metrics):
    """A busy engine gets a second batch as soon as that is full, and no sooner."""
    batcher = make_batcher(metrics, HeldEngine())
    for _ in range(3):
        batcher.enqueue(make_request(3))
        await all_quiet()
    assert repr(batcher) == "<Batcher 2 rows, 6 tokens, 1 running>"
    batcher.enqueue(make_request(3))
    await all_quiet()
    assert repr(batcher) == "<Batcher 0 rows, 0 tokens, 2 running>"


@pytest.mark.parametrize("one_turn", [True, False])
async def test_sharing_a_batch(metrics, one_turn):
    """Requests of one turn of the event loop share a batch, and so do those that wait for an engine."""
    engine = HeldEngine()
    batcher, requests = make_batcher(metrics, engine), [make_request(2) for _ in range(4)]
    for request in requests:
        batcher.enqueue(request)
        if not one_turn:
            await all_quiet()
    await all_quiet()
    shares = []
    while engine.running:
        shares.append(len(engine.running[0].batch))
        engine.running[0].finish()
        await all_quiet()
    assert shares == ([4] if one_turn else [1, 3])
    assert all(map(is_right, requests))


async def test_waits_for_an_engine(metrics):
    """Rows wait while an engine restarts, and leave when it is ready."""
    engine = HeldEngine()
    engine.to("restarting")
    batcher, request = make_batcher(metrics, engine), make_request(3)
    batcher.enqueue(request)
    await all_quiet()
    assert repr(batcher) == "<Batcher 1 rows, 3 tokens, 0 running>"
    engine.to("ready")
    await all_quiet()
    engine.running[0].finish()
    await batcher.finished(request)


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("cost", ["padded", "packed"])
async def test_every_result_to_its_input(metrics, cost, seed):
    """Each row gets its own result, whatever the lengths, outputs, callers and the order of batches."""
    source = random.Random(seed)
    engines = [HeldEngine(make_info(cost=cost)) for _ in range(3)]
    batcher = make_batcher(metrics, *engines)
    requests = [
        make_request(
            *(source.randint(1, 20) for _ in range(source.randint(1, 30))),
            caller=Caller(source.choice("ab"), 1, source.choice(["interactive", "bulk"])),
        )
        for _ in range(8)
    ]
    arriving = list(requests)
    while arriving or not batcher.idle:
        if arriving and source.random() < 0.5:
            batcher.enqueue(arriving.pop())
        await all_quiet()
        if running := [batch for engine in engines for batch in engine.running]:
            source.choice(running).finish()
            await all_quiet()
    assert all(map(is_right, requests))


async def test_gauges(metrics):
    """The metrics say how much waits."""
    batcher = make_batcher(metrics, HeldEngine())
    batcher.enqueue(make_request(*[FULL] * 5))
    await all_quiet()
    exposed = metrics.expose().decode()
    assert 'embeddings_gateway_queue_jobs{model="m"} 3.0' in exposed
    assert f'embeddings_gateway_queue_tokens{{model="m"}} {3.0 * FULL}' in exposed


async def test_a_request_that_is_cancelled_while_it_runs(metrics):
    """A request that is cancelled while its batch runs does not disturb the others in the batch."""
    engine = HeldEngine()
    batcher = make_batcher(metrics, engine)
    left, stays = make_request(3), make_request(3)
    batcher.enqueue(left)
    batcher.enqueue(stays)
    await all_quiet()
    assert len(engine.running[0].batch) == 2
    left.done.cancel()
    await finish_all(batcher, engine)
    assert is_right(stays)


async def test_no_engine_is_coming(metrics):
    """When no engine will be ready soon, waiting and new rows are refused, and running ones finish."""
    engine = HeldEngine()
    batcher = make_batcher(metrics, engine)
    runs, waits = make_request(FULL, FULL), [make_request(3), make_request(2, 1)]
    batcher.enqueue(runs)
    await all_quiet()
    for request in waits:
        batcher.enqueue(request)
    await all_quiet()
    engine.to("broken")
    assert all(isinstance(request.done.exception(), ModelUnavailable) for request in waits)
    assert waits[0].done.exception() is not waits[1].done.exception()
    with pytest.raises(ModelUnavailable):
        batcher.enqueue(make_request(1))
    assert repr(batcher) == "<Batcher 0 rows, 0 tokens, 2 running>"
    await finish_all(batcher, engine)
    assert is_right(runs)


async def test_interactive_beside_a_bulk_flood(metrics):
    """Bulk rows never take an engine's second place, so an interactive row waits for one batch at most."""
    engine = HeldEngine()
    batcher, flood = make_batcher(metrics, engine), make_request(*[FULL] * 9, caller=BULK)
    batcher.enqueue(flood)
    await all_quiet()
    for _ in range(3):
        assert len(engine.running) == 1
        request = make_request(3)
        batcher.enqueue(request)
        await all_quiet()
        assert len(engine.running) == 2
        engine.running[0].finish()
        await all_quiet()
        engine.running[0].finish()
        await all_quiet()
        assert is_right(request)
    await finish_all(batcher, engine)
    assert is_right(flood)


@pytest.mark.parametrize("engines", [1, 2])
async def test_bulk_beside_an_interactive_flood(metrics, engines):
    """An interactive flood that would always take the second place leaves bulk rows their share."""
    engines = [HeldEngine() for _ in range(engines)]
    batcher = make_batcher(metrics, *engines, min_bulk_share=0.2)
    bulk = make_request(*[FULL] * 100, caller=BULK)
    theirs = {int(ids[0]) for ids in bulk.batch.split()}
    batcher.enqueue(bulk)
    flood = []
    computed = {True: 0, False: 0}
    for _ in range(100):
        flood.append(make_request(FULL, FULL))
        batcher.enqueue(flood[-1])
        await all_quiet()
        for engine in engines:
            is_bulk = [int(running.batch.ids[0]) in theirs for running in engine.running]
            assert not any(is_bulk[1:])
        longest = max(engines, key=lambda engine: len(engine.running))
        computed[int(longest.running[0].batch.ids[0]) in theirs] += 1
        longest.running[0].finish()
        await all_quiet()
    assert abs(computed[True] - 20) <= 2
