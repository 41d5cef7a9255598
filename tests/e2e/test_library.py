"""The real model without a server gives what it gives over HTTP."""

from __future__ import annotations

import numpy as np

from embeddings_gateway import Embedder
from embeddings_gateway.backends.invariance import BATCH_INVARIANCE
from tests.cosine import lowest_cosine
from tests.e2e.minilm import MINILM_PATH
from tests.texts import varied_texts


def test_vectors_are_those_of_the_gateway(client):
    """Vectors, space and tokens are the same with a server and without, for texts of all kinds."""
    texts = varied_texts(400)
    over_http = client.embeddings.with_raw_response.create(
        model="minilm", input=texts, extra_body={"truncate": "right"}
    )
    answer = over_http.parse()
    with Embedder({"models": {"minilm": {"backend": "hf", "path": str(MINILM_PATH)}}}) as embedder:
        result = embedder.embed(texts, truncate="right")
        dtype = client.models.retrieve("minilm").dtype
    expected = np.array([item.embedding for item in answer.data], np.float32)
    assert lowest_cosine(result.vectors, expected) >= BATCH_INVARIANCE[dtype]
    assert result.tokens == answer.usage.prompt_tokens
    assert result.space == over_http.headers["x-embedding-space"]
    quality = result.quality()
    assert (quality.texts, quality.dimensions, quality.non_finite) == (400, 384, 0)
    assert quality.norm_min > 0.999
    assert quality.near_duplicate_pairs > 0  # some of these texts are equal
