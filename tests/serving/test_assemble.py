"""From the results of rows to those of inputs: windows averaged, vectors cut, in short turns of the loop."""

from __future__ import annotations

import numpy as np
import pytest

from embeddings_gateway.backends.base import Batch, Column
from embeddings_gateway.batching.request import Request
from embeddings_gateway.errors import InputFailed
from embeddings_gateway.serving.assemble import Windows, assemble, cut, mean
from embeddings_gateway.serving.yield_to_loop import MAX_WORK, LoopYielder
from tests.gateway.fakes import BACKEND, OUTPUTS, make_ids, make_info, right, same
from tests.serving.turns import Turns

pytestmark = pytest.mark.anyio

INFO = make_info(dimensions=2)
WINDOWS = Windows(np.array([0, 1, 1, 1, 2]), np.array([3, 10, 10, 5, 7]))
"""Of five rows; the second input has three."""


def make_request(vectors, failed=()):
    """Return a finished request of these vectors, of which some rows failed."""
    vectors = np.array(vectors, np.float32)
    request = Request(Batch.of([make_ids(1) for _ in vectors]), partial=True)
    for row in failed:
        request.fail(row, InputFailed(f"row {row}"))
    request.settle(request.rows, {"dense": Column(vectors[request.rows])})
    return request


async def test_rows_are_inputs():
    """Without windows all columns are those of the rows, as they are."""
    batch = BACKEND.tokenize(["a", "bc"])
    request = Request(batch, OUTPUTS)
    columns = right(batch, OUTPUTS)
    request.settle(request.rows, columns)
    assembled = await assemble(request, None, None, BACKEND.info)
    assert all(same(assembled.columns[output], columns[output]) for output in OUTPUTS)
    assert assembled.errors == {}


async def test_mean_of_windows():
    """An input of several windows has the mean of their vectors by their tokens of text, of unit length."""
    rows = np.array([[1, 0], [1, 0], [0, 1], [-1, 0], [0, -1]], np.float32)
    assembled = await assemble(make_request(rows), WINDOWS, None, INFO)
    total = np.array([10 - 5, 10], np.float32)
    expected = np.stack([rows[0], total / np.linalg.norm(total), rows[4]])
    assert np.allclose(assembled.columns["dense"].values, expected, atol=1e-6)
    assert np.array_equal(mean(rows[1:4], WINDOWS.weights[1:4], False), (total / 25).astype(np.float32))
    assert WINDOWS.averaged().tolist() == [1]


@pytest.mark.parametrize(
    ("failed", "errors"), [([2], {1: "row 2"}), ([3, 1], {1: "row 1"}), ([0, 4], {0: "row 0", 2: "row 4"})]
)
async def test_windows_that_failed(failed, errors):
    """An input of which a window failed has failed, with the error of the first; the others are whole."""
    rows = np.array([[1, 0]] * 5, np.float32)
    assembled = await assemble(make_request(rows, failed), WINDOWS, None, INFO)
    assert {index: error.message for index, error in assembled.errors.items()} == errors
    rest = [index for index in range(3) if index not in errors]
    assert np.array_equal(assembled.columns["dense"].values[rest], [[1, 0]] * len(rest))


@pytest.mark.parametrize("dimensions", [None, 1])
@pytest.mark.parametrize("windows", [None, WINDOWS])
async def test_all_failed(windows, dimensions):
    """Also where every row failed there is an entry for each input."""
    assembled = await assemble(make_request(np.zeros((5, 2)), range(5)), windows, dimensions, INFO)
    assert len(assembled.columns["dense"]) == len(assembled.errors) == (5 if windows is None else 3)


async def test_windows_without_an_output():
    """Where nothing is computed of windows, inputs still have their errors under their own numbers."""
    error = InputFailed("no")
    request = Request(Batch.of([np.empty(0, np.int32)] * 5), (), errors={4: error}, partial=True)
    assembled = await assemble(request, WINDOWS, None, INFO)
    assert (assembled.columns, assembled.errors) == ({}, {2: error})


async def test_windows_that_cancel_out():
    """Windows whose mean is nothing have no vector of unit length: the input fails, by name."""
    rows = [[1, 0], [1, 0], [-1, 0], [0, 0], [0, 1]]
    assembled = await assemble(make_request(rows), WINDOWS, None, INFO)
    assert {index: error.param for index, error in assembled.errors.items()} == {1: "input[1]"}


async def test_fewer_dimensions():
    """Vectors are cut and renormalised where they have unit length; one with nothing left fails, by name."""
    info = make_info(dimensions=3)
    rows = np.array([[0.6, 0, 0.8], [0, 0, 1], [0, 1, 0]], np.float32)
    assembled = await assemble(make_request(rows), None, 2, info)
    assert {index: error.param for index, error in assembled.errors.items()} == {1: "input[1]"}
    assert np.array_equal(assembled.columns["dense"].values[[0, 2]], [[1, 0], [0, 1]])
    assert np.array_equal(cut(rows, 2, False), rows[:, :2])


async def test_yield_to_loop():
    """Other tasks run as soon as enough has been done since they last ran, and not before."""
    yielder = LoopYielder()
    counts = []
    async with Turns() as turns:
        for _ in range(5):
            await yielder.yield_to_loop(MAX_WORK // 2)
            counts.append(turns.count)
    assert counts == [0, 1, 1, 2, 2]


@pytest.mark.parametrize("windows", [False, True])
async def test_long_work_is_done_in_turns(windows):
    """Large results are averaged and cut in many turns of the loop, each row as it would be alone."""
    width = 1024
    rows = np.random.default_rng(1).standard_normal((200, width)).astype(np.float32)
    input_indices = np.repeat(np.arange(100), 2)
    async with Turns() as turns:
        assembled = await assemble(
            make_request(rows),
            Windows(input_indices, np.ones(200, np.int64)) if windows else None,
            None if windows else 256,
            make_info(dimensions=width),
        )
    assert turns.count >= rows.size // MAX_WORK
    expected = rows[::2] + rows[1::2] if windows else rows[:, :256]
    expected = expected / np.linalg.norm(expected, axis=1, keepdims=True)
    assert np.allclose(assembled.columns["dense"].values, expected, atol=1e-6)
