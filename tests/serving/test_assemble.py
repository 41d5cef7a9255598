"""Long work lets the event loop turn, and short work does not wait for it."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

from embeddings_gateway.config import ServingConfig
from embeddings_gateway.serving.ask import Ask
from embeddings_gateway.serving.cl100k import Cl100k
from embeddings_gateway.serving.pace import WORK_MAX, Pace
from embeddings_gateway.serving.preparer import Preparer
from embeddings_gateway.serving.prompts import NO_PROMPT
from embeddings_gateway.serving.vectors import Made, blank_all, cut_all
from tests.gateway.fakes import make_info

pytestmark = pytest.mark.anyio


class Turns:
    """Counts how often the event loop turns. An asynchronous context manager."""

    async def __aenter__(self):
        self.count = 0
        self._counting = asyncio.ensure_future(self._run())
        await asyncio.sleep(0)
        self.count = 0
        return self

    async def __aexit__(self, *_):
        self._counting.cancel()

    async def _run(self):
        while True:
            self.count += 1
            await asyncio.sleep(0)


async def test_pace():
    """The loop turns as soon as enough has been done since it last did, and not before."""
    pace = Pace()
    async with Turns() as turns:
        told = [await pace.after(WORK_MAX // 2) for _ in range(5)]
    assert told == [False, True, False, True, False]
    assert turns.count == 2


@pytest.mark.parametrize(("tokens", "least"), [(1, 2048 * 100 // WORK_MAX), (140, 2048 * 140 // WORK_MAX)])
async def test_prepares_many_inputs_in_turns(tokens, least):
    """The inputs of a large request are looked at in many turns of the loop."""
    preparer = Preparer(ServingConfig(token_ids="native"), 300_000, None, Cl100k())
    info = make_info(max_tokens=512)
    async with Turns() as turns:
        inputs = (await preparer.prepare(Ask([[1] * tokens] * 2048), info, NO_PROMPT)).rows
    assert len(inputs) == 2048
    assert turns.count >= least


async def test_prepares_few_inputs_at_once():
    """A small request does not wait for a turn of the loop."""
    preparer = Preparer(ServingConfig(token_ids="native"), 300_000, None, Cl100k())
    async with Turns() as turns:
        await preparer.prepare(Ask([[1, 2, 3]]), make_info(), NO_PROMPT)
    assert turns.count == 0


async def test_makes_room_for_many_vectors_in_turns():
    """The rows of a large request are made in many turns of the loop, and hold nothing yet."""
    async with Turns() as turns:
        rows = await blank_all(200, 1000)
    assert turns.count >= rows.size // WORK_MAX - 1
    assert rows.shape == (200, 1000)
    assert np.isnan(rows).all()


async def test_cuts_many_vectors_in_turns(metrics):
    """Dimensions of a large response are cut in many turns of the loop, each row as it would be alone."""
    width = 1024
    vectors = np.random.default_rng(1).standard_normal((200, width)).astype(np.float32)
    info = make_info(dimensions=width)
    async with Turns() as turns:
        short, _ = await cut_all(Made(vectors, {}), Ask(["a"], dimensions=256), info)
    assert turns.count >= vectors.size // WORK_MAX
    expected = vectors[:, :256] / np.linalg.norm(vectors[:, :256], axis=1, keepdims=True)
    assert np.allclose(short, expected, atol=1e-6)
