"""Texts of one turn of the loop share a tokenizer call: each has its own ids, and its own failure."""

from __future__ import annotations

import asyncio
from collections import Counter

import numpy as np
import pytest

from embeddings_gateway.backends.base import Batch
from embeddings_gateway.errors import DeadlinePassed, InputFailed, InternalError, ModelUnavailable
from embeddings_gateway.serving.prepare.tokenize import (
    MAX_OPEN_CHARS,
    MAX_SHARED_CHARS,
    SLICE_CHARS,
    SMALL_CHARS,
    TokenizeCoalescer,
)
from embeddings_gateway.workers.engine import CallFailed, TokenizeResult, WorkerCrashed, WorkerGone
from embeddings_gateway.workers.isolation import SEARCH_CRASHES_MAX, Quarantine
from tests.gateway.fakes import BACKEND, HeldEngine, all_quiet, make_dispatcher

pytestmark = pytest.mark.anyio


def make_tokenizer(*engines):
    """Return a tokenizer of these engines."""
    return TokenizeCoalescer(
        "m", make_dispatcher(*engines), Quarantine(), lambda: ModelUnavailable("gone", "model", 5)
    )


@pytest.fixture
async def held():
    """Return an engine that tokenizes when its gate opens, and the tokenizer in front of it."""
    engine = HeldEngine()
    engine.gate.clear()
    return engine, make_tokenizer(engine)


def ask(tokenizer, *requests):
    """Call for each request in the same turn."""
    return [asyncio.ensure_future(tokenizer.tokenize(texts)) for texts in requests]


def texts_of(tokenized):
    """Return the texts that ids stand for."""
    return [bytes(ids[1:-1].tolist()).decode() for ids in tokenized.batch.split()]


def failing(mark, error=CallFailed):
    """Return a tokenizer that fails on texts with a mark, and the list of its failures."""
    failures = []

    def tokenize(texts, pairs):
        if any(mark in text for text in texts):
            failures.append(len(texts))
            raise error("it fails")
        return BACKEND.tokenize(texts, pairs)

    return tokenize, failures


async def test_one_call_for_one_turn(held):
    """Texts of one turn are one call, and each request gets its own ids; a later turn does not wait for it."""
    engine, tokenizer = held
    calls = ask(tokenizer, ["a"], ["b", "c"], ["d"])
    await all_quiet()
    calls += ask(tokenizer, ["e"])
    await all_quiet()
    assert engine.texts == [["a", "b", "c", "d"], ["e"]]
    engine.gate.set()
    assert [texts_of(one) for one in await asyncio.gather(*calls)] == [["a"], ["b", "c"], ["d"], ["e"]]
    await all_quiet()
    assert repr(tokenizer) == "<TokenizeCoalescer 0 waiting, 0 calls>"


async def test_large_ones_travel_alone(held):
    """Texts of several requests share a call only up to its limit, so that none waits for long texts."""
    engine, tokenizer = held
    large = ["x" * MAX_SHARED_CHARS]
    ask(tokenizer, ["a"], large, ["b"], ["c"])
    await all_quiet()
    assert engine.texts == [["a", "b", "c"], large]


async def test_open_calls_are_bounded(held):
    """A worker never has more than so many characters; what waits is forgotten if its client leaves."""
    engine, tokenizer = held
    slices = [[f"{number}" * SLICE_CHARS] for number in range(9)]
    calls = ask(tokenizer, *slices)
    await all_quiet()
    assert engine.texts == slices[: MAX_OPEN_CHARS // SLICE_CHARS]
    for call in calls[:-1]:
        call.cancel()
    engine.gate.set()
    assert texts_of(await calls[-1]) == slices[-1]
    assert engine.texts == [*slices[: MAX_OPEN_CHARS // SLICE_CHARS], slices[-1]]
    await all_quiet()
    assert repr(tokenizer) == "<TokenizeCoalescer 0 waiting, 0 calls>"


async def test_short_texts_wait_for_no_long_ones(held):
    """Small texts wait for no others; of larger ones the shorter go first, and one that is very long is alone."""
    engine, tokenizer = held
    longest = [["x" * (SLICE_CHARS + 1)], ["y" * 10 * SLICE_CHARS]]
    slices = [[f"{number}" * SLICE_CHARS] for number in range(4)]
    ask(tokenizer, *longest, *slices)
    await all_quiet()
    assert engine.texts == [slices[0], longest[0]]
    shorter = ["z" * SMALL_CHARS]
    ask(tokenizer, shorter, ["small"])
    await all_quiet()
    assert engine.texts[2:] == [["small"], shorter]
    engine.gate.set()
    await all_quiet()
    assert longest[1] in engine.texts
    assert [texts for texts in engine.texts[4:] if texts != longest[1]] == slices[1:]


async def test_long_texts_do_not_starve(held):
    """However many shorter texts come, a slice has its turn when as many characters of each were served."""
    engine, tokenizer = held
    slices = [[f"{number}" * SLICE_CHARS] for number in range(3)]
    ask(tokenizer, *slices)
    await all_quiet()
    ask(tokenizer, ["x" * SMALL_CHARS])
    engine.gate.set()
    for _ in range(3 * SLICE_CHARS // SMALL_CHARS):
        await asyncio.sleep(0)
        ask(tokenizer, ["x" * SMALL_CHARS])
        if slices[2] in engine.texts:
            break
    else:
        pytest.fail("the slice was never served")


async def test_nobody_waits(held):
    """A call that nobody waits for is cancelled, and holds the room of its request until the worker is done."""
    engine, tokenizer = held
    done = asyncio.Event()

    async def tokenize(texts, pairs, part):
        engine.texts.append(texts)
        try:
            await engine.gate.wait()
        except asyncio.CancelledError:
            await done.wait()
            raise
        return TokenizeResult(BACKEND.tokenize(texts, pairs))

    engine.tokenize = tokenize
    work = []
    leaves, goes_on = ["x" * SLICE_CHARS], ["y"]
    call = asyncio.ensure_future(tokenizer.tokenize(leaves, hold=lambda *held: work.append(held)))
    shared = ask(tokenizer, goes_on, ["z"])
    await all_quiet()
    call.cancel()
    shared[0].cancel()
    await all_quiet()
    ((held_by, chars),) = work
    assert (call.cancelled(), held_by.done(), chars) == (True, False, SLICE_CHARS)
    done.set()
    await all_quiet()
    assert held_by.cancelled()
    engine.gate.set()
    assert texts_of(await shared[1]) == ["z"]
    assert repr(tokenizer) == "<TokenizeCoalescer 0 waiting, 0 calls>"


async def test_declined_text(held):
    """A text that the tokenizer declines is refused with the reason, without a search for it."""
    engine, tokenizer = held
    engine.gate.set()

    async def tokenize(texts, pairs, part):
        engine.texts.append(texts)
        return TokenizeResult(BACKEND.tokenize(texts, pairs), {1: "it is too odd"})

    engine.tokenize = tokenize
    tokenized = await tokenizer.tokenize(["a", "bad", "c"])
    assert texts_of(tokenized) == ["a", "", "c"]
    assert {text: (type(error), error.message) for text, error in tokenized.errors.items()} == {
        1: (InputFailed, "The model's tokenizer cannot take this input: it is too odd.")
    }
    assert len(engine.texts) == 1


async def test_pairs_share_no_call(held):
    """Pairs are calls of their own, between those of texts."""
    engine, tokenizer = held
    engine.gate.set()
    calls = ask(tokenizer, ["a"])
    calls += [asyncio.ensure_future(tokenizer.tokenize([text], ["second"])) for text in "bc"]
    calls += ask(tokenizer, ["d"], ["e"])
    pairs = (await asyncio.gather(*calls))[1:3]
    assert engine.texts == [["a"], ["b"], ["c"], ["d", "e"]]
    expected = BACKEND.tokenize(["b", "c"], ["second"] * 2)
    assert np.array_equal(np.concatenate([pair.batch.ids for pair in pairs]), expected.ids)
    assert np.array_equal(np.concatenate([pair.batch.segments for pair in pairs]), expected.segments)


async def test_bad_text(held):
    """A text that the tokenizer fails on fails only its own input, in its own request."""
    engine, tokenizer = held
    engine.tokenizer, _ = failing("bad")
    engine.gate.set()
    first, second, third = await asyncio.gather(*ask(tokenizer, ["a"], ["b", "bad", "c"], ["d"]))
    assert (texts_of(first), texts_of(second), texts_of(third)) == (["a"], ["b", "", "c"], ["d"])
    assert {text: type(error) for text, error in second.errors.items()} == {1: InputFailed}
    assert not first.errors


async def test_bad_pair(held):
    """If the tokenizer fails on pairs, the pair at fault is found, and the others keep both texts."""
    engine, tokenizer = held
    engine.tokenizer, _ = failing("bad")
    engine.gate.set()
    tokenized = await tokenizer.tokenize(["a", "bad", "c"], ["x", "y", "z"])
    assert list(tokenized.errors) == [1]
    expected = BACKEND.tokenize(["a", "c"], ["x", "z"])
    assert np.array_equal(tokenized.batch.ids, expected.ids)
    assert np.array_equal(tokenized.batch.segments, expected.segments)


@pytest.mark.parametrize("more", [-1, 1])
async def test_a_tokenizer_that_loses_texts(held, more):
    """Ids of fewer texts than were sent, or of more, are a failure, never a shorter result."""
    engine, tokenizer = held
    engine.tokenizer = lambda texts, _: Batch.of([np.array([1], np.int32)] * (len(texts) + more))
    engine.gate.set()
    tokenized = await tokenizer.tokenize(["a", "b", "c"])
    assert {type(error) for error in tokenized.errors.values()} == {InputFailed}
    assert len(tokenized.errors) == len(tokenized.batch) == 3


async def test_killer_is_remembered(held):
    """A text that crashes a worker is found once; the same again costs no worker."""
    engine, tokenizer = held
    engine.tokenizer, crashes = failing("bad", WorkerCrashed)
    engine.gate.set()
    for _ in range(2):
        tokenized = await tokenizer.tokenize([*"abcdefgh", "bad"])
        assert list(tokenized.errors) == [8]
    assert crashes == [9, 9, 1, 1]
    assert engine.exonerated == 4


async def test_too_many_killers(held):
    """A search among texts is bounded: found texts get their error, unknown ones 503."""
    engine, tokenizer = held
    engine.tokenizer, crashes = failing("bad", WorkerCrashed)
    engine.gate.set()
    tokenized = await tokenizer.tokenize(["fine", *(f"bad {number}" for number in range(63))])
    assert len(crashes) <= SEARCH_CRASHES_MAX + 3
    assert Counter(map(type, tokenized.errors.values())).keys() == {InputFailed, ModelUnavailable}


@pytest.mark.parametrize("others", [1, 0])
async def test_lost_worker(others):
    """Texts of a worker that goes away go to another one, or are refused if none is coming."""
    engine, *rest = engines = [HeldEngine() for _ in range(1 + others)]

    def lose(*_):
        engine.to("broken")
        raise WorkerGone

    engine.tokenizer = lose
    tokenized = await make_tokenizer(*engines).tokenize(["a", "b"])
    if rest:
        assert texts_of(tokenized) == ["a", "b"]
    else:
        assert {type(error) for error in tokenized.errors.values()} == {ModelUnavailable}


async def test_texts_wait_for_an_engine(held):
    """While no engine is ready texts wait, and then share a call; those of cancelled requests are dropped."""
    engine, tokenizer = held
    engine.gate.set()
    engine.to("restarting")
    stays, leaves = ask(tokenizer, ["a"], ["b"])
    await all_quiet()
    more = ask(tokenizer, ["c"])
    leaves.cancel()
    await all_quiet()
    assert repr(tokenizer) == "<TokenizeCoalescer 2 waiting, 0 calls>"
    engine.to("ready")
    assert [texts_of(one) for one in await asyncio.gather(stays, *more)] == [["a"], ["c"]]
    assert engine.texts == [["a", "c"]]


async def test_search_that_nobody_waits_for(held):
    """A search for a text that ends workers ends when the last request for the texts has left."""
    engine, tokenizer = held
    tokenizer_runs = []

    def crash(texts, pairs=None):
        tokenizer_runs.append(len(texts))
        engine.gate.clear()
        raise WorkerCrashed("signal SIGABRT")

    engine.gate.set()
    engine.tokenizer = crash
    requests = ask(tokenizer, ["a", "b"], ["c"])
    await all_quiet()
    for request in requests:
        request.cancel()
    await all_quiet()
    engine.gate.set()
    await all_quiet()
    assert tokenizer_runs == [3, 3]  # the step that had begun, and no other
    assert repr(tokenizer) == "<TokenizeCoalescer 0 waiting, 0 calls>"


async def test_no_engine_is_coming(held):
    """When no engine will be ready soon, waiting requests are refused, and so are those of the same turn."""
    engine, tokenizer = held
    engine.to("restarting")
    early = ask(tokenizer, ["a"])
    await all_quiet()
    late = ask(tokenizer, ["b"])  # which takes its first step behind this one
    engine.to("failed")
    for one in early + late:
        with pytest.raises(ModelUnavailable):
            await one


async def test_cancelled(held):
    """A request that is cancelled does not affect others in its call, before the call or during it."""
    engine, tokenizer = held
    early, late, stays = ask(tokenizer, ["a"], ["b"], ["c"])
    await asyncio.sleep(0)
    early.cancel()
    await all_quiet()
    late.cancel()
    await all_quiet()
    engine.gate.set()
    assert texts_of(await stays) == ["c"]
    assert early.cancelled()
    assert late.cancelled()


async def test_bug(held):
    """An unexpected error fails each request of the shared call with a fixed sentence."""
    engine, tokenizer = held
    engine.gate.set()

    def fail(*_):
        raise UnicodeEncodeError("utf-8", "a secret", 0, 1, "no")

    engine.tokenizer = fail
    for one in ask(tokenizer, ["a"], ["b"]):
        with pytest.raises(InternalError):
            await one


@pytest.mark.parametrize("error", [InternalError(), DeadlinePassed(), ModelUnavailable("gone", None, 5)])
def test_errors_can_be_shared(error):
    """Of any error there can be one more, about another field."""
    other = error.about("input[3]")
    assert (type(other), other.param, error.param) == (type(error), "input[3]", None)
    assert (other.message, other.retry_after, str(other)) == (error.message, error.retry_after, str(error))
