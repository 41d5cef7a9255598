"""Whatever fails, whoever leaves: each call is settled once, rightly, and nothing is left behind."""

from __future__ import annotations

import asyncio
import random
import time

import numpy as np
import pytest

from embeddings_gateway.backends.base import Column
from embeddings_gateway.batching.request import Caller
from embeddings_gateway.errors import DeadlinePassed, GatewayError, InputFailed
from embeddings_gateway.serving.served import Call, CallOptions
from embeddings_gateway.workers.engine import (
    CallFailed,
    EngineOutOfMemory,
    EngineResult,
    WorkerCrashed,
    WorkerGone,
)
from tests.gateway.fakes import OUTPUTS, AnsweringEngine, all_quiet, make_info, right
from tests.serving.test_local import alone, equal, make_model

pytestmark = pytest.mark.anyio

FAULTS = (CallFailed, EngineOutOfMemory, WorkerCrashed, WorkerGone)


class UnreliableEngine(AnsweringEngine):
    """Takes its turns, fails for no reason now and then, and always on a text with ``!``."""

    def __init__(self, source):
        super().__init__(info=make_info(max_batch_tokens=64, max_batch_inputs=8))
        self.source = source

    async def run(self, batch, outputs, timeout_s):
        """See :class:`embeddings_gateway.workers.engine.Engine`."""
        for _ in range(self.source.randint(0, 5)):
            await asyncio.sleep(0)
        if any(ord("!") in ids for ids in batch.split()):
            raise self.source.choice(FAULTS[:-1])("it fails")
        if self.source.random() < 0.05:
            raise self.source.choice(FAULTS)("it fails")
        columns = right(batch, outputs)
        if "dense" in columns and self.source.random() < 0.05:
            columns["dense"] = Column(columns["dense"].values * np.float32(np.nan))
        return EngineResult(columns, 1e-3)


async def settle(model, source):
    """Make a call of random texts, outputs and options; tell what was wrong with its result, if anything."""
    texts = ["x" * source.randint(1, 40) + str(source.random()) for _ in range(source.randint(1, 30))]
    bad = {index for index in range(len(texts)) if source.random() < 0.03}
    for index in bad:
        texts[index] += "!"
    outputs = tuple(source.sample(OUTPUTS, source.randint(1, 3)))
    partial = source.random() < 0.5
    call = Call(
        texts,
        outputs,
        CallOptions(partial=partial),
        caller=Caller(source.choice("abc"), source.choice([1, 2]), source.choice(["interactive", "bulk"])),
        deadline=time.monotonic() + source.choice([0.0, 60.0, 60.0, 60.0]),
    )
    try:
        result = await model.run(call)
    except DeadlinePassed:
        return ""
    except InputFailed:
        return "" if not partial else "it failed, though partial"
    except GatewayError as error:
        return f"{error!r}"
    if bad - result.errors.keys():
        return "a bad input has a result"
    rest = [index for index in range(len(texts)) if index not in result.errors]
    return "" if not rest or equal(result.columns, alone(texts, outputs), rest) else "a wrong result"


@pytest.mark.parametrize("seed", range(4))
async def test_chaos(metrics, seed):
    """Under failures, crashes, deadlines and clients that leave, no call gets another call's result."""
    source = random.Random(seed)
    model = make_model(metrics, *(UnreliableEngine(source) for _ in range(3)), audit_every=3)
    calls = []
    for _ in range(60):
        calls.append(asyncio.ensure_future(settle(model, source)))
        if source.random() < 0.3:
            await asyncio.sleep(0)
        if source.random() < 0.1:
            source.choice(calls).cancel()
    outcomes = await asyncio.gather(*calls, return_exceptions=True)
    assert {outcome for outcome in outcomes if not isinstance(outcome, asyncio.CancelledError)} == {""}
    await all_quiet()
    assert repr(model._batcher) == "<Batcher 0 rows, 0 tokens, 0 running>"
    assert repr(model._batcher.admission) == "<Admission 0 tokens reserved>"
    assert not model._batcher._computes_bulk
