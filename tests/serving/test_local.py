"""A served model: real workers with the fake backend behind one call."""

from __future__ import annotations

import asyncio
import os
import signal

import numpy as np
import pytest

from embeddings_gateway.api.health import health
from embeddings_gateway.backends.spec import FakeSpec, FaultSpec
from embeddings_gateway.errors import (
    ContextLengthExceeded,
    DeadlinePassed,
    InputFailed,
    InvalidRequest,
    ModelUnavailable,
    SpaceMismatch,
    TooManyTokens,
)
from embeddings_gateway.serving.ask import Ask
from tests.gateway.fakes import all_quiet, vector_of
from tests.processes import children_of, freeze

pytestmark = pytest.mark.anyio

DIMENSIONS = FakeSpec(width=8, dimensions=(4,))


async def test_answer(start):
    """An answer has a vector for each input, the tokens with the special ones, the space and the phases."""
    model = await start()
    answer = await model.embed(Ask(["a", "bc"]))
    assert np.array_equal(answer.vectors, [vector_of("a"), vector_of("bc")])
    assert answer.tokens == 3 + 4
    assert answer.space == model.replicas.info.fingerprint
    assert answer.seconds.keys() == {"tokenize", "queue", "infer"}
    assert min(answer.seconds.values()) >= 0
    await all_quiet()
    assert model.batcher.idle


async def test_dimensions(start):
    """Dimensions that the model offers are cut and renormalised; others are refused by field."""
    model = await start(DIMENSIONS)
    short = (await model.embed(Ask(["a"], dimensions=4))).vectors[0]
    assert np.allclose(short, vector_of("a")[:4] / np.linalg.norm(vector_of("a")[:4]), atol=1e-6)
    with pytest.raises(InvalidRequest, match="4, 8") as refusal:
        await model.embed(Ask(["a"], dimensions=5))
    assert refusal.value.param == "dimensions"


async def test_space(start):
    """The space that the model has may be pinned, another one may not."""
    model = await start()
    await model.embed(Ask(["a"], space=model.replicas.info.fingerprint))
    with pytest.raises(SpaceMismatch):
        await model.embed(Ask(["a"], space="another"))


async def test_partial(start):
    """With partial results a failed input has its error and the tokens of the others are counted."""
    answer = await (await start()).embed(Ask(["a", "x" * 600], partial=True))
    assert {index: type(error) for index, error in answer.errors.items()} == {1: ContextLengthExceeded}
    assert np.array_equal(answer.vectors[0], vector_of("a"))
    assert answer.tokens == 3


async def test_all_partial(start):
    """With partial results a request of which nothing can be embedded is an answer too."""
    answer = await (await start()).embed(Ask(["x" * 600] * 2, partial=True))
    assert (len(answer.errors), answer.tokens, len(answer.vectors)) == (2, 0, 2)


LONG = ["a", "x" * 600 + "<nan>" + "y" * 600, "b" * 600]
"""The second one's second window fails; a window has 510 bytes."""


async def test_window_that_fails(start):
    """An input of which one window fails has failed, under its own number, and costs the others nothing."""
    model = await start(FaultSpec())
    answer = await model.embed(Ask(LONG, truncate="mean", partial=True))
    assert [(index, type(error), error.param) for index, error in answer.errors.items()] == [
        (1, InputFailed, "input[1]")
    ]
    assert answer.averaged == [2]
    windows = np.stack([vector_of("b" * 510), vector_of("b" * 90)])
    mean = np.average(windows, axis=0, weights=[510, 90])
    assert np.allclose(answer.vectors[[0, 2]], [vector_of("a"), mean / np.linalg.norm(mean)], atol=1e-6)


async def test_window_that_fails_alone(start):
    """Without partial results the request fails, and names the input and not the window."""
    with pytest.raises(InputFailed) as failure:
        await (await start(FaultSpec())).embed(Ask(LONG, truncate="mean"))
    assert failure.value.param == "input[1]"


async def test_deadline(start):
    """A request that is not done in time says so, and leaves nothing in the queue."""
    model = await start()
    with pytest.raises(DeadlinePassed):
        await model.embed(Ask(["a"], seconds_max=0.0))
    assert repr(model.batcher) == "<Batcher 0 jobs, 0 tokens, 0 running>"


async def test_client_gone(start, own_child):
    """What a client that went away had waiting leaves the queue."""
    model = await start()
    ids = await model.replicas.workers[0].tokenize(["x" * 398] * 2)
    model._preparer._tokenize = lambda _: asyncio.sleep(0, ids)  # the worker answers nothing from here on
    freeze(own_child())
    asks = [asyncio.ensure_future(model.embed(Ask(["x" * 398] * 2))) for _ in range(3)]
    await all_quiet()
    assert repr(model.batcher) == "<Batcher 4 jobs, 1600 tokens, 2 running>"
    asks[2].cancel()
    await all_quiet()
    assert repr(model.batcher) == "<Batcher 2 jobs, 800 tokens, 2 running>"
    await model.replicas.stop()
    for ask in asks[:2]:
        with pytest.raises(ModelUnavailable):
            await ask


@pytest.mark.parametrize("count", [0, 2, 4])
async def test_a_tokenizer_that_loses_texts(start, count):
    """Ids of fewer texts than were sent, or of more, are a failure, never a shorter answer."""
    model = await start()
    worker = model.replicas.workers[0]
    ids = await worker.tokenize(["a"] * count)
    worker.tokenize = lambda _: asyncio.sleep(0, ids)
    with pytest.raises(InputFailed):
        await model.embed(Ask(["a", "b", "c"]))


async def test_queue_bounds_a_request(start):
    """A request has at most the tokens that may wait, so that it is never told to try again in vain."""
    model = await start(max_queue_tokens=20)
    await model.embed(Ask(["x" * 18]))
    with pytest.raises(TooManyTokens):
        await model.embed(Ask(["x" * 19]))


async def test_failed_model(start):
    """A model that cannot be served refuses, and keeps the reason for the operator."""
    model = await start(FakeSpec(dimensions=(16,)))
    assert model.replicas.state == "failed"
    with pytest.raises(ModelUnavailable, match="cannot take a request") as refusal:
        await model.embed(Ask(["a"]))
    assert refusal.value.retry_after
    assert "the model has 8" in model.replicas.reason


async def test_replica_with_another_space(start, monkeypatch, tmp_path):
    """A replica whose vectors live in another space than the first one's never serves."""
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    (tmp_path / "sitecustomize.py").write_text(
        "import os\nfrom embeddings_gateway.backends import fake\n"
        "fake.fingerprint = lambda facts: str(os.getpid())\n"
    )
    model = await start(replicas=2)
    assert sorted(worker.state for worker in model.replicas.workers) == ["failed", "ready"]
    assert model.replicas.state == "ready"
    assert {(await model.embed(Ask(["a"]))).space for _ in range(4)} == {model.replicas.info.fingerprint}


async def test_lost_replica(start):
    """While one of two replicas is away the other one serves."""
    before = set(children_of(os.getpid()))
    model = await start(replicas=2)
    one, _ = set(children_of(os.getpid())) - before
    os.kill(one, signal.SIGKILL)
    while all(worker.ready for worker in model.replicas.workers):
        await asyncio.sleep(0)
    for text in "abcd":
        assert np.array_equal((await model.embed(Ask([text]))).vectors, [vector_of(text)])


async def test_readiness_during_a_search(start, metrics):
    """While a worker is there only for a search, all that is told of the model says so; it is waited for."""
    model = await start()

    def workers_ready():
        return metrics.registry.get_sample_value("embeddings_gateway_workers_ready", {"model": "m"})

    assert ((await health(model, False)).state, workers_ready()) == ("ready", 1)
    async with model.replicas.workers[0].alone():
        told = await health(model, False)
        assert (told.ready, told.state, workers_ready()) == (False, "searching", 0)
        assert "looks for the input" in told.reason
        asked = asyncio.ensure_future(model.embed(Ask(["a"])))
        await all_quiet()
        assert not asked.done()
    assert np.array_equal((await asked).vectors, [vector_of("a")])
    assert ((await health(model, False)).state, workers_ready()) == ("ready", 1)
