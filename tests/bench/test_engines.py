"""Engines in processes of their own."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from bench.engine_process import EngineError, EngineProcess
from bench.engines.backend import batches, embed
from bench.engines.command import Batches, Embed, Multiply, Rate, Rows
from bench.plan import Load, Plan
from bench.texts import make_texts
from embeddings_gateway.backends.fake import FakeBackend
from embeddings_gateway.backends.spec import FakeSpec

MODULE = "bench.engines.backend"


@pytest.fixture(scope="module")
def engine():
    """Run the fake backend as an engine."""
    with EngineProcess(MODULE, '{"backend": "fake"}') as running:
        yield running


@pytest.mark.parametrize("cost", ["padded", "packed"])
def test_batches_are_full_and_within_limits(cost):
    """Every input is in one batch; none costs more than the backend takes, and none has room for the next."""
    backend = FakeBackend(FakeSpec(cost=cost, max_batch_tokens=200))
    inputs = backend.tokenize(make_texts("short", 0, 100))
    planned = list(batches(inputs, backend.info))
    assert sorted(index for batch in planned for index in batch) == list(range(100))
    lengths = [[len(inputs[index]) for index in batch] for batch in planned]
    price = {"padded": lambda batch: max(batch) * len(batch), "packed": sum}[cost]
    assert all(price(batch) <= 200 or len(batch) == 1 for batch in lengths)
    assert all(price([*batch, later[0]]) > 200 for batch, later in itertools.pairwise(lengths))


def test_vectors_come_back_in_the_order_of_their_texts():
    """Sorting by length is undone."""
    backend = FakeBackend(FakeSpec())
    texts = make_texts("mixed", 0, 30)
    alone = np.concatenate([backend.embed(backend.tokenize([text])) for text in texts])
    np.testing.assert_array_equal(embed(backend, texts), alone)


def test_an_engine_carries_out_a_plan(engine):
    """Calls are made until the plan's are used up, each with its latency."""
    plan = Plan(kind="short", start=0, warm_up=1, requests=5, inputs=4, clients=1, seconds=600.0, samples=1)
    load = engine.ask(plan, Load)
    assert load.answered == [0, 1, 2, 3, 4]
    assert len(load.latencies_ms) == 5
    expected = engine.ask(Embed(make_texts("short", 4, 4)), Rows)
    assert load.samples == {0: expected.rows}


def test_an_engine_tells_its_rate(engine):
    """A rate is a positive number: at least one batch is computed, however short the time."""
    assert engine.ask(Batches(2, 16, 0.0), Rate).per_s > 0


def test_what_an_engine_cannot_do_is_an_error_and_it_goes_on(engine):
    """The next command is answered."""
    with pytest.raises(EngineError, match="NotImplementedError: Multiply"):
        engine.ask(Multiply("torch", "fp32", 1, 1, 1, 0.0), Rate)
    assert len(engine.ask(Embed(["a"]), Rows).rows) == 1


def test_an_engine_that_does_not_start_says_why():
    """What keeps a model from loading is the error; so are the last words of a process."""
    with pytest.raises(EngineError, match=r"LoadError: .*nothing"):
        EngineProcess(MODULE, '{"backend": "gguf", "path": "/nothing.gguf"}')
    with pytest.raises(EngineError, match="No module named"):
        EngineProcess("bench.engines.nothing")
