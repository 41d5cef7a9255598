"""Every input gets its own vector: thousands at once, in any order, in any company."""

from __future__ import annotations

import asyncio
import random

import numpy as np
import openai
import pytest

from tests.cosine import lowest_cosine
from tests.e2e.minilm import MINILM_PATH  # noqa: F401 - skips where the model is not installed
from tests.texts import WORDS, varied_texts

LONGEST = 230


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


@pytest.mark.parametrize("count", [5000])
def test_5000_inputs_give_5000_vectors_each_its_own(server, client, model, alike, count):
    """5000 inputs give 5000 vectors, in three requests or in 5000 at once, each equal to the one alone."""
    texts = mixed_texts(count)
    requests = [texts[:2048], texts[2048:4096], texts[4096:]]
    in_three = np.concatenate([embed(client, model, part) for part in requests])
    at_once = embed_concurrently(server, model, texts)
    alone = np.concatenate([embed(client, model, [text]) for text in texts])
    assert in_three.shape == at_once.shape == alone.shape == (count, 384)
    assert lowest_cosine(in_three, alone) >= alike
    assert lowest_cosine(at_once, alone) >= alike


def test_company_and_order_do_not_matter(client, model, alike):
    """Each of 200 texts has the same vector alone, in order, reversed, and shuffled among others."""
    texts = varied_texts(200)
    others = varied_texts(200, seed=1)
    alone = np.concatenate([embed(client, model, [text]) for text in texts])
    crowd = [*texts, *others]
    places = random.Random(2).sample(range(len(crowd)), len(crowd))
    shuffled = np.empty((len(crowd), alone.shape[1]), np.float32)
    shuffled[places] = embed(client, model, [crowd[place] for place in places])
    assert lowest_cosine(embed(client, model, texts), alone) >= alike
    assert lowest_cosine(embed(client, model, texts[::-1])[::-1], alone) >= alike
    assert lowest_cosine(shuffled[: len(texts)], alone) >= alike
