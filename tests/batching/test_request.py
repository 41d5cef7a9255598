"""The rows of a call settle exactly once, and their results stand in the order of the rows."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from embeddings_gateway.backends.base import Batch
from embeddings_gateway.batching.request import Request
from embeddings_gateway.errors import InputFailed, InvalidRequest, ModelUnavailable
from tests.gateway.fakes import BACKEND, OUTPUTS, make_ids, make_request, right, same, vectors

pytestmark = pytest.mark.anyio


def settle(request, *rows):
    """Give rows their right results."""
    array = np.array(rows, np.int64)
    request.settle(array, right(request.batch.select(array), request.outputs))


@pytest.mark.parametrize("order", list(itertools.permutations([(0, 2), (1,), (3, 4)])))
async def test_results_in_their_rows(order):
    """Every output has the result of row i at i, in whatever order and parts they come."""
    batch = BACKEND.tokenize(["one", "", "three", "four four", "5"])
    request = Request(batch, OUTPUTS)
    for rows in order:
        assert not request.done.done()
        settle(request, *rows)
    assert request.done.result() is None
    expected = right(batch, OUTPUTS)
    assert all(same(request.columns()[output], expected[output]) for output in OUTPUTS)


@pytest.mark.parametrize("failed", [[0], [1, 3], [4, 2], [0, 1, 2, 3, 4]])
async def test_rows_that_failed(failed):
    """A row that failed has an error, and no values; the others have theirs."""
    batch = BACKEND.tokenize(["one", "", "three", "four four", "5"])
    request = Request(batch, OUTPUTS, partial=True)
    rest = [row for row in range(5) if row not in failed]
    for row in failed[:1]:
        request.fail(row, InputFailed("no"))
    if rest:
        settle(request, *rest[::2])
        if rest[1::2]:
            settle(request, *rest[1::2])
    for row in failed[1:]:
        request.fail(row, InputFailed("no"))
    assert request.done.result() is None
    assert sorted(request.errors) == sorted(failed)
    columns, expected = request.columns(), right(batch, OUTPUTS)
    assert all(len(column) == 5 for column in columns.values())
    kept, lost = np.array(rest, np.int64), np.array(failed, np.int64)
    for output in OUTPUTS if rest else ():
        assert same(columns[output].select(kept), expected[output].select(kept))
        values = columns[output].select(lost).values
        assert np.isnan(values).all()  # of sparse and multi_vector there are none


async def test_settled_twice():
    """Settling or failing a row a second time raises, and the first result stays."""
    request = make_request(1, 1)
    settle(request, 0)
    with pytest.raises(ValueError, match="twice"):
        request.settle(np.array([0, 1]), right(request.batch.select(np.array([1, 1]))))
    with pytest.raises(ValueError, match="twice"):
        request.fail(0, InputFailed("late"))
    assert not request.done.done()
    settle(request, 1)
    assert np.array_equal(vectors(request), right(request.batch)["dense"].values)
    with pytest.raises(ValueError, match="twice"):
        settle(request, 0, 1)


async def test_first_error_ends_it():
    """Without partial results the first error is the request's, and what comes later is ignored."""
    request, error = make_request(1, 1, 1), InputFailed("first")
    request.fail(1, error)
    request.fail(0, InputFailed("second"))
    settle(request, 2)
    assert request.done.exception() is error


async def test_failures_that_no_input_caused_are_never_partial():
    """A failure that no input caused fails the request, also with partial results."""
    request = make_request(1, 1, partial=True)
    settle(request, 0)
    request.fail(1, ModelUnavailable("gone"))
    with pytest.raises(ModelUnavailable):
        await request.done


async def test_errors_of_open_rows():
    """Rows that are not settled can be failed together, each with an error of its own."""
    request = make_request(1, 1, 1, partial=True)
    settle(request, 1)
    request.fail_unsettled(np.arange(3), lambda: InputFailed("no"))
    assert sorted(request.errors) == [0, 2]
    assert request.errors[0] is not request.errors[2]
    assert request.done.result() is None


async def test_cancelled():
    """A cancelled request ignores results that still arrive."""
    request = make_request(1, 1, partial=True)
    request.done.cancel()
    settle(request, 0)
    request.fail(1, ModelUnavailable("late"))
    assert request.done.cancelled()


async def test_refused_before_it_waits():
    """A row that has no ids is settled from the start, and is not computed."""
    error = InvalidRequest("too long")
    batch = Batch.of([make_ids(2), np.empty(0, np.int32), make_ids(3)])
    request = Request(batch, errors={1: error}, partial=True)
    assert request.rows.tolist() == [0, 2]
    assert request.tokens == 5
    assert request.errors == {1: error}
    assert not request.done.done()


@pytest.mark.parametrize(
    "left_out", [{"errors": {0: InvalidRequest("no")}, "partial": True}, {"outputs": ()}]
)
async def test_nothing_to_wait_for(left_out):
    """A request of which all rows were refused, or of no output, is done from the start."""
    request = Request(Batch.of([make_ids(1)]), **left_out)
    assert request.done.result() is None
    assert len(request.rows) == 0
    assert request.seconds()[1] == 0.0
