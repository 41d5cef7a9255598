"""Every input gets its own vector: thousands at once, in any order, whatever else is in the batch."""

from __future__ import annotations

import asyncio
import random

import numpy as np
import openai

from tests.cosine import lowest_cosine
from tests.e2e.minilm import MINILM_PATH  # noqa: F401 - skips where the model is not installed
from tests.texts import WORDS

LONGEST = 230
REQUEST = 2048
"""Inputs of the largest request."""
COUNT, SOME = 2100, 250


def mixed_texts(count: int) -> list[str]:
    """Return texts of which most are short, some are long, and no two are the same."""
    source = random.Random(1)
    lengths = source.choices((3, 6, 12, 25, 60, LONGEST), (30, 30, 20, 12, 6, 2), k=count)
    return [f"{number} " + " ".join(source.choices(WORDS, k=length)) for number, length in enumerate(lengths)]


def embed(client, model, texts) -> np.ndarray:
    """Embed texts in one request, cut to fit."""
    answer = client.embeddings.create(model=model, input=texts, extra_body={"truncate": "right"})
    assert [item.index for item in answer.data] == list(range(len(texts)))
    return np.array([item.embedding for item in answer.data], dtype=np.float32)


def embed_concurrently(server, model, texts) -> np.ndarray:
    """Embed each text in a request of its own, all of them at the same time."""

    async def ask() -> list[list[float]]:
        async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="x", timeout=600) as client:
            answers = await asyncio.gather(
                *(client.embeddings.create(model=model, input=text) for text in texts)
            )
        return [answer.data[0].embedding for answer in answers]

    return np.array(asyncio.run(ask()), dtype=np.float32)


def test_each_of_many_inputs_has_its_own_vector(server, client, model, min_cosine):
    """Each text has the same vector in the largest request, alone, and beside others that ask meanwhile."""
    texts = mixed_texts(COUNT)
    together = np.concatenate([embed(client, model, texts[:REQUEST]), embed(client, model, texts[REQUEST:])])
    assert together.shape == (COUNT, 384)
    some = random.Random(2).sample(range(COUNT), SOME)
    at_once = embed_concurrently(server, model, [texts[index] for index in some])
    alone = np.concatenate([embed(client, model, [texts[index]]) for index in some])
    assert lowest_cosine(together[some], alone) >= min_cosine
    assert lowest_cosine(at_once, alone) >= min_cosine
