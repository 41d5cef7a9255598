"""The truth about a model: texts, all different, and their vectors."""

from __future__ import annotations

import base64
import random
from collections.abc import Sequence
from typing import Protocol

import httpx
import numpy as np

from bench.texts import make_texts
from embeddings_gateway.backends.base import Vectors
from embeddings_gateway.backends.fake import BEGIN, END, fake_vector
from tests.cosine import lowest_cosine, unit
from tests.faults.connection import Reply
from tests.server import Server

WAIT_S = 120
REQUEST = 512


class Truth(Protocol):
    """Texts for one model, and whether vectors are theirs."""

    model: str

    def texts(self, number: int, count: int) -> list[str]:
        """Return the texts of the request with this number; requests at the same time share none."""

    def right(self, texts: Sequence[str], vectors: Vectors) -> bool:
        """Tell whether row i, float32 ``[n, d]``, is the vector of text i."""


class Computed:
    """Of the ``fake`` and the ``fault`` backend: their vectors are known exactly.

    Args:
        chars: how long the texts are, in turn, in characters of one byte.
    """

    def __init__(self, model: str, width: int = 8, chars: Sequence[int] = (20, 70, 30, 110, 45)) -> None:
        self.model = model
        self._width = width
        self._chars = chars

    def texts(self, number: int, count: int) -> list[str]:
        """See :class:`Truth`."""
        chars = self._chars
        return [f"{number}/{i} ".ljust(chars[(number + i) % len(chars)], ".") for i in range(count)]

    def right(self, texts: Sequence[str], vectors: Vectors) -> bool:
        """See :class:`Truth`."""
        ids = (np.array([BEGIN, *text.encode(), END], np.int32) for text in texts)
        return np.array_equal(np.stack([fake_vector(each, self._width) for each in ids]), vectors)


class Remembered:
    """Of a real model: what it gave for the same texts before, in the same gateway and undisturbed.

    Args:
        min_cosine: the least cosine of two vectors of one text.
        texts: which are asked for in turn.
    """

    def __init__(self, server: Server, model: str, min_cosine: float, texts: Sequence[str]) -> None:
        self.model = model
        self._min_cosine = min_cosine
        self._texts = texts
        self._places = {text: place for place, text in enumerate(texts)}
        parts = [texts[at : at + REQUEST] for at in range(0, len(texts), REQUEST)]
        self._vectors = np.concatenate([self._ask(server, part) for part in parts])
        likeness = unit(self._vectors) @ unit(self._vectors).T
        np.fill_diagonal(likeness, 0)
        assert likeness.max() < min_cosine, "two texts that cannot be told apart"

    def _ask(self, server: Server, texts: Sequence[str]) -> Vectors:
        body = {"model": self.model, "input": texts, "truncate": "right"}
        answer = httpx.post(f"{server.url}/v1/embeddings", json=body, timeout=WAIT_S)
        return np.array([entry["embedding"] for entry in answer.json()["data"]], np.float32)

    def texts(self, number: int, count: int) -> list[str]:
        """See :class:`Truth`."""
        return [self._texts[(number * count + i) % len(self._texts)] for i in range(count)]

    def right(self, texts: Sequence[str], vectors: Vectors) -> bool:
        """See :class:`Truth`."""
        expected = self._vectors[[self._places[text] for text in texts]]
        return lowest_cosine(vectors, expected) >= self._min_cosine


def different_texts(count: int) -> list[str]:
    """Return texts for a real model: most of them a sentence, an eighth several."""
    several = count // 8
    texts = [*make_texts("mixed", range(several)), *make_texts("short", range(several, count))]
    random.Random(0).shuffle(texts)
    return texts


def vectors_of(reply: Reply) -> Vectors:
    """Return the vectors of an answer in base64, float32 ``[n, d]``, after checking its form."""
    answer = reply.json()
    data = answer["data"]
    assert answer["object"] == "list"
    assert [entry["index"] for entry in data] == list(range(len(data)))
    assert {entry["object"] for entry in data} == {"embedding"}
    return np.stack([vector_of(entry) for entry in data])


def vector_of(entry: dict[str, str]) -> Vectors:
    """Return the vector of one entry in base64, float32 ``[d]``."""
    return np.frombuffer(base64.b64decode(entry["embedding"]), "<f4")
