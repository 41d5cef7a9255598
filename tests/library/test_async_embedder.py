"""Models without a server, in an application's own event loop."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

from embeddings_gateway import AsyncEmbedder, log
from tests.gateway.fakes import WIDTH, vector_of
from tests.processes import SECONDS_MAX

MODEL = {"backend": "fault", "width": WIDTH, "seconds_per_token": 1e-5}


@pytest.fixture
async def embedder():
    """Return an open embedder."""
    async with AsyncEmbedder({"models": {"m": MODEL}}) as embedder:
        yield embedder


@pytest.mark.anyio
async def test_many_tasks(embedder):
    """Tasks use one embedder at the same time, and each gets its own vectors."""

    async def work(number):
        texts = [f"{number}/{text}" for text in range(300)]
        result = await embedder.embed(texts)
        return np.array_equal(result.vectors, [vector_of(text) for text in texts])

    assert all(await asyncio.gather(*map(work, range(10))))


@pytest.mark.anyio
async def test_warm_up(embedder):
    """Warming up waits until the models are loaded."""
    await embedder.warm_up()
    assert (await embedder.embed(["a"])).vectors.shape == (1, WIDTH)


@pytest.mark.anyio
async def test_a_task_that_is_cancelled(embedder):
    """A call that is cancelled takes its waiting texts with it, and others never notice."""
    begun = asyncio.Event()
    long = asyncio.create_task(
        embedder.embed(["x" * 100] * 50_000, truncate="right", progress=lambda done, _: done and begun.set())
    )
    await begun.wait()
    long.cancel()
    with pytest.raises(asyncio.CancelledError):
        await long
    result = await embedder.embed(["a"])
    assert np.array_equal(result.vectors, [vector_of("a")])


@pytest.mark.anyio
async def test_closed(embedder):
    """A closed embedder says that it is, to calls that wait as to later ones."""
    begun = asyncio.Event()
    waiting = asyncio.create_task(
        embedder.embed(["x" * 100] * 50_000, progress=lambda done, _: done and begun.set())
    )
    await begun.wait()
    await embedder.close()
    for call in (waiting, embedder.embed(["a"])):
        with pytest.raises(RuntimeError, match="closed"):
            await call


def test_another_loop():
    """An embedder is used in the loop that it was entered in, and entered once; anything else raises."""
    embedder = AsyncEmbedder({"models": {"m": MODEL}})

    async def begin():
        async with embedder:
            with pytest.raises(RuntimeError, match="another event loop"):
                await asyncio.to_thread(asyncio.run, embedder.embed(["a"]))

    asyncio.run(begin())
    with pytest.raises(RuntimeError, match="once"):
        asyncio.run(begin())


def test_old_names_of_settings(caplog):
    """A configuration given as data may have old names of settings, and each is logged as a warning."""
    embedder = AsyncEmbedder({"models": {"m": MODEL | {"queue_tokens": 9}}})
    assert embedder.config.models["m"].serving.max_queue_tokens == 9
    assert log.flush(SECONDS_MAX)
    (record,) = [record for record in caplog.records if "setting renamed" in record.getMessage()]
    assert (record.name, record.levelname) == ("embeddings_gateway", "WARNING")
    assert "old='queue_tokens' new='max_queue_tokens'" in record.getMessage()
