"""The engines of a model: which one takes a call, and how they come and go."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

from embeddings_gateway.backends.base import Column
from embeddings_gateway.workers.dispatcher import SEARCH_READY_S, Dispatcher
from embeddings_gateway.workers.engine import Loaded, WorkerGone
from tests.workers.fakes import ScriptedEngine, all_quiet, make_info

pytestmark = pytest.mark.anyio


@pytest.fixture
async def dispatcher():
    """Return a dispatcher with two engines that are loading."""
    dispatcher = Dispatcher()
    for _ in range(2):
        dispatcher.add(ScriptedEngine)
    return dispatcher


async def test_engine_with_the_fewest_batches(dispatcher):
    """A batch goes to the ready engine with the fewest in flight, if it has fewer than the limit."""
    first, second = dispatcher.engines
    assert dispatcher.free_engine(2) is None
    first.to("ready")
    assert dispatcher.free_engine(2) is first
    with dispatcher.computing(first):
        second.to("ready")
        assert dispatcher.free_engine(2) is second
        with dispatcher.computing(second), dispatcher.computing(second):
            assert (dispatcher.in_flight(first), dispatcher.in_flight(second)) == (1, 2)
            assert dispatcher.free_engine(2) is first
            assert dispatcher.free_engine(1) is None
    assert dispatcher.in_flight(second) == 0


async def test_a_batch_counts_from_the_call(dispatcher):
    """A batch is counted before its task runs, so that one step does not give an engine too many."""
    engine = dispatcher.engines[0]
    slot = dispatcher.computing(engine)
    assert dispatcher.in_flight(engine) == 1
    with pytest.raises(ValueError, match="failed"), slot:
        raise ValueError("failed")
    assert dispatcher.in_flight(engine) == 0


async def test_tokenizing_engine(dispatcher):
    """Texts go to the ready engine with the fewest tokenizer calls; batches do not matter."""
    first, second = dispatcher.engines
    first.to("ready")
    second.to("ready")
    with dispatcher.computing(second), dispatcher.tokenizing(first):
        assert await dispatcher.tokenizing_engine() is second
    assert await dispatcher.tokenizing_engine() is first


async def test_texts_wait_while_an_engine_restarts(dispatcher):
    """Texts wait for an engine that is restarting, and fail as soon as none will be ready soon."""
    first, second = dispatcher.engines
    first.to("restarting", "the worker crashed")
    waiting = asyncio.ensure_future(dispatcher.tokenizing_engine())
    await all_quiet()
    assert not waiting.done()
    second.to("ready")
    assert await waiting is second
    second.to("restarting")
    waiting = asyncio.ensure_future(dispatcher.tokenizing_engine())
    await all_quiet()
    first.to("failed", "no such file")
    second.to("broken", "too often")
    with pytest.raises(WorkerGone, match="too often"):
        await waiting


async def test_state(dispatcher):
    """The model's state is the best of its engines'; the reason is empty while one is ready."""
    first, second = dispatcher.engines
    assert (dispatcher.state, dispatcher.worth_waiting) == ("loading", False)
    first.to("failed", "no such file")
    assert (dispatcher.state, dispatcher.reason) == ("loading", "the model is being loaded")
    second.to("searching", "it searches")
    assert (dispatcher.state, dispatcher.worth_waiting) == ("searching", True)
    second.to("ready", info=make_info())
    assert (dispatcher.ready, dispatcher.reason, dispatcher.info) == (True, "", make_info())
    assert repr(dispatcher) == "<Dispatcher [<ScriptedEngine failed>, <ScriptedEngine ready>]>"


async def test_listeners(dispatcher):
    """Each listener is called after every change of an engine."""
    seen = []
    dispatcher.subscribe(lambda: seen.append(dispatcher.state))
    for state in ("ready", "restarting"):
        dispatcher.engines[1].to(state)
    assert seen == ["ready", "restarting"]


def loaded(probe=1.0, **facts):
    """Return a model with these facts, whose probes have vectors in this direction."""
    vectors = np.array([[1, probe, 0, 0, 0, 0, 0, 0]], np.float32)
    return Loaded(make_info(**facts), {"dense": Column(vectors)})


async def test_one_embedding_space(dispatcher):
    """The first engine's fingerprint is the model's: an engine with another one is refused."""
    first, second = dispatcher.engines
    assert first.accepts(loaded(fingerprint="a")) == ""
    assert "embedding space has changed" in second.accepts(loaded(fingerprint="b"))
    assert second.accepts(loaded(fingerprint="a")) == ""
    assert dispatcher.add(ScriptedEngine).accepts(loaded(fingerprint="b"))


@pytest.mark.parametrize(
    ("facts", "says"),
    [
        ({"max_tokens": 128}, "max_tokens is 128, was 512"),
        ({"suffix": (1, 2)}, "suffix"),
        ({"prompts": {"query": "q: "}}, "prompts"),
        ({"vocabulary_size": 9, "pooling": "cls"}, "vocabulary_size is 9, was 258, pooling is cls, was none"),
        ({"takes_pairs": True}, "takes_pairs is True, was False"),
    ],
)
async def test_facts_that_have_changed(dispatcher, facts, says):
    """An engine that comes back with another limit, or another fact that inputs are prepared by, is refused."""
    first, second = dispatcher.engines
    assert first.accepts(loaded()) == ""
    assert second.accepts(loaded(**facts)) == f"its files have changed ({says})"


async def test_facts_that_may_differ(dispatcher):
    """Engines of one model may run on different devices, and take batches of different sizes."""
    first, second = dispatcher.engines
    first.accepts(loaded())
    assert second.accepts(loaded(device="cuda:1", max_batch_tokens=7, created=3, notes=("slow",))) == ""


async def test_other_vectors_than_the_first(dispatcher):
    """An engine that gives the probes other vectors than the first engine did is refused."""
    first, second = dispatcher.engines
    assert first.accepts(loaded()) == ""
    assert second.accepts(loaded(probe=1.00001)) == ""
    assert "what they gave before" in second.accepts(loaded(probe=-1.0))


async def test_readiness_during_a_search():
    """A model counts as ready while its engines search, but not for long; each time that one is ready counts anew."""
    now = 0.0
    dispatcher = Dispatcher(lambda: now)
    engine = dispatcher.add(ScriptedEngine)
    engine.to("ready")
    for _ in range(2):
        now += 1000
        engine.to("searching", "it searches")
        assert await dispatcher.unready() == ""
        now += SEARCH_READY_S - 1
        engine.to("searching", "it searches")
        assert await dispatcher.unready() == ""
        now += 1
        assert await dispatcher.unready() == "it searches"
        engine.to("ready")
        assert await dispatcher.unready() == ""


async def test_start_and_stop(dispatcher):
    """All engines are started, waited for and stopped; one that is added later is started at once."""
    dispatcher.start()
    await dispatcher.first_attempt()
    third = dispatcher.add(ScriptedEngine)
    await dispatcher.stop()
    assert [engine.log for engine in dispatcher.engines] == [
        ["start", "first_attempt", "stop"],
        ["start", "first_attempt", "stop"],
        ["start", "stop"],
    ]
    assert third.state == dispatcher.state == "stopped"


async def test_removed_engine_finishes_its_calls(dispatcher):
    """An engine that is removed gets no new call, and is stopped when its last one has ended."""
    first, second = dispatcher.engines
    first.to("ready")
    batch, texts = dispatcher.computing(first), dispatcher.tokenizing(first)
    removing = asyncio.ensure_future(dispatcher.remove(first))
    await all_quiet()
    assert dispatcher.engines == [second]
    assert dispatcher.free_engine(2) is None
    for call in (batch, texts):
        assert "stop" not in first.log
        with call:
            pass
        await all_quiet()
    await removing
    assert first.log == ["stop"]
    await dispatcher.remove(second)
    assert (dispatcher.state, dispatcher.reason) == ("stopped", "the model has no engine")


async def test_stop_while_an_engine_is_removed(dispatcher):
    """Stopping ends an engine that is being removed too, however long its calls last."""
    first, _ = dispatcher.engines
    first.to("ready")
    call = dispatcher.computing(first)
    removing = asyncio.ensure_future(dispatcher.remove(first))
    await all_quiet()
    await dispatcher.stop()
    assert first.state == "stopped"
    with call:
        pass
    await removing


@pytest.mark.parametrize(
    ("busy_seconds", "problem"), [(0.0, ""), (61.0, "for 61 s"), (None, "did not answer")]
)
async def test_unready(dispatcher, busy_seconds, problem):
    """A model is unready if no engine is ready, or a ready one does not answer or has computed too long."""
    first, second = dispatcher.engines
    first.to("restarting", "the worker crashed")
    assert await dispatcher.unready() == "the worker crashed"
    second.to("ready")
    second.busy_seconds = busy_seconds
    result = await dispatcher.unready()
    assert problem in result
    assert bool(result) == bool(problem)
