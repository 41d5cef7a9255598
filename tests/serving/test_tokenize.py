"""Calls to a tokenizer that share a trip: each gets its own ids, and none another's failure."""

from __future__ import annotations

import asyncio

import pytest

from embeddings_gateway.errors import DeadlinePassed, InputFailed, InternalError, ModelUnavailable
from embeddings_gateway.serving.gathering import CHARS_MAX, Gathering
from tests.gateway.fakes import all_quiet

pytestmark = pytest.mark.anyio


class Tokenizer:
    """Answers with the texts themselves when the test says so.

    Attributes:
        calls: the texts of each call.
    """

    def __init__(self):
        self.calls = []
        self.answer = asyncio.get_running_loop().create_future()

    async def __call__(self, texts):
        """See :class:`embeddings_gateway.serving.gathering.Gathering`."""
        self.calls.append(list(texts))
        await asyncio.shield(self.answer)
        return [InputFailed("bad") if text == "bad" else text for text in texts]


@pytest.fixture
async def gathered():
    """Return a tokenizer, and the gathering in front of it."""
    tokenizer = Tokenizer()
    return tokenizer, Gathering(tokenizer)


def ask(gathering, *requests):
    """Call for each request in the same turn."""
    return [asyncio.ensure_future(gathering(texts)) for texts in requests]


async def test_one_call_for_one_turn(gathered):
    """Calls of the same turn are made as one, and each gets the ids of its own texts."""
    tokenizer, gathering = gathered
    asked = ask(gathering, ["a"], ["b", "c"], ["d"])
    await all_quiet()
    assert tokenizer.calls == [["a", "b", "c", "d"]]
    tokenizer.answer.set_result(None)
    assert await asyncio.gather(*asked) == [["a"], ["b", "c"], ["d"]]


async def test_later_turns_do_not_wait(gathered):
    """A call of a later turn is made at once, whether the earlier one was answered or not."""
    tokenizer, gathering = gathered
    first = ask(gathering, ["a"])
    await all_quiet()
    second = ask(gathering, ["b"])
    await all_quiet()
    assert tokenizer.calls == [["a"], ["b"]]
    tokenizer.answer.set_result(None)
    assert await asyncio.gather(*first, *second) == [["a"], ["b"]]


async def test_large_ones_travel_alone(gathered):
    """A call is not made larger than its bound by a neighbour."""
    tokenizer, gathering = gathered
    large = ["x" * CHARS_MAX]
    ask(gathering, ["a"], large, ["b"], ["c"])
    await all_quiet()
    assert tokenizer.calls == [["a"], large, ["b", "c"]]


async def test_bad_text(gathered):
    """A text that fails is the failure of its own request."""
    tokenizer, gathering = gathered
    asked = ask(gathering, ["a"], ["bad"], ["b"])
    tokenizer.answer.set_result(None)
    first, second, third = await asyncio.gather(*asked)
    assert (first, third) == (["a"], ["b"])
    assert isinstance(second[0], InputFailed)


async def test_lost_call(gathered):
    """A call that fails as a whole fails all that share it, and no later one."""
    tokenizer, gathering = gathered
    asked = ask(gathering, ["a"], ["b"])
    await all_quiet()
    tokenizer.answer.set_exception(ModelUnavailable("gone"))
    for one in asked:
        with pytest.raises(ModelUnavailable):
            await one
    tokenizer.answer = asyncio.get_running_loop().create_future()
    tokenizer.answer.set_result(None)
    assert await gathering(["c"]) == ["c"]


async def test_given_up(gathered):
    """One that gives up does not take its neighbours with it, before the call or during it."""
    tokenizer, gathering = gathered
    early, late, stays = ask(gathering, ["a"], ["b"], ["c"])
    await asyncio.sleep(0)
    early.cancel()
    await all_quiet()
    late.cancel()
    await all_quiet()
    tokenizer.answer.set_result(None)
    assert await stays == ["c"]
    assert early.cancelled()
    assert late.cancelled()


async def test_refused_and_asked_again(gathered):
    """Who asks in the turn in which those before are refused is refused as well, and not left waiting."""
    _, gathering = gathered
    gathering._ready = lambda: False
    early = ask(gathering, ["a"])
    await all_quiet()
    late = ask(gathering, ["b"])  # which takes its first step behind this one
    gathering.refuse(lambda: ModelUnavailable("gone"))
    for one in early + late:
        with pytest.raises(ModelUnavailable):
            await one


async def test_mistake_of_ours(gathered):
    """A call that fails in a way that nobody foresaw fails each that shares it with a fixed sentence."""
    tokenizer, gathering = gathered
    tokenizer.answer.set_exception(UnicodeEncodeError("utf-8", "a secret", 0, 1, "no"))
    for one in ask(gathering, ["a"], ["b"]):
        with pytest.raises(InternalError):
            await one


@pytest.mark.parametrize("error", [InternalError(), DeadlinePassed(), ModelUnavailable("gone", None, 5)])
def test_errors_can_be_shared(error):
    """Of any error there can be one more, about another field."""
    other = error.about("input[3]")
    assert (type(other), other.param, error.param) == (type(error), "input[3]", None)
    assert (other.message, other.retry_after, str(other)) == (error.message, error.retry_after, str(error))
