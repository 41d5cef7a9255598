"""The texts of a call in slices: little at once, nothing in vain, and what is hopeless not at all."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from embeddings_gateway.backends.base import TokenSpan
from embeddings_gateway.errors import ContextLengthExceeded, InputFailed, TooManyTokens
from embeddings_gateway.serving.prepare.policies import NO_PROMPT, Prompt
from embeddings_gateway.serving.prepare.prepare import LONG_CHARS
from embeddings_gateway.serving.prepare.slices import MIN_PART_CHARS, SLICE_CHARS
from embeddings_gateway.serving.prepare.tally import least_tokens
from embeddings_gateway.workers.engine import CallFailed
from tests.gateway.fakes import BACKEND, all_quiet, make_info
from tests.serving.test_prepare import make_call, make_preparer

pytestmark = pytest.mark.anyio

LONG = 2 * MIN_PART_CHARS + 1


@pytest.fixture
async def model():
    """Return a preparer and its engine."""
    preparer = make_preparer(max_tokens=100_000)
    (engine,) = preparer._tokenizer._dispatcher.engines
    engine.tokenizer = BACKEND.tokenize
    return preparer, engine


def chars(engine):
    """Return the characters of each tokenizer call."""
    return [sum(map(len, texts)) for texts in engine.texts]


async def test_one_slice_after_the_other(model):
    """The texts of a call are tokenized in slices, one after the other, and become one batch in order."""
    preparer, engine = model
    texts = [f"{number % 10}" * 90 for number in range(1000)]
    prepared = await preparer.prepare(make_call(texts), make_info(max_tokens=100), NO_PROMPT)
    assert np.array_equal(prepared.batch.ids, BACKEND.tokenize(texts).ids)
    assert max(chars(engine)) <= SLICE_CHARS
    assert len(engine.texts) == 3


@pytest.mark.parametrize(
    ("inputs", "error"),
    [
        (["x" * 90] * 1200 + ["é"] * 40_000, TooManyTokens),
        (["é" * 99, *["x" * 90] * 900], ContextLengthExceeded),
    ],
)
async def test_refused_after_the_slice_that_shows_it(model, inputs, error):
    """A call is refused as soon as it is known that it must be, and the rest of it is not tokenized."""
    preparer, engine = model
    with pytest.raises(error):
        await preparer.prepare(make_call(inputs), make_info(max_tokens=100), NO_PROMPT)
    assert sum(chars(engine)) < sum(map(len, inputs)) - SLICE_CHARS // 2


async def test_nothing_more_for_a_client_that_has_left(model):
    """When a call is cancelled, what it has not sent to a worker is never sent."""
    preparer, engine = model
    engine.gate.clear()
    call = make_call(["x" * 90] * 1000)
    preparing = asyncio.ensure_future(preparer.prepare(call, make_info(max_tokens=100), NO_PROMPT))
    await all_quiet()
    preparing.cancel()
    engine.gate.set()
    await all_quiet()
    assert len(engine.texts) == 1
    assert preparing.cancelled()


@pytest.mark.parametrize("policy", ["right", "left", "error"])
async def test_only_what_matters(model, policy):
    """Of a long text only the part that decides is tokenized."""
    preparer, engine = model
    text = "".join(chr(0xC0 + index % 50) for index in range(10 * LONG))
    call, info = make_call([text], truncate=policy), make_info(max_tokens=100)
    if policy == "error":
        with pytest.raises(ContextLengthExceeded, match="at least"):
            await preparer.prepare(call, info, NO_PROMPT)
    else:
        prepared = await preparer.prepare(call, info, NO_PROMPT)
        ids = BACKEND.tokenize([text]).ids
        kept = ids[1:99] if policy == "right" else ids[-99:-1]
        assert prepared.batch.ids[1:-1].tolist() == kept.tolist()
        assert prepared.truncated == [0]
    assert sum(chars(engine)) < LONG


async def test_windows_of_a_text_of_many_slices(model):
    """All of a long text is in its windows, which never holds more than a slice of it in a worker at once."""
    preparer, engine = model
    text = "".join(chr(0xC0 + index % 50) for index in range(49_000))
    prepared = await preparer.prepare(
        make_call([text], truncate="mean"), make_info(max_tokens=100), NO_PROMPT
    )
    assert np.concatenate([ids[1:-1] for ids in prepared.batch.split()]).tolist() == list(text.encode())
    assert max(chars(engine)) <= SLICE_CHARS + LONG


async def test_a_text_that_cannot_be_divided(model):
    """Where a tokenizer cannot divide texts, each is tokenized as a whole."""
    preparer, engine = model
    info = make_info(max_tokens=100, divides_texts=False)
    text = "é" * LONG
    prepared = await preparer.prepare(make_call([text, "a"], truncate="right"), info, NO_PROMPT)
    assert prepared.batch.lengths.tolist() == [100, 3]
    assert engine.texts[0] == [text]


async def test_a_rest_that_cannot_be_divided(model):
    """A long text is tokenized as a whole if nothing is certain of its rest, however much of it a worker gets."""
    preparer, engine = model
    tokenize = engine.tokenize

    async def uncertain(texts, pairs, part):
        result = await tokenize(texts, pairs, part)
        return result._replace(certain=(part.begin, part.begin)) if part and part.begin else result

    engine.tokenize = uncertain
    text = "".join(chr(0xC0 + index % 50) for index in range(49_000))
    async with asyncio.timeout(30):
        prepared = await preparer.prepare(
            make_call([text], truncate="mean"), make_info(max_tokens=100), NO_PROMPT
        )
    assert np.concatenate([ids[1:-1] for ids in prepared.batch.split()]).tolist() == list(text.encode())
    assert engine.texts[-1] == [text]


async def test_a_part_that_fails(model):
    """A long text whose part fails is refused by name, and the others are not."""
    preparer, engine = model

    async def fail(texts, pairs, part):
        if part is not None:
            raise CallFailed("no")
        return await tokenize(texts, pairs, part)

    tokenize, engine.tokenize = engine.tokenize, fail
    call = make_call(["a", "é" * LONG, "b"], truncate="left", partial=True)
    prepared = await preparer.prepare(call, make_info(max_tokens=100), NO_PROMPT)
    assert {row: (type(error), error.param) for row, error in prepared.errors.items()} == {
        1: (InputFailed, "input[1]")
    }
    assert prepared.batch.lengths.tolist() == [3, 0, 3]


async def test_hopeless(model):
    """What is certainly too long is refused before anything is tokenized, also in pairs, and also beside others."""
    preparer, engine = model
    info = make_info(max_tokens=100)
    long = "x" * (LONG_CHARS + 1)
    for inputs in (["a", long], [("a", "b"), (long, "c")]):
        with pytest.raises(ContextLengthExceeded, match="at least") as refusal:
            await preparer.refuse_certainly_too_long(make_call(inputs), info)
        assert refusal.value.param == "input[1]"
    for options in ({}, {"truncate": "right"}, {"truncate": "mean"}):
        with pytest.raises(TooManyTokens):
            await preparer.refuse_certainly_too_long(make_call(["x" * 98] * 1100, **options), info)
    call = await preparer.refuse_certainly_too_long(make_call(["a", long, "b"], partial=True), info)
    assert {index: type(error) for index, error in call.refused.items()} == {1: ContextLengthExceeded}
    assert engine.texts == []
    fits = make_call(["é" * LONG], truncate="right")
    assert await preparer.refuse_certainly_too_long(fits, info) is fits


async def test_windows_are_counted_before_they_are_made(model):
    """Where a prompt leaves little room, a text has many windows, and more than a call may have are never made."""
    preparer, _ = model
    info = make_info(max_tokens=100, prompts={"query": "Q" * 97})
    with pytest.raises(TooManyTokens):
        await preparer.prepare(make_call(["x" * 1100], truncate="mean"), info, Prompt("query", "Q" * 97))


@pytest.mark.parametrize(
    ("text", "words", "signs", "seen"),
    [
        ("", 0, 0, 0),
        ("one two", 2, 0, 6),
        ("  a\n b !? \t", 3, 2, 4),
        ("é ü", 0, 0, 0),
        ("a\u3000b\u00a0c", 1, 0, 3),
        ("\x00a\x7f b", 2, 0, 2),
        (" " * 1000, 0, 0, 0),
    ],
)
def test_least_tokens(text, words, signs, seen):
    """Only what certainly counts is counted: visible ASCII, its signs, and its words between blanks."""
    assert least_tokens(text, TokenSpan(words=1)) == words
    assert least_tokens(text, TokenSpan(signs=1)) == signs
    assert least_tokens(text, TokenSpan(chars=1)) == seen
    assert least_tokens(text, TokenSpan(words=1, signs=1, chars=3)) == max(words, signs, -(-seen // 3))
    assert least_tokens(text, TokenSpan()) == 0


@given(st.text())
def test_least_tokens_of_bytes(text):
    """No text has fewer bytes than is said."""
    assert least_tokens(text, TokenSpan(words=1, signs=1, chars=1)) <= len(text.encode())
