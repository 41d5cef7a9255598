"""LangChain's ``OpenAIEmbeddings`` with its defaults, by which it sends token ids of OpenAI's vocabulary."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

from tests.clients import needs
from tests.clients.conftest import EXACT
from tests.cosine import lowest_cosine
from tests.server import serving
from tests.texts import CHINESE, EMOJI, OTHER_SCRIPTS, varied_texts

openai = needs.package("openai")
tiktoken = needs.package("tiktoken")
langchain_openai = needs.package("langchain_openai")
vectorstores = needs.package("langchain_core.vectorstores")

RARE = ("𓀀𓁐𓂀 hieroglyphs", "ꦲꦏ꧀ꦱꦫꦗꦮ", "ᚠᚢᚦᚨᚱᚲ runes", "ⴰⵎⴰⵣⵉⵖ", "龘 and 饕餮")


@pytest.fixture
def embeddings(base_url):
    """Return a function that makes embeddings with its defaults, but for URL, key, and what it is given."""

    def make(**settings):
        return langchain_openai.OpenAIEmbeddings(base_url=base_url, api_key="not-needed", **settings)

    return make


@pytest.fixture
def cl100k(embeddings):
    """Return the vocabulary that LangChain uses."""
    return tiktoken.get_encoding("cl100k_base")


@pytest.mark.parametrize("settings", [{}, {"check_embedding_ctx_length": False}], ids=["ids", "texts"])
def test_thousands_of_documents(embeddings, direct, requests, settings):
    """Documents that fill several requests have their own vectors in order, sent as ids or as texts."""
    texts = [f"{number} bottles of beer on the wall" for number in range(2300)]
    texts[::40] = varied_texts(58)
    got = embeddings(model="minilm-cutting", **settings).embed_documents(texts)
    assert requests("minilm-cutting", 200) == 3
    assert lowest_cosine(np.array(got), direct(texts)) >= EXACT


@pytest.mark.parametrize("model", ["minilm", "text-embedding-3-small", "text-embedding-ada-002"])
def test_characters_of_several_tokens(embeddings, cl100k, direct, model):
    """Texts with characters of more than one token have their vectors, under the name and aliases."""
    texts = [CHINESE, *EMOJI, *OTHER_SCRIPTS, *RARE]
    halves = [cl100k.decode([number]) for text in texts for number in cl100k.encode(text)]
    assert sum("\ufffd" in half for half in halves) > len(texts)
    assert lowest_cosine(np.array(embeddings(model=model).embed_documents(texts)), direct(texts)) >= EXACT


@pytest.mark.parametrize(
    ("model", "settings"), [("minilm-cutting", {}), ("minilm", {"embedding_ctx_length": 101})]
)
def test_the_average_of_a_long_text(embeddings, cl100k, direct, model, settings):
    """A long text has the average, made by LangChain, of its pieces' vectors, even if a character is cut."""
    length = settings.get("embedding_ctx_length", 8191)
    ids = cl100k.encode("".join(sign for sign in CHINESE if len(cl100k.encode(sign)) == 2) * (length // 8))
    pieces = [ids[begin : begin + length] for begin in range(0, len(ids), length)]
    texts = [cl100k.decode(piece) for piece in pieces]
    assert len(texts) > 2
    assert "\ufffd" in texts[0]
    average = np.average(direct(texts), axis=0, weights=[len(piece) for piece in pieces])
    got = embeddings(model=model, **settings).embed_documents(["short", cl100k.decode(ids)])
    assert lowest_cosine(np.array(got), np.stack([direct(["short"])[0], average])) >= EXACT


def test_async_methods(embeddings, direct):
    """Documents and a query have their vectors by the asynchronous methods too, in the requested size."""
    asks = embeddings(model="minilm-cutting", chunk_size=7)
    texts = varied_texts(40, seed=2)

    async def ask():
        short = embeddings(model="minilm", dimensions=64)
        return await asyncio.gather(asks.aembed_documents(texts), short.aembed_query("A cat sleeps."))

    documents, query = asyncio.run(ask())
    assert lowest_cosine(np.array(documents), direct(texts)) >= EXACT
    assert lowest_cosine(np.array([query]), direct(["A cat sleeps."])[:, :64]) >= EXACT


def test_a_vector_store_finds_the_right_text(embeddings):
    """A search in a store that was filled through the gateway finds the text that means the same."""
    texts = ["The cat sleeps on the sofa.", "Shares fell sharply in Tokyo.", "Bread is baked from flour."]
    store = vectorstores.InMemoryVectorStore.from_texts(texts, embeddings(model="minilm"))
    for query, text in zip(("a kitten naps", "stock market", "a bakery"), texts, strict=True):
        assert store.similarity_search(query, k=1)[0].page_content == text


def test_what_the_model_does_not_take_is_an_error(embeddings):
    """An empty text, and one that is too long where nothing is cut, is an error and no vector."""
    with pytest.raises(openai.BadRequestError, match="empty") as caught:
        embeddings(model="minilm").embed_documents(["something", ""])
    assert caught.value.param == "input"
    with pytest.raises(openai.BadRequestError) as caught:
        embeddings(model="minilm").embed_documents(["something", "long " * 1000])
    assert (caught.value.code, caught.value.param) == ("context_length_exceeded", "input[1]")


def test_ids_of_openais_vocabulary_from_openais_client(base_url, cl100k, direct):
    """One flat array of cl100k's ids is one text."""
    text = f"The quick brown fox {CHINESE}"
    with openai.OpenAI(base_url=base_url, api_key="not-needed") as client:
        answer = client.embeddings.create(model="minilm", input=cl100k.encode(text))
    assert lowest_cosine(np.array([item.embedding for item in answer.data]), direct([text])) >= EXACT


def test_a_gateway_without_the_vocabulary_says_what_to_set(tmp_path):
    """A gateway that cannot get the vocabulary refuses ids; what its error says to set in LangChain works."""
    nowhere = dict.fromkeys(("https_proxy", "HTTPS_PROXY"), "http://127.0.0.1:9")
    settings = {"TIKTOKEN_CACHE_DIR": str(tmp_path / "empty"), **nowhere}
    with serving(tmp_path, '[models.fake]\nbackend = "fake"', settings=settings) as server:
        wanted = {"base_url": f"{server.url}/v1", "api_key": "not-needed", "model": "fake"}
        with pytest.raises(openai.BadRequestError, match="check_embedding_ctx_length=False") as caught:
            langchain_openai.OpenAIEmbeddings(**wanted).embed_documents(["some text"])
        assert caught.value.code == "invalid_token_ids"
        asks = langchain_openai.OpenAIEmbeddings(**wanted, check_embedding_ctx_length=False)
        assert len(asks.embed_documents(["some text", "more"])) == 2
