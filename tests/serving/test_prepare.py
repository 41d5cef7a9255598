"""From what a client sent to the rows that a model takes: policies, prompts, windows and limits."""

from __future__ import annotations

import numpy as np
import pytest

from embeddings_gateway.backends.base import Batch
from embeddings_gateway.batching.request import Caller
from embeddings_gateway.config import ServingConfig
from embeddings_gateway.errors import (
    ContextLengthExceeded,
    InputFailed,
    InvalidRequest,
    InvalidTokenIds,
    ModelUnavailable,
    TooManyTokens,
)
from embeddings_gateway.serving.prepare.cl100k import Cl100k
from embeddings_gateway.serving.prepare.policies import NO_PROMPT
from embeddings_gateway.serving.prepare.prepare import Preparer
from embeddings_gateway.serving.prepare.tokenize import TokenizeCoalescer
from embeddings_gateway.serving.served import Call, CallOptions
from embeddings_gateway.workers.engine import CallFailed
from embeddings_gateway.workers.isolation import Quarantine
from tests.gateway.fakes import BACKEND, AnsweringEngine, make_dispatcher, make_info
from tests.serving.turns import Turns

pytestmark = pytest.mark.anyio

INFO = make_info(max_tokens=10)
PROMPTS = {"query": "Q:", "document": "", "ours": "O:"}


class Bytes:
    """A vocabulary as cl100k's: every byte is its own id, and no other id is known."""

    def decode_bytes(self, tokens):
        """See :class:`embeddings_gateway.serving.prepare.cl100k.Encoding`."""
        return b"".join({number: bytes([number]) for number in range(256)}[token] for token in tokens)


def make_preparer(max_tokens=1000, **serving):
    """Return a preparer of these policies, with the fake backend's tokenizer, which fails on "bad"."""

    def tokenize(texts, pairs):
        if "bad" in texts:
            raise CallFailed("no")
        return BACKEND.tokenize(texts, pairs)

    engine = AnsweringEngine()
    engine.tokenizer = tokenize
    tokenizer = TokenizeCoalescer(
        "m", make_dispatcher(engine), Quarantine(), lambda: ModelUnavailable("gone")
    )
    return Preparer(ServingConfig(**serving), max_tokens, tokenizer, Cl100k(Bytes))


def make_call(inputs, outputs=("dense",), refused=None, caller=None, **options):
    """Return a call."""
    call = Call(inputs, outputs, CallOptions(**options), refused or {})
    return call if caller is None else Call(inputs, outputs, caller=caller)


async def prepare(call, info=INFO, **policies):
    """Return the rows of a call."""
    preparer = make_preparer(**policies)
    call = await preparer.refuse_certainly_too_long(call, info)
    return await preparer.prepare(call, info, preparer.prompt(call, info))


async def prepare_inputs(inputs, info=INFO, *, policies=None, **options):
    """Return the rows of inputs."""
    return await prepare(make_call(inputs, **options), info, **policies or {})


def texts_of(prepared):
    """Return the texts that the ids of each row stand for."""
    return [bytes(ids[1:-1].tolist()).decode() for ids in prepared.batch.split()]


async def test_texts():
    """Texts become ids in order."""
    prepared = await prepare_inputs(["abc", "d"])
    assert [ids.tolist() for ids in prepared.batch.split()] == [[256, 97, 98, 99, 257], [256, 100, 257]]
    assert (prepared.truncated, prepared.errors, prepared.windows) == ((), {}, None)


@pytest.mark.parametrize(
    ("of_call", "of_model", "texts"),
    [(None, "left", "23456789"), ("right", "left", "01234567"), (None, "error", ""), ("error", "left", "")],
)
async def test_policy_for_long_inputs(of_call, of_model, texts):
    """What the call says goes before the configuration; an error names the input in the words clients know."""
    call = make_call(["ab", "0123456789"], truncate=of_call)
    if texts:
        prepared = await prepare(call, truncate=of_model)
        assert texts_of(prepared) == ["ab", texts]
        assert prepared.truncated == [1]
    else:
        with pytest.raises(ContextLengthExceeded, match="maximum context length is 10 tokens") as refusal:
            await prepare(call, truncate=of_model)
        assert refusal.value.param == "input[1]"


@pytest.mark.parametrize(
    ("inputs", "policies", "kind"),
    [
        (["a", "0123456789", "b"], {}, ContextLengthExceeded),
        (["a", "bad", "b"], {}, InputFailed),
        ([[97], [300], [98]], {"token_ids": "native"}, InvalidTokenIds),
        ([[97], [300], [98]], {"token_ids": "cl100k"}, InvalidTokenIds),
    ],
)
async def test_inputs_that_have_no_ids(inputs, policies, kind):
    """An input that cannot be taken is named; with partial results it has its error, and the others go on."""
    with pytest.raises(kind) as refusal:
        await prepare_inputs(inputs, policies=policies)
    assert refusal.value.param == "input[1]"
    prepared = await prepare_inputs(inputs, policies=policies, partial=True)
    assert {row: (type(error), error.param) for row, error in prepared.errors.items()} == {
        1: (kind, "input[1]")
    }
    assert texts_of(prepared) == ["a", "", "b"]


async def test_first_error():
    """Of several inputs that cannot be taken the first is named, whatever is wrong with it."""
    for inputs in (["0123456789", "bad"], ["bad", "0123456789"]):
        with pytest.raises((InputFailed, ContextLengthExceeded)) as refusal:
            await prepare_inputs(inputs)
        assert refusal.value.param == "input[0]"


async def test_tokens_that_the_model_lacks():
    """A text without tokens, or with one that the model has no vector for, is refused by name."""
    info = make_info(vocabulary_size=257)
    with pytest.raises(InvalidRequest, match="no vector") as refusal:
        await prepare_inputs(["a"], info)
    assert refusal.value.param == "input[0]"
    preparer = make_preparer()
    (engine,) = preparer._tokenizer._dispatcher.engines
    engine.tokenizer = lambda *_: Batch.of([np.empty(0, np.int32), BACKEND.tokenize(["b"]).ids])
    prepared = await preparer.prepare(make_call([" ", "b"], partial=True), INFO, NO_PROMPT)
    assert {row: (type(error), error.param) for row, error in prepared.errors.items()} == {
        0: (InvalidRequest, "input[0]")
    }
    assert prepared.batch.lengths.tolist() == [0, 3]


@pytest.mark.parametrize(("max_tokens", "fits"), [(8, True), (7, False)])
async def test_tokens_of_a_call(max_tokens, fits):
    """A call has at most so many tokens, special tokens included; what is cut or refused does not count."""
    policies = {"max_tokens": max_tokens}
    if fits:
        await prepare_inputs(["ab", "cd"], policies=policies)
        await prepare_inputs(["ab", "0123456789"], policies=policies, partial=True)
    else:
        with pytest.raises(TooManyTokens) as refusal:
            await prepare_inputs(["ab", "cd"], policies=policies)
        assert refusal.value.param == "input"
    await prepare_inputs(["0123456789"], policies={"max_tokens": 10}, truncate="right")


async def test_ids_of_openais_vocabulary_are_counted_by_who_sent_them():
    """A client fills a call by its own count; what the model's count exceeds that by, the queue bounds."""
    call = make_call([[97, 98], [99, 100]])
    await prepare(call, max_tokens=4, max_queue_tokens=8)
    for bounds in ({"max_tokens": 3, "max_queue_tokens": 8}, {"max_tokens": 4, "max_queue_tokens": 7}):
        with pytest.raises(TooManyTokens):
            await prepare(call, **bounds)
    with pytest.raises(TooManyTokens):
        await prepare(call, max_tokens=4, max_queue_tokens=8, token_ids="native")


async def test_bulk_calls_fit_into_their_half():
    """A bulk call with more tokens than bulk calls may queue is refused for good, without Retry-After."""
    for inputs in (["abcd"], [[97, 98, 99, 100]]):
        await prepare(make_call(inputs), max_tokens=10, max_queue_tokens=10)
        await prepare(make_call(inputs, caller=Caller(traffic="bulk")), max_tokens=10, max_queue_tokens=12)
        with pytest.raises(TooManyTokens):
            await prepare(
                make_call(inputs, caller=Caller(traffic="bulk")), max_tokens=10, max_queue_tokens=10
            )


async def test_native():
    """Under ``native`` ids are the model's own, get its special tokens and are held to its limits."""
    policies = {"token_ids": "native"}
    prepared = await prepare_inputs([[97]], policies=policies)
    assert prepared.batch.ids.tolist() == [256, 97, 257]
    with pytest.raises(ContextLengthExceeded):
        await prepare_inputs([[97] * 9], policies=policies)


@pytest.mark.parametrize("policy", ["cl100k", "auto"])
async def test_cl100k(policy):
    """Under ``cl100k`` and ``auto`` ids are decoded to text, and the text is tokenized with its prompt."""
    info = make_info(prompts=PROMPTS)
    prepared = await prepare_inputs(
        [[97, 98], [99]], info, policies={"token_ids": policy}, input_type="query"
    )
    assert texts_of(prepared) == ["Q:ab", "Q:c"]


async def test_reject():
    """Under ``reject`` ids are refused, with the remedy in LangChain."""
    with pytest.raises(InvalidTokenIds, match="check_embedding_ctx_length=False") as refusal:
        await prepare_inputs([[97]], policies={"token_ids": "reject"})
    assert refusal.value.param == "input"


async def test_prompts_and_native_ids():
    """Native token ids have no prompt: an input type is refused, and a default prompt is ignored."""
    info, native = make_info(prompts=PROMPTS, default_prompt="ours"), {"token_ids": "native"}
    assert texts_of(await prepare_inputs([[97]], info, policies=native)) == ["a"]
    with pytest.raises(InvalidRequest) as refusal:
        await prepare_inputs([[97]], info, policies=native, input_type="query")
    assert refusal.value.param == "input_type"


async def test_pairs():
    """Pairs become rows with segments, without a prompt; a model that takes none refuses them by field."""
    info = make_info(prompts=PROMPTS, default_prompt="ours")
    prepared = await prepare_inputs([("a", "bc"), ("d", "e")], info, outputs=("score",))
    assert prepared.batch.ids.tolist() == [256, 97, 257, 98, 99, 257, 256, 100, 257, 101, 257]
    assert prepared.batch.segments.tolist() == [0, 0, 0, 1, 1, 1, 0, 0, 0, 1, 1]
    with pytest.raises(InvalidRequest, match="no pairs") as refusal:
        await prepare_inputs([("a", "b")], make_info(takes_pairs=False))
    assert refusal.value.param == "input"


@pytest.mark.parametrize("truncate", ["error", "right", "mean"])
async def test_pairs_that_are_too_long(truncate):
    """A pair is never cut: one that is too long fails, and the others keep their segments."""
    pairs = [("a", "b"), ("long " * 9, "c"), ("d", "ef")]
    with pytest.raises(ContextLengthExceeded) as refusal:
        await prepare_inputs(pairs, outputs=("score",), truncate=truncate)
    assert refusal.value.param == "input[1]"
    prepared = await prepare_inputs(pairs, outputs=("score",), truncate=truncate, partial=True)
    assert {row: type(error) for row, error in prepared.errors.items()} == {1: ContextLengthExceeded}
    assert prepared.batch.lengths.tolist() == [5, 0, 6]
    assert prepared.batch.segments.tolist() == [0, 0, 0, 1, 1, 0, 0, 0, 1, 1, 1]


async def test_windows():
    """Under ``mean`` a long input becomes windows; of all rows the input and the weight are known."""
    prepared = await prepare_inputs(["ab", "0123456789", "c"], truncate="mean")
    assert texts_of(prepared) == ["ab", "01234567", "89", "c"]
    assert prepared.windows.inputs.tolist() == [0, 1, 1, 2]
    assert prepared.windows.weights[1:3].tolist() == [8, 2]
    assert prepared.windows.averaged().tolist() == [1]
    assert prepared.truncated == []
    assert (await prepare_inputs(["ab", "c"], truncate="mean")).windows is None


@pytest.mark.parametrize("outputs", [("sparse",), ("dense", "multi_vector")])
async def test_only_vectors_have_a_mean(outputs):
    """Windows are for dense vectors alone; a long input of any other output is refused."""
    with pytest.raises(ContextLengthExceeded):
        await prepare_inputs(["0123456789"], outputs=outputs, truncate="mean")


async def test_windows_beside_failed_inputs():
    """With partial results an input that cannot be taken is one row, between the windows of others."""
    prepared = await prepare_inputs(
        [[1], [999], [2] * 12], policies={"token_ids": "native"}, truncate="mean", partial=True
    )
    assert {row: error.param for row, error in prepared.errors.items()} == {1: "input[1]"}
    assert prepared.windows.inputs.tolist() == [0, 1, 2, 2]


@pytest.mark.parametrize(
    ("truncate", "texts"),
    [("right", ["Q: 01234"]), ("left", ["Q: 56789"]), ("mean", ["Q: 01234", "Q: 56789"])],
)
async def test_prompt_before_what_is_left(truncate, texts):
    """What is left of a long text, and each window of it, has the whole prompt before it."""
    info = make_info(max_tokens=10, prompts={"query": "Q: "})
    prepared = await prepare_inputs(["0123456789"], info, input_type="query", truncate=truncate)
    assert texts_of(prepared) == texts


@pytest.mark.parametrize("truncate", ["right", "left", "mean"])
async def test_prompt_that_leaves_no_room(truncate):
    """Where the prompt alone fills the model, no text has a vector: all would have that of the prompt."""
    info = make_info(max_tokens=10, prompts={"query": "Questions"})
    with pytest.raises(ContextLengthExceeded, match="prompt"):
        await prepare_inputs(["a"], info, input_type="query", truncate=truncate)


@pytest.mark.parametrize(
    ("inputs", "policy"), [(["", "a", ""], "auto"), ([[], [97], []], "auto"), ([[], [97], []], "native")]
)
async def test_refused_inputs(inputs, policy):
    """Inputs that were refused before stay refused, and nothing is done with them."""
    refused = {0: InvalidRequest("no"), 2: InvalidRequest("no")}
    prepared = await prepare_inputs(inputs, policies={"token_ids": policy}, refused=refused, partial=True)
    assert texts_of(prepared) == ["", "a", ""]
    assert {row: error.message for row, error in prepared.errors.items()} == {0: "no", 2: "no"}
    nothing = await prepare_inputs([""], refused={0: InvalidRequest("no")}, partial=True)
    assert (len(nothing.batch), nothing.batch.tokens, list(nothing.errors)) == (1, 0, [0])


@pytest.mark.parametrize(("tokens", "turns"), [(1, 12), (140, 17), (9, 0)])
async def test_long_work_is_done_in_turns(tokens, turns):
    """The inputs of a large call are looked at in many turns of the event loop; a small one waits for none."""
    preparer = make_preparer(max_tokens=300_000, token_ids="native")
    async with Turns() as counted:
        call = make_call([[1] * tokens] * (2048 if turns else 1))
        prepared = await preparer.prepare(call, make_info(max_tokens=512), NO_PROMPT)
    assert len(prepared.batch) == len(call.inputs)
    assert counted.count >= turns
    assert turns or not counted.count
