"""From what a client sent to the ids that a model takes: prompts, policies and limits."""

from __future__ import annotations

import numpy as np
import pytest

from embeddings_gateway.backends.fake import FakeBackend
from embeddings_gateway.backends.spec import FakeSpec
from embeddings_gateway.config import ServingConfig
from embeddings_gateway.errors import (
    ContextLengthExceeded,
    InputFailed,
    InvalidRequest,
    InvalidTokenIds,
    TooManyTokens,
)
from embeddings_gateway.serving.ask import Ask
from embeddings_gateway.serving.cl100k import Cl100k
from embeddings_gateway.serving.preparer import Preparer
from embeddings_gateway.serving.prompts import NO_PROMPT
from tests.gateway.fakes import make_info

pytestmark = pytest.mark.anyio

INFO = make_info(max_tokens=10)
PROMPTS = {"query": "Q:", "document": "", "ours": "O:"}


class Bytes:
    """A vocabulary as cl100k's: every byte is its own id, and no other id is known."""

    def decode_bytes(self, tokens):
        """See :class:`embeddings_gateway.serving.cl100k.Encoding`."""
        return b"".join({number: bytes([number]) for number in range(256)}[token] for token in tokens)


def make_preparer(tokens_max=1000, **serving):
    """Return a preparer of these policies, with the fake backend's tokenizer."""
    backend = FakeBackend(FakeSpec())

    async def tokenize(texts):
        return backend.tokenize(texts)

    return Preparer(ServingConfig(**serving), tokens_max, tokenize, Cl100k(Bytes))


async def prepare(ask, info=INFO, tokens_max=1000, **serving):
    """Return what becomes of the request."""
    preparer = make_preparer(tokens_max, **serving)
    return await preparer.prepare(ask, info, preparer.prompt_for(ask, info))


def texts_of(prepared):
    """Return the texts that the ids of each row stand for."""
    return [bytes(ids[1:-1].tolist()).decode() for ids in prepared.rows]


async def test_texts():
    """Texts become ids in order."""
    prepared = await prepare(Ask(["abc", "d"]))
    assert [ids.tolist() for ids in prepared.rows] == [[256, 97, 98, 99, 257], [256, 100, 257]]
    assert prepared.truncated == []


async def test_truncation_of_the_configuration():
    """Where the request does not say, the model's configuration decides what happens to a long input."""
    with pytest.raises(ContextLengthExceeded):
        await prepare(Ask(["0123456789"]))
    cut = await prepare(Ask(["ab", "0123456789"]), truncate="left")
    assert texts_of(cut) == ["ab", "23456789"]
    assert cut.truncated == [1]


async def test_truncation_of_the_request():
    """What the request says goes before the configuration."""
    assert texts_of(await prepare(Ask(["0123456789"], truncate="right"))) == ["01234567"]
    with pytest.raises(ContextLengthExceeded):
        await prepare(Ask(["0123456789"], truncate="error"), truncate="left")


async def test_too_long_names_the_input():
    """The error of a long input says which one it is, in the words by which clients know it."""
    with pytest.raises(
        ContextLengthExceeded, match="This model's maximum context length is 10 tokens"
    ) as refusal:
        await prepare(Ask(["a", "b", "0123456789"]))
    assert refusal.value.param == "input[2]"


async def test_too_long_partial():
    """With partial results a long input is kept as its error, and the others go on."""
    prepared = await prepare(Ask(["a", "0123456789", "b"], partial=True))
    assert isinstance(prepared.rows[1], ContextLengthExceeded)
    assert [prepared.rows[i].tolist() for i in (0, 2)] == [[256, 97, 257], [256, 98, 257]]


@pytest.mark.parametrize(("tokens_max", "fits"), [(8, True), (7, False)])
async def test_tokens_of_a_request(tokens_max, fits):
    """A request has at most so many tokens, special tokens included."""
    ask = Ask(["ab", "cd"])
    if fits:
        await prepare(ask, tokens_max=tokens_max)
    else:
        with pytest.raises(TooManyTokens) as refusal:
            await prepare(ask, tokens_max=tokens_max)
        assert refusal.value.param == "input"


async def test_ids_of_openais_vocabulary_are_counted_by_who_sent_them():
    """A client fills a request by its own count; what the model's count exceeds that by, the queue bounds."""
    ask = Ask([[97, 98], [99, 100]])
    await prepare(ask, tokens_max=4, max_queue_tokens=8)
    for bounds in ({"tokens_max": 3, "max_queue_tokens": 8}, {"tokens_max": 4, "max_queue_tokens": 7}):
        with pytest.raises(TooManyTokens):
            await prepare(ask, **bounds)
    with pytest.raises(TooManyTokens):
        await prepare(ask, tokens_max=4, max_queue_tokens=8, token_ids="native")


async def test_tokens_of_a_request_are_counted_after_cutting():
    """What is cut or refused does not count."""
    await prepare(Ask(["0123456789"], truncate="right"), tokens_max=10)
    await prepare(Ask(["0123456789", "ab"], partial=True), tokens_max=4)


async def test_native():
    """Under ``native`` ids are the model's own, get its special tokens and are held to its limits."""
    assert [ids.tolist() for ids in (await prepare(Ask([[97]]), token_ids="native")).rows] == [[256, 97, 257]]
    with pytest.raises(InvalidTokenIds) as refusal:
        await prepare(Ask([[97], [300]]), token_ids="native")
    assert refusal.value.param == "input[1]"
    with pytest.raises(ContextLengthExceeded):
        await prepare(Ask([[97] * 9]), token_ids="native")


@pytest.mark.parametrize("policy", ["cl100k", "auto"])
async def test_cl100k(policy):
    """Under ``cl100k`` and ``auto`` ids are decoded to text, and the text is tokenized properly."""
    prepared = await prepare(Ask([[97, 98], [99]]), token_ids=policy)
    assert texts_of(prepared) == ["ab", "c"]


async def test_text_that_the_tokenizer_refuses():
    """A text that the tokenizer fails on is named, and with partial results the others go on."""

    async def tokenize(texts):
        return [InputFailed("no") if text == "bad" else np.array([1], np.int32) for text in texts]

    preparer = Preparer(ServingConfig(), 1000, tokenize, Cl100k(Bytes))
    with pytest.raises(InputFailed) as refusal:
        await preparer.prepare(Ask(["a", "bad"]), INFO, NO_PROMPT)
    assert refusal.value.param == "input[1]"
    kept = (await preparer.prepare(Ask(["a", "bad", "b"], partial=True), INFO, NO_PROMPT)).rows
    assert isinstance(kept[1], InputFailed)
    assert [len(kept[0]), len(kept[2])] == [1, 1]


@pytest.mark.parametrize("policy", ["native", "cl100k"])
async def test_unknown_id_partial(policy):
    """With partial results an input with an unknown id is kept as its error, and the others go on."""
    prepared = await prepare(Ask([[97], [300], [98]], partial=True), token_ids=policy)
    assert isinstance(prepared.rows[1], InvalidTokenIds)
    assert [prepared.rows[i].tolist() for i in (0, 2)] == [[256, 97, 257], [256, 98, 257]]


async def test_reject():
    """Under ``reject`` ids are refused, with the remedy in LangChain."""
    with pytest.raises(InvalidTokenIds, match="check_embedding_ctx_length=False") as refusal:
        await prepare(Ask([[97]]), token_ids="reject")
    assert refusal.value.param == "input"


@pytest.mark.parametrize(
    ("role", "default", "words"),
    [("query", None, "Q:"), ("document", "ours", ""), (None, "ours", "O:"), (None, None, "")],
)
async def test_prompts(role, default, words):
    """The words of the role go before each text; without a role those of the model's default, if any."""
    info = make_info(prompts=PROMPTS, default_prompt=default)
    assert texts_of(await prepare(Ask(["a", "b"], role=role), info)) == [words + "a", words + "b"]


async def test_prompts_before_decoded_ids():
    """A text that came as cl100k ids gets the words too."""
    info = make_info(prompts=PROMPTS)
    assert texts_of(await prepare(Ask([[97]], role="query"), info)) == ["Q:a"]


async def test_model_without_prompts():
    """A role means nothing to a model that has no prompts at all."""
    assert texts_of(await prepare(Ask(["a"], role="query"))) == ["a"]


async def test_prompt_that_the_model_lacks():
    """A role that a model with prompts does not know is refused by field, and the known ones are named."""
    with pytest.raises(InvalidRequest, match="ours") as refusal:
        await prepare(Ask(["a"], role="query"), make_info(prompts={"ours": "O:"}))
    assert refusal.value.param == "input_type"


@pytest.mark.parametrize(
    ("role", "prompts", "used"),
    [
        ("document", {"query": "Q:", "passage": "P:"}, "passage"),
        ("document", {"query": "Q:", "corpus": "C:"}, "corpus"),
        ("document", {"query": "Q:"}, None),
        ("query", {"document": "D:"}, None),
        (None, {"query": "Q:"}, None),
    ],
)
async def test_names_of_prompts(role, prompts, used):
    """Words for a role are looked for under the names that models use; one role may have none."""
    prepared = await prepare(Ask(["a"], role=role), make_info(prompts=prompts))
    assert make_preparer().prompt_for(Ask(["a"], role=role), make_info(prompts=prompts)).name == used
    assert texts_of(prepared) == [prompts.get(used, "") + "a"]


async def test_prompts_and_native_ids():
    """No words go before ids of the model's own: asked for, that is refused; a default is passed over."""
    info = make_info(prompts=PROMPTS, default_prompt="ours")
    prepared = await prepare(Ask([[97]]), info, token_ids="native")
    assert texts_of(prepared) == ["a"]
    assert make_preparer(token_ids="native").prompt_for(Ask([[97]]), info) == NO_PROMPT
    with pytest.raises(InvalidRequest) as refusal:
        await prepare(Ask([[97]], role="query"), info, token_ids="native")
    assert refusal.value.param == "input_type"


async def test_windows():
    """Under ``mean`` a long input becomes windows, and the places and weights of all rows are told."""
    prepared = await prepare(Ask(["ab", "0123456789", "c"], truncate="mean"))
    assert texts_of(prepared) == ["ab", "01234567", "89", "c"]
    assert prepared.averages.places == [0, 1, 1, 2]
    assert prepared.averages.weights[1:3] == [8, 2]
    assert prepared.averages.inputs == [1]
    assert prepared.truncated == []


async def test_no_windows_where_all_fits():
    """Inputs that fit are rows of their own, whatever would become of longer ones."""
    assert (await prepare(Ask(["ab", "c"], truncate="mean"))).averages is None


@pytest.mark.parametrize(
    ("truncate", "texts"),
    [("right", ["Q: 01234"]), ("left", ["Q: 56789"]), ("mean", ["Q: 01234", "Q: 56789"])],
)
async def test_prompt_before_what_is_left(truncate, texts):
    """What is left of a long text, and each window of it, has the whole prompt before it."""
    info = make_info(max_tokens=10, prompts={"query": "Q: "})
    prepared = await prepare(Ask(["0123456789"], role="query", truncate=truncate), info)
    assert texts_of(prepared) == texts


@pytest.mark.parametrize("truncate", ["right", "left", "mean"])
async def test_prompt_that_leaves_no_room(truncate):
    """Where the prompt alone fills the model, no text has a vector: all would have that of the prompt."""
    info = make_info(max_tokens=10, prompts={"query": "Questions"})
    with pytest.raises(ContextLengthExceeded, match="prompt"):
        await prepare(Ask(["a"], role="query", truncate=truncate), info)


async def test_windows_of_failed_inputs():
    """With partial results an input that cannot be embedded is one row, between the windows of others."""
    inputs = [[1], [999], [2] * 12]
    prepared = await prepare(Ask(inputs, truncate="mean", partial=True), token_ids="native")
    assert isinstance(prepared.rows[1], InvalidTokenIds)
    assert prepared.averages.places == [0, 1, 2, 2]


@pytest.mark.parametrize(
    ("inputs", "policy"), [(["", "a", ""], "auto"), ([[], [97], []], "auto"), ([[], [97], []], "native")]
)
async def test_refused_inputs(inputs, policy):
    """Inputs that were refused before stay refused, and nothing is done with them."""
    errors = {0: InvalidRequest("no"), 2: InvalidRequest("no")}
    prepared = await prepare(Ask(inputs, partial=True, refused=errors), token_ids=policy)
    assert [type(row) for row in prepared.rows] == [InvalidRequest, np.ndarray, InvalidRequest]
    assert prepared.rows[1].tolist() == [256, 97, 257]


async def test_all_refused():
    """A request of nothing but refused inputs prepares nothing."""
    prepared = await prepare(Ask([""], partial=True, refused={0: InvalidRequest("no")}))
    assert [type(row) for row in prepared.rows] == [InvalidRequest]
