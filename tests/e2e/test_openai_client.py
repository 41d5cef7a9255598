"""The official OpenAI client against a running gateway, on both backends."""

from __future__ import annotations

import asyncio
import base64

import numpy as np
import openai
import pytest

from tests.cosine import lowest_cosine
from tests.e2e.minilm import MINILM_PATH
from tests.texts import varied_texts

tokenizers = pytest.importorskip("tokenizers")


def vectors(answer) -> np.ndarray:
    """Return the vectors of an answer, float32 ``[inputs, dimensions]``, after checking its form."""
    assert [item.index for item in answer.data] == list(range(len(answer.data)))
    return np.array([item.embedding for item in answer.data], dtype=np.float32)


def test_one_string_gives_one_unit_vector(client, model):
    """One string gives one vector of unit length, and usage counts the special tokens."""
    answer = client.embeddings.create(model=model, input="Hello, world")
    assert vectors(answer).shape == (1, 384)
    assert np.linalg.norm(vectors(answer)) == pytest.approx(1, abs=1e-4)
    assert answer.usage.prompt_tokens == answer.usage.total_tokens == 5
    assert (answer.object, answer.model, answer.data[0].object) == ("list", model, "embedding")


def test_base64_and_float_are_equal_bit_for_bit(client, model):
    """Both encodings decode to the same float32 numbers."""
    ask = {"model": model, "input": varied_texts(40), "extra_body": {"truncate": "right"}}
    floats = client.embeddings.create(**ask, encoding_format="float")
    raw = client.embeddings.with_raw_response.create(**ask, encoding_format="base64")
    data = raw.http_response.json()["data"]
    coded = [np.frombuffer(base64.b64decode(item["embedding"]), "<f4") for item in data]
    assert vectors(floats).tobytes() == np.stack(coded).tobytes()


def test_token_ids_give_the_vector_of_their_text(client, model, min_cosine):
    """Native token ids, in one array or in several, without special tokens or with them, are that text."""
    tokenizer = tokenizers.Tokenizer.from_file(str(MINILM_PATH / "tokenizer.json"))
    tokenizer.no_padding()
    texts = ["the quick brown fox", "jumps over the lazy dog"]
    bare = [tokenizer.encode(text, add_special_tokens=False).ids for text in texts]
    full = [tokenizer.encode(text).ids for text in texts]
    expected = vectors(client.embeddings.create(model=model, input=texts))
    one = vectors(client.embeddings.create(model=model, input=bare[0]))
    assert lowest_cosine(one, expected[:1]) >= min_cosine
    for ids in (bare, full):
        assert (
            lowest_cosine(vectors(client.embeddings.create(model=model, input=ids)), expected) >= min_cosine
        )


def test_dimensions_are_cut_and_renormalised(client):
    """A size that the model offers is the head of the full vector, at unit length."""
    full = vectors(client.embeddings.create(model="minilm", input="some text"))
    short = vectors(client.embeddings.create(model="minilm", input="some text", dimensions=64))
    assert short.shape == (1, 64)
    assert np.linalg.norm(short) == pytest.approx(1, abs=1e-6)
    np.testing.assert_allclose(short, full[:, :64] / np.linalg.norm(full[:, :64]), atol=1e-6)


def test_dimensions_are_those_of_sentence_transformers(client):
    """A size that the model offers is what sentence-transformers cuts, brought to unit length."""
    library = pytest.importorskip("sentence_transformers")
    model = library.SentenceTransformer(str(MINILM_PATH), device="cpu", truncate_dim=128)
    texts = ["The river runs past the bridge.", "prices of music", "Съешь ещё этих мягких булок"]
    cut = vectors(client.embeddings.create(model="minilm", input=texts, dimensions=128))
    assert np.linalg.norm(cut, axis=1) == pytest.approx(1, abs=1e-6)
    assert lowest_cosine(cut, model.encode(texts, normalize_embeddings=True)) >= 0.999


@pytest.mark.parametrize(("name", "size"), [("minilm", 100), ("minilm-gguf", 128), ("minilm", 1536)])
def test_dimensions_that_are_not_offered_are_refused(client, server, name, size):
    """A size that the model does not offer is 400, never a cut of somebody's invention."""
    if name not in {model.id for model in client.models.list()}:
        pytest.skip("the gguf extra is not installed")
    with pytest.raises(openai.BadRequestError) as caught:
        client.embeddings.create(model=name, input="text", dimensions=size)
    assert caught.value.param == "dimensions"


def test_an_alias_is_the_model(client):
    """An alias gives the same vectors and names the model that made them."""
    one = client.embeddings.create(model="minilm", input="text")
    other = client.embeddings.create(model="text-embedding-3-small", input="text")
    assert other.model == "minilm"
    assert lowest_cosine(vectors(one), vectors(other)) >= 0.99999


def test_models_are_listed_with_what_a_client_needs_to_choose(client, server):
    """The list and the single model carry OpenAI's fields and the facts of the model."""
    listed = {model.id: model for model in client.models.list()}
    minilm = client.models.retrieve("text-embedding-3-small")
    assert minilm == listed["minilm"]
    assert (minilm.object, minilm.owned_by) == ("model", "embeddings-gateway")
    facts = minilm.model_extra
    assert facts["dimensions"] == 384
    assert facts["supported_dimensions"] == [64, 128, 384]
    assert (facts["max_tokens"], facts["pooling"], facts["state"]) == (256, "mean", "ready")
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("no/such/model")


def test_partial_results_put_an_error_in_the_place_of_an_input(client, model, min_cosine):
    """With partial, an input that is too long costs the others nothing."""
    texts = ["short", "word " * 2000, "also short"]
    raw = client.embeddings.with_raw_response.create(
        model=model, input=texts, encoding_format="float", extra_body={"partial": True}
    )
    first, second, third = raw.http_response.json()["data"]
    assert [first["object"], second["object"], third["object"]] == [
        "embedding",
        "embedding_error",
        "embedding",
    ]
    assert second["index"] == 1
    assert second["error"]["code"] == "context_length_exceeded"
    alone = client.embeddings.create(model=model, input="also short")
    assert lowest_cosine(np.array([third["embedding"]]), vectors(alone)) >= min_cosine


def test_partial_results_of_empty_texts(client, model):
    """With partial, an empty text is an error in its place, also where there is nothing else."""
    for texts in (["a", ""], [""]):
        raw = client.embeddings.with_raw_response.create(
            model=model, input=texts, encoding_format="float", extra_body={"partial": True}
        )
        *others, last = raw.http_response.json()["data"]
        assert [entry["object"] for entry in others] == ["embedding"] * (len(texts) - 1)
        assert (last["object"], last["error"]["param"]) == ("embedding_error", f"input[{len(texts) - 1}]")


@pytest.mark.parametrize("side", ["right", "left"])
def test_truncation_is_disclosed(client, model, side):
    """A text that was cut is named in a header, and its vector is that of what was left."""
    words = [f"word{number}" for number in range(900)]
    raw = client.embeddings.with_raw_response.create(
        model=model, input=["short", " ".join(words)], extra_body={"truncate": side}
    )
    assert raw.headers["x-truncated-inputs"] == "1"
    assert vectors(raw.parse()).shape == (2, 384)
    untouched = client.embeddings.with_raw_response.create(model=model, input="short")
    assert "x-truncated-inputs" not in untouched.headers


def test_the_async_client_works_too(server):
    """The asynchronous client gets the same vectors."""

    async def ask():
        async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="x", max_retries=0) as client:
            return await asyncio.gather(
                *(client.embeddings.create(model="minilm", input=f"text {i}") for i in range(20))
            )

    got = asyncio.run(ask())
    assert len({item.data[0].embedding[0] for item in got}) == 20
