"""What becomes of everybody else when a model fails on one input: real workers with the fault backend."""

from __future__ import annotations

import asyncio
import os
import signal

import numpy as np
import pytest

from embeddings_gateway.backends.spec import FaultSpec
from embeddings_gateway.errors import DeadlinePassed, InputFailed, ModelUnavailable
from embeddings_gateway.serving.ask import Ask
from tests.gateway.fakes import vector_of
from tests.processes import freeze

pytestmark = pytest.mark.anyio

ENDING = ["abort", "crash", "exit", "hang", "freeze"]
"""Marks that cost the worker."""

ENDLESS = ["hang", "freeze", "tokenizer-hang", "tokenizer-freeze"]

FAILING = ["raise", "decline", "memory", "nan", "infinite", "zero", "short", "long", "narrow"]
"""Marks that it survives."""

IMPATIENT = {"hang_timeout_s": 1.0}


async def restarts(model, metrics):
    """Return how often a worker was started again, once there is one."""
    await model.replicas.least_busy()
    return metrics.registry.get_sample_value("embeddings_gateway_worker_restarts_total", {"model": "m"})


@pytest.mark.parametrize("where", ["engine", "tokenizer"])
@pytest.mark.parametrize("mark", ENDING + FAILING)
async def test_one_bad_input(start, metrics, mark, where):
    """One input that the model fails on, in whatever way, fails alone; the same again costs no worker."""
    if where == "tokenizer":
        if mark in ("nan", "infinite", "zero", "long", "narrow"):
            pytest.skip("the tokenizer makes no vectors")
        mark = f"tokenizer-{mark}"
    model = await start(FaultSpec(), **IMPATIENT if mark in ENDLESS else {})
    texts = [f"text {i}" for i in range(20)]
    texts[13] += f" <{mark}>"
    others = [text for text in texts if "<" not in text]
    neighbour = asyncio.ensure_future(model.embed(Ask(["a neighbour"])))
    answer = await model.embed(Ask(texts, partial=True))
    assert {i: type(error) for i, error in answer.errors.items()} == {13: InputFailed}
    assert np.array_equal(np.delete(answer.vectors, 13, 0), [vector_of(text) for text in others])
    assert np.array_equal((await neighbour).vectors, [vector_of("a neighbour")])
    deaths = await restarts(model, metrics)
    assert bool(deaths) == (mark.removeprefix("tokenizer-") in ENDING)
    assert deaths <= 8
    with pytest.raises(InputFailed) as refusal:
        await model.embed(Ask(["another", texts[13]]))
    assert refusal.value.param == "input[1]"
    assert await restarts(model, metrics) == deaths


async def test_wrong_order(start):
    """An engine that mixes rows up is found by computing one again: every vector is its input's own."""
    model = await start(FaultSpec(), audit_every=1)
    texts = ["a", "bc", "<order>", "def"]
    assert np.array_equal((await model.embed(Ask(texts))).vectors, [vector_of(text) for text in texts])


async def test_several_requests(start):
    """Several bad inputs in different requests at once fail by themselves, each in its own."""
    model = await start(FaultSpec())
    asks = [
        Ask([f"{mark} {i} {'<' + mark + '>' if i == 2 else ''}" for i in range(8)]) for mark in ENDING[:3]
    ]
    asks.append(Ask(["good", "better"]))
    *bad, good = await asyncio.gather(*(model.embed(ask) for ask in asks), return_exceptions=True)
    assert [(type(error), error.param) for error in bad] == [(InputFailed, "input[2]")] * 3
    assert np.array_equal(good.vectors, [vector_of(text) for text in asks[-1].inputs])


async def test_killers_one_after_the_other(start):
    """However many different inputs end workers, each is found, and none of them opens the breaker."""
    model = await start(FaultSpec())
    for number in range(8):
        answer = await model.embed(Ask([f"<abort> {number}", f"good {number}"], partial=True))
        assert list(answer.errors) == [0]
        assert np.array_equal(answer.vectors[1], vector_of(f"good {number}"))


async def test_texts_that_hang_beside_others(start):
    """Texts that the tokenizer hangs on are found although others, which wait for them, are late first."""
    model = await start(FaultSpec(), **IMPATIENT)
    long = "x" * 2000
    hanging = [f"{long * 20} <tokenizer-hang> {n}" for n in range(2)]
    asks = [asyncio.ensure_future(model.embed(Ask([text]))) for text in hanging]
    while model.replicas.workers[0].calls < 2:
        await asyncio.sleep(0)
    asks += [asyncio.ensure_future(model.embed(Ask([f"{long} {n}"], truncate="right"))) for n in range(3)]
    *bad, good, better, best = await asyncio.gather(*asks, return_exceptions=True)
    assert [type(error) for error in bad] == [InputFailed] * 2
    assert [len(answer.vectors) for answer in (good, better, best)] == [1] * 3


async def test_nothing_is_kept_of_requests_that_are_over(start, own_child):
    """Texts of requests whose time is over while a worker is started again are not held."""
    model = await start(FaultSpec(load_seconds=0.5))
    os.kill(own_child(), signal.SIGKILL)
    while model.replicas.ready:
        await asyncio.sleep(0)
    asks = [model.embed(Ask(["x" * 100], seconds_max=0.01)) for _ in range(20)]
    assert {type(e) for e in await asyncio.gather(*asks, return_exceptions=True)} == {DeadlinePassed}
    assert repr(model._gathering) == "<Gathering 0 waiting, 0 calls>"
    assert repr(model.batcher.admission) == "<Admission 0 tokens expected>"


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "stopped"])
async def test_worker_that_somebody_ends(start, own_child, metrics, end):
    """A worker that is killed or stopped from outside costs nobody anything: its work is done again."""
    model = await start(FaultSpec(seconds_per_token=0.001), **IMPATIENT)
    pid = own_child()
    texts = [f"text {i}" for i in range(100)]
    asked = asyncio.ensure_future(model.embed(Ask(texts)))
    while not model.replicas.workers[0].calls:
        await asyncio.sleep(0)
    if end == signal.SIGSTOP:
        freeze(pid)
    else:
        os.kill(pid, end)
    assert np.array_equal((await asked).vectors, [vector_of(text) for text in texts])
    assert await restarts(model, metrics) == 1


async def test_model_that_never_loads(start):
    """A worker that dies at every load opens the breaker: requests are refused at once, with the reason."""
    model = await start(FaultSpec(loading="abort"))
    while model.replicas.state != "broken":
        await asyncio.sleep(0.01)
    with pytest.raises(ModelUnavailable) as refusal:
        await model.embed(Ask(["a"]))
    assert refusal.value.retry_after
    assert "too often" in await model.replicas.unready()


async def test_load_that_hangs(start):
    """A load that takes longer than it may is ended and tried again."""
    model = await start(FaultSpec(loading="hang"), load_timeout_s=0.5)
    assert model.replicas.state == "loading"
    assert "died while it loaded" in model.replicas.reason


async def test_wrong_model(start):
    """A model that fails its self-test is given up for good, with the reason."""
    model = await start(FaultSpec(loading="wrong"))
    assert model.replicas.state == "failed"
    assert "company" in model.replicas.reason


async def test_out_of_memory(start):
    """Batches that memory is too small for are computed in smaller ones, and nobody is blamed."""
    model = await start(FaultSpec(memory_tokens=500, max_batch_tokens=2000))
    texts = [f"text {i}" for i in range(60)]
    assert np.array_equal((await model.embed(Ask(texts))).vectors, [vector_of(text) for text in texts])


async def test_requests_wait_for_a_restart(start, own_child):
    """A request that comes while a worker is started again waits for it, instead of being sent away."""
    model = await start(FaultSpec())
    os.kill(own_child(), signal.SIGKILL)
    while model.replicas.state == "ready":
        await asyncio.sleep(0)
    assert model.replicas.state == "restarting"
    assert np.array_equal((await model.embed(Ask(["a"]))).vectors, [vector_of("a")])


async def test_restart_that_hangs(start, own_child):
    """A worker that takes far longer to start again than before is not waited for, until it is there."""
    model = await start(FaultSpec(), **IMPATIENT)
    before = own_child()
    os.kill(before, signal.SIGKILL)
    while own_child() in (before, None):
        await asyncio.sleep(0)
    freeze(own_child())
    with pytest.raises(ModelUnavailable):
        await model.embed(Ask(["a"]))
    assert model.replicas.state == "broken"
    assert "far longer" in await model.replicas.unready()
    os.kill(own_child(), signal.SIGCONT)
    while not model.replicas.ready:
        await asyncio.sleep(0)
    assert np.array_equal((await model.embed(Ask(["a"]))).vectors, [vector_of("a")])
