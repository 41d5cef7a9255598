"""What becomes of everybody else when a model fails on one input: real workers with the fault backend."""

from __future__ import annotations

import asyncio
import os
import signal
import time

import numpy as np
import pytest

from embeddings_gateway.backends.spec import FaultSpec
from embeddings_gateway.errors import DeadlinePassed, InputFailed, ModelUnavailable
from embeddings_gateway.serving.served import Call, CallOptions
from tests.gateway.fakes import vector_of
from tests.processes import freeze

pytestmark = pytest.mark.anyio

SURVIVED = ["raise", "decline", "memory", "nan", "infinite", "zero", "short", "long", "narrow"]
"""Marks of texts that the engine fails on, and the worker survives."""

SURVIVED_BY_TOKENIZERS = ["tokenizer-raise", "tokenizer-decline", "tokenizer-memory", "tokenizer-short"]

IMPATIENT = {"hang_timeout_s": 1.0}


async def run(model, texts, **options):
    """Return the result of a call for vectors."""
    return await model.run(Call(texts, options=CallOptions(**options)))


async def restarts(model, metrics):
    """Return how often a worker was started again, once there is one."""
    await model._dispatcher.tokenizing_engine()
    return metrics.registry.get_sample_value("embeddings_gateway_worker_restarts_total", {"model": "m"})


@pytest.mark.parametrize("mark", ["exit", "freeze", "tokenizer-abort", "tokenizer-hang"])
async def test_one_input_that_ends_workers(start, metrics, mark):
    """One input that ends workers, in whatever way, fails alone; the same again costs no worker."""
    model = await start(FaultSpec(), **IMPATIENT)
    texts = [f"text {i}" for i in range(20)]
    texts[13] += f" <{mark}>"
    neighbour = asyncio.ensure_future(run(model, ["a neighbour"]))
    result = await run(model, texts, partial=True)
    assert {i: type(error) for i, error in result.errors.items()} == {13: InputFailed}
    others = [vector_of(text) for text in texts if "<" not in text]
    assert np.array_equal(np.delete(result.vectors, 13, 0), others)
    assert np.array_equal((await neighbour).vectors, [vector_of("a neighbour")])
    crashes = await restarts(model, metrics)
    assert 1 <= crashes <= 8
    with pytest.raises(InputFailed) as refusal:
        await run(model, ["another", texts[13]])
    assert refusal.value.param == "input[1]"
    assert await restarts(model, metrics) == crashes


async def test_inputs_that_a_worker_survives(start, metrics):
    """Inputs that the engine or the tokenizer fails on fail by themselves, and cost no worker."""
    model = await start(FaultSpec(), audit_every=0)
    for marks in [*([mark] for mark in SURVIVED), SURVIVED, SURVIVED_BY_TOKENIZERS]:
        texts = [text for mark in marks for text in (f"good {mark}", f"bad <{mark}>")]
        result = await run(model, texts, partial=True)
        assert {index: type(error) for index, error in result.errors.items()} == dict.fromkeys(
            range(1, len(texts), 2), InputFailed
        )
        assert np.array_equal(result.vectors[::2], [vector_of(text) for text in texts[::2]])
    assert await restarts(model, metrics) == 0


async def test_wrong_order(start):
    """An engine that mixes rows up is found by computing one again: every vector is its input's own."""
    model = await start(FaultSpec(), audit_every=1)
    texts = ["a", "bc", "<order>", "def"]
    assert np.array_equal((await run(model, texts)).vectors, [vector_of(text) for text in texts])


async def test_killers_one_after_the_other(start):
    """However many different inputs end workers, each is found, and none of them opens the breaker."""
    model = await start(FaultSpec())
    for number in range(4):
        answer = await run(model, [f"<abort> {number}", f"good {number}"], partial=True)
        assert list(answer.errors) == [0]
        assert np.array_equal(answer.vectors[1], vector_of(f"good {number}"))


async def test_texts_that_hang_beside_others(start):
    """Texts that the tokenizer hangs on are found although others, which wait for them, are late first."""
    model = await start(FaultSpec(), **IMPATIENT)
    long = "x" * 2000
    hanging = [f"{long} <tokenizer-hang> {n}" for n in range(2)]
    asks = []
    for text in hanging:  # each in a call of its own
        asks.append(asyncio.ensure_future(run(model, [text])))
        while model._dispatcher._tokenizer_calls.total() < len(asks):
            await asyncio.sleep(0)
    asks += [asyncio.ensure_future(run(model, [f"{long} {n}"], truncate="right")) for n in range(3)]
    *bad, good, better, best = await asyncio.gather(*asks, return_exceptions=True)
    assert [type(error) for error in bad] == [InputFailed] * 2
    assert [len(answer.vectors) for answer in (good, better, best)] == [1] * 3


async def test_nothing_is_kept_of_requests_that_are_over(start, own_child):
    """Texts of requests whose time is over while a worker is started again are not held."""
    model = await start(FaultSpec(load_seconds=0.5))
    os.kill(own_child(), signal.SIGKILL)
    while model.state == "ready":
        await asyncio.sleep(0)
    calls = [model.run(Call(["x" * 100], deadline=time.monotonic() + 0.01)) for _ in range(20)]
    errors = await asyncio.gather(*calls, return_exceptions=True)
    assert {type(error) for error in errors} == {DeadlinePassed}
    assert repr(model._preparer._tokenizer) == "<TokenizeCoalescer 0 waiting, 0 calls>"
    assert repr(model._batcher.admission) == "<Admission 0 tokens reserved>"


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "stopped"])
async def test_worker_that_somebody_ends(start, own_child, metrics, end):
    """A worker that is killed or stopped from outside fails no request: its work is done again."""
    model = await start(FaultSpec(seconds_per_token=0.001), **IMPATIENT)
    pid = own_child()
    texts = [f"text {i}" for i in range(100)]
    asked = asyncio.ensure_future(run(model, texts))
    while model._batcher.idle:
        await asyncio.sleep(0)
    if end == signal.SIGSTOP:
        freeze(pid)
    else:
        os.kill(pid, end)
    assert np.array_equal((await asked).vectors, [vector_of(text) for text in texts])
    assert await restarts(model, metrics) == 1


async def test_load_that_hangs(start):
    """A load that takes longer than it may is ended and tried again."""
    model = await start(FaultSpec(loading="hang"), load_timeout_s=0.5)
    assert model.state == "loading"
    assert "crashed while it loaded" in model.reason


async def test_out_of_memory(start):
    """Batches that are too large for memory are computed in smaller ones, and no input is blamed."""
    model = await start(FaultSpec(memory_tokens=1000, max_batch_tokens=2000))  # enough for the self-test
    texts = [f"text {i}" for i in range(180)]
    assert np.array_equal((await run(model, texts)).vectors, [vector_of(text) for text in texts])


async def test_restart_that_hangs(start, own_child):
    """A worker that takes far longer to start again than before is not waited for, until it is there."""
    model = await start(FaultSpec(), **IMPATIENT)
    before = own_child()
    os.kill(before, signal.SIGKILL)
    while own_child() in (before, None):
        await asyncio.sleep(0)
    freeze(own_child())
    with pytest.raises(ModelUnavailable):
        await run(model, ["a"])
    assert model.state == "broken"
    assert "far longer" in await model.unready()
    os.kill(own_child(), signal.SIGCONT)
    while model.state != "ready":
        await asyncio.sleep(0)
    assert np.array_equal((await run(model, ["a"])).vectors, [vector_of("a")])
