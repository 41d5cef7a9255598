"""A model with engines of its own behind one call: every output, whatever the batch, the engines, the failures."""

from __future__ import annotations

import asyncio
import itertools
import math
import random
import time

import numpy as np
import pytest

from embeddings_gateway.backends.base import Column
from embeddings_gateway.backends.fake import fake_column
from embeddings_gateway.backends.spec import FakeSpec, FaultSpec
from embeddings_gateway.batching.request import Caller
from embeddings_gateway.config import ModelConfig, ServingConfig
from embeddings_gateway.errors import (
    ContextLengthExceeded,
    DeadlinePassed,
    InputFailed,
    InvalidRequest,
    ModelUnavailable,
    SpaceMismatch,
    TooManyTokens,
)
from embeddings_gateway.serving.local import LocalModel
from embeddings_gateway.serving.prepare.cl100k import Cl100k
from embeddings_gateway.serving.served import Call, CallOptions
from embeddings_gateway.workers.engine import CallFailed
from embeddings_gateway.workers.local.local_engines import local_engines
from tests.gateway.fakes import (
    BACKEND,
    OUTPUTS,
    SPEC,
    AnsweringEngine,
    HeldEngine,
    all_quiet,
    make_info,
    right,
    same,
    vector_of,
)

pytestmark = pytest.mark.anyio

TEXTS = [f"{'text' * (number % 7)} {number}" for number in range(40)]
PAIRS = [(text, f"{text}?") for text in TEXTS]
SUBSETS = [*itertools.combinations(OUTPUTS, 1), ("dense", "sparse"), OUTPUTS]
ROOMY = make_info(max_batch_tokens=128, max_batch_inputs=16)


def make_model(metrics, *engines, **serving):
    """Return a model of engines in this process."""
    config = ModelConfig(spec=FakeSpec(), serving=ServingConfig(**serving))
    makes = [engine.make for engine in engines]
    return LocalModel("m", config, makes, metrics.model("m"), cl100k=Cl100k(), max_request_tokens=500_000)


async def run(model, inputs, outputs=("dense",), *, deadline=math.inf, **options):
    """Return the result of a call."""
    return await model.run(Call(inputs, outputs, CallOptions(**options), deadline=deadline))


def alone(inputs, outputs):
    """Return what each input has by itself, joined."""
    if isinstance(inputs[0], str):
        batches = [BACKEND.tokenize([text]) for text in inputs]
    else:
        batches = [BACKEND.tokenize([text], [pair]) for text, pair in inputs]
    return {
        output: Column.concat([fake_column(output, batch, SPEC) for batch in batches]) for output in outputs
    }


def equal(columns, expected, inputs=None):
    """Tell whether all columns are the expected ones, or are for some inputs."""
    pick = (lambda column: column) if inputs is None else (lambda column: column.select(np.array(inputs)))
    return columns.keys() == expected.keys() and all(
        same(pick(column), pick(expected[output])) for output, column in columns.items()
    )


async def test_result(start):
    """A result has a vector for each input, the tokens with the special ones, and the phases."""
    model = await start()
    call = Call(["a", "bc"])
    result = await model.run(call)
    assert np.array_equal(result.vectors, [vector_of("a"), vector_of("bc")])
    assert result.tokens == 3 + 4
    assert call.timings.keys() == {"tokenize", "queue", "infer"}
    assert min(call.timings.values()) >= 0
    await all_quiet()
    assert repr(model) == "<LocalModel m ready <Batcher 0 rows, 0 tokens, 0 running>>"


@pytest.mark.parametrize("inputs", [TEXTS, PAIRS], ids=["texts", "pairs"])
async def test_every_output_of_a_worker(start, inputs):
    """A worker's outputs, all of one pass and split over batches, are what each input has alone."""
    model = await start(FakeSpec(width=8, outputs=OUTPUTS, labels=3, max_batch_tokens=128))
    result = await run(model, inputs, OUTPUTS)
    assert equal(result.columns, alone(inputs, OUTPUTS))


@pytest.mark.parametrize("outputs", SUBSETS, ids="-".join)
@pytest.mark.parametrize("inputs", [TEXTS, PAIRS], ids=["texts", "pairs"])
async def test_every_output_in_every_batch(metrics, inputs, outputs):
    """Each input has the same result as alone, whatever the outputs and the other inputs of its batch."""
    engine = AnsweringEngine(info=ROOMY)
    model = make_model(metrics, engine, AnsweringEngine(info=ROOMY), audit_every=2)
    parts = [inputs, inputs[::-1], inputs[7:8], inputs[3:30:3]]
    results = await asyncio.gather(*(run(model, part, outputs) for part in parts), run(model, ["x"], OUTPUTS))
    for part, result in zip(parts, results, strict=False):
        assert equal(result.columns, alone(part, outputs))
    assert set(engine.outputs) <= {outputs, OUTPUTS}
    assert len(engine.batches) > 3


@pytest.mark.parametrize("outputs", SUBSETS, ids="-".join)
async def test_partial_results(metrics, outputs):
    """With partial results bad inputs have errors by name, and all others have every output."""

    def answer(batch, outputs):
        if any(b"bad" in bytes(ids[1:-1].tolist()) for ids in batch.split()):
            raise CallFailed("it fails")
        return right(batch, outputs)

    model = make_model(metrics, AnsweringEngine(answer, ROOMY))
    inputs = [*TEXTS[:5], "bad", *TEXTS[5:9], "long" * 30, *TEXTS[9:]]
    result = await run(model, inputs, outputs, partial=True)
    assert {index: (type(error), error.param) for index, error in result.errors.items()} == {
        5: (InputFailed, "input[5]"),
        10: (ContextLengthExceeded, "input[10]"),
    }
    rest = [index for index in range(len(inputs)) if index not in result.errors]
    assert all(len(column) == len(inputs) for column in result.columns.values())
    assert equal(result.columns, alone(inputs, outputs), rest)
    with pytest.raises(InputFailed) as refusal:
        await run(model, inputs[:10], outputs)
    assert refusal.value.param == "input[5]"
    nothing = await run(model, ["bad", "long" * 30], outputs, partial=True)
    assert len(nothing.errors) == 2
    assert all(len(column) == 2 for column in nothing.columns.values())


async def test_an_output_that_the_model_lacks(metrics):
    """An output that the model has not is refused by field, and those that it has are named."""
    model = make_model(metrics, AnsweringEngine(info=make_info(outputs=("dense", "sparse"))))
    with pytest.raises(InvalidRequest, match="dense, sparse") as refusal:
        await run(model, ["a"], ("dense", "score"))
    assert refusal.value.param == "output"


async def test_tokens_alone(metrics):
    """A call for no output gives the ids, and computes nothing."""
    engine = AnsweringEngine()
    result = await run(make_model(metrics, engine), ["abc", "d", "long" * 30], (), partial=True)
    assert (result.columns, list(result.errors), engine.batches) == ({}, [2], [])
    assert result.batch.split()[1].tolist() == [256, 100, 257]
    assert result.tokens == 5 + 3


async def test_five_thousand_inputs(metrics):
    """Many inputs in random order and in many calls at once, of two classes: each has its own vector."""
    source = random.Random(5)
    texts = [f"{number:x}" * source.randint(1, 20) for number in range(5000)]
    source.shuffle(texts)
    engines = [AnsweringEngine(info=make_info(max_batch_tokens=1024, max_batch_inputs=64)) for _ in range(2)]
    model = make_model(metrics, *engines)
    bounds = sorted({0, 5000, *source.sample(range(5000), 12)})
    callers = [Caller(str(number % 3), 1 + number % 2, "bulk") for number in range(6)] + [Caller()]
    parts = [texts[begin:end] for begin, end in itertools.pairwise(bounds)]
    results = await asyncio.gather(*(model.run(Call(part, caller=source.choice(callers))) for part in parts))
    vectors = np.concatenate([result.vectors for result in results])
    assert np.array_equal(vectors, np.stack([vector_of(text) for text in texts]))


async def test_dimensions(metrics):
    """Dimensions that the model offers are cut and renormalised; others are refused by field."""
    model = make_model(metrics, AnsweringEngine(info=make_info(supported_dimensions=(4, 8))))
    short = (await run(model, ["a"], dimensions=4)).vectors[0]
    assert np.allclose(short, vector_of("a")[:4] / np.linalg.norm(vector_of("a")[:4]), atol=1e-6)
    with pytest.raises(InvalidRequest, match="4, 8") as refusal:
        await run(model, ["a"], dimensions=5)
    assert refusal.value.param == "dimensions"


async def test_default_dimensions(metrics):
    """A model whose author cuts its vectors gives those dimensions by default, and all on request."""
    info = make_info(supported_dimensions=(4, 8), default_dimensions=4)
    model = make_model(metrics, AnsweringEngine(info=info))
    assert (await run(model, ["a"])).vectors.shape == (1, 4)
    assert (await run(model, ["a"], dimensions=8)).vectors.shape == (1, 8)


async def test_embedding_space(metrics):
    """The space that the model has may be pinned, another one may not."""
    model = make_model(metrics, AnsweringEngine())
    await run(model, ["a"], expected_fingerprint=model.info.fingerprint)
    with pytest.raises(SpaceMismatch):
        await run(model, ["a"], expected_fingerprint="another")


LONG = ["a", "x" * 600 + "<nan>" + "y" * 600, "b" * 600]
"""The second one's second window fails; a window has 510 bytes."""


async def test_window_that_fails(start):
    """An input of which one window fails has failed under its own number; the others have their means."""
    model = await start(FaultSpec())
    result = await run(model, LONG, truncate="mean", partial=True)
    assert [(index, type(error), error.param) for index, error in result.errors.items()] == [
        (1, InputFailed, "input[1]")
    ]
    assert result.averaged == [2]
    windows = np.stack([vector_of("b" * 510), vector_of("b" * 90)])
    mean = np.average(windows, axis=0, weights=[510, 90])
    assert np.allclose(result.vectors[[0, 2]], [vector_of("a"), mean / np.linalg.norm(mean)], atol=1e-6)
    with pytest.raises(InputFailed) as failure:
        await run(model, LONG, truncate="mean")
    assert failure.value.param == "input[1]"


@pytest.mark.parametrize("seconds", [-1.0, 0.01])
async def test_deadline(metrics, seconds):
    """A call that is not done in time says so, and leaves nothing in the queue."""
    engine = HeldEngine()
    model = make_model(metrics, engine)
    with pytest.raises(DeadlinePassed):
        await run(model, ["x" * 14] * 5, deadline=time.monotonic() + seconds)
    assert repr(model._batcher).startswith("<Batcher 0 rows, 0 tokens")
    for running in list(engine.running):
        running.finish()
    await all_quiet()
    assert model._batcher.idle
    assert repr(model._batcher.admission) == "<Admission 0 tokens reserved>"


async def test_client_gone(metrics):
    """What a client that went away had waiting leaves the queue; the others are refused when all stops."""
    model = make_model(metrics, HeldEngine())
    calls = [asyncio.ensure_future(run(model, ["x" * 14] * 2)) for _ in range(3)]
    await all_quiet()
    assert repr(model._batcher) == "<Batcher 4 rows, 64 tokens, 2 running>"
    calls[2].cancel()
    await all_quiet()
    assert repr(model._batcher) == "<Batcher 2 rows, 32 tokens, 2 running>"
    await model.stop()
    with pytest.raises(ModelUnavailable):
        await calls[1]


@pytest.mark.parametrize(("traffic", "most"), [("interactive", 20), ("bulk", 10)])
async def test_queue_bounds_a_call(metrics, traffic, most):
    """A call with more tokens than the queue can hold is refused for good, without Retry-After."""
    model = make_model(metrics, AnsweringEngine(), max_queue_tokens=20)
    for chars, error in ((most - 2, None), (most - 1, TooManyTokens), (90, TooManyTokens)):
        call = Call(["x" * chars], caller=Caller(traffic=traffic))
        if error is None:
            await model.run(call)
        else:
            with pytest.raises(error):
                await model.run(call)


async def test_learns_how_many_tokens_texts_have(metrics):
    """A model learns from its calls about how many tokens the next one has."""
    model = make_model(metrics, AnsweringEngine(info=make_info(max_tokens=512, max_batch_tokens=512)))
    call = Call(["x" * 400] * 20)
    estimates = []
    for _ in range(3):
        estimates.append(model._estimated_tokens(call, model._preparer.prompt(call, model.info), model.info))
        await model.run(call)
    assert estimates[0] == 20 * (100 + 2)
    assert estimates[2] == pytest.approx(20 * (400 + 2), rel=0.1)


async def test_engines_come_and_go(metrics):
    """While calls run an engine is added, another one removed, and no call is lost."""
    first, second = HeldEngine(), AnsweringEngine()
    model = make_model(metrics, first)
    model.start()
    calls = [asyncio.ensure_future(run(model, TEXTS[start::4])) for start in range(4)]
    await all_quiet()
    model._dispatcher.add(second.make)
    removing = asyncio.ensure_future(model._dispatcher.remove(first))
    await all_quiet()
    assert not removing.done()
    while first.running:
        first.running[0].finish()
        await all_quiet()
    await removing
    assert first.state == "stopped"
    for start, result in enumerate(await asyncio.gather(*calls)):
        assert np.array_equal(result.vectors, [vector_of(text) for text in TEXTS[start::4]])
    assert model._batcher.idle


async def test_failed_model(start):
    """A model that cannot be served refuses, and keeps the reason for the operator."""
    model = await start(FakeSpec(dimensions=(16,)))
    assert model.state == "failed"
    with pytest.raises(ModelUnavailable, match="cannot take a request") as refusal:
        await run(model, ["a"])
    assert refusal.value.retry_after
    assert "the model's vectors have 8" in model.reason


async def test_a_failed_model_whose_path_may_be_mistyped(metrics):
    """The reason names the directory that is not there, before what became of the hub id."""
    config = ModelConfig(spec=FaultSpec(loading="refuse"), missing_path="/etc/models/m")
    engines = local_engines("m", config, metrics.model("m"), None)
    model = LocalModel("m", config, engines, metrics.model("m"), cl100k=Cl100k(), max_request_tokens=100)
    assert "/etc/models/m" not in model.reason
    model.start()
    await model.first_attempt()
    assert model.state == "failed"
    assert model.reason.startswith("there is no directory /etc/models/m, so that path is a hub id: ")
    await model.stop()


async def test_readiness_during_a_search(metrics):
    """While an engine is there only for a search, calls wait for it, and the model counts as ready for now."""
    engine = AnsweringEngine()
    model = make_model(metrics, engine)

    def engines_ready():
        return metrics.registry.get_sample_value("embeddings_gateway_workers_ready", {"model": "m"})

    assert (model.state, engines_ready(), await model.unready()) == ("ready", 1, "")
    async with engine.step(exclusive=True):
        assert (model.state, engines_ready(), await model.unready()) == ("searching", 0, "")
        asked = asyncio.ensure_future(run(model, ["a"]))
        await all_quiet()
        assert not asked.done()
    assert np.array_equal((await asked).vectors, [vector_of("a")])


async def test_room_of_a_call_that_is_too_large(metrics):
    """While a call is tokenized that is larger than any may be, there is room for those of others."""
    engine = HeldEngine()
    engine.gate.clear()
    model = make_model(metrics, engine)
    large = asyncio.ensure_future(run(model, ["é" * 3_000_000], truncate="mean"))
    await all_quiet()
    small = asyncio.ensure_future(run(model, ["small"]))
    await all_quiet()
    assert not small.done()
    large.cancel()
    engine.gate.set()
    await all_quiet()
    engine.running[0].finish()
    assert np.array_equal((await small).vectors, [vector_of("small")])
    await all_quiet()
    assert repr(model._batcher.admission) == "<Admission 0 tokens reserved>"
