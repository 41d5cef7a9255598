"""A request settles exactly once, whatever happens to its inputs."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from embeddings_gateway.batching.job import Request
from embeddings_gateway.errors import InputFailed, InvalidRequest, ModelUnavailable
from tests.gateway.fakes import WIDTH, blank, expected, make_ids, make_request

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
async def test_vectors_in_their_rows(order):
    """Each vector lies in the row of its input, in whatever order they come."""
    request = make_request(1, 2, 3)
    vectors = expected(request)
    for index in order:
        assert not request.done.done()
        request.settle(index, vectors[index])
    assert request.done.result() is None
    assert np.array_equal(request.vectors, vectors)


async def test_rows_are_nan_until_settled():
    """A row without a vector is NaN, never a number that could be taken for one."""
    request = make_request(1, 2)
    assert np.isnan(request.vectors).all()
    request.settle(1, expected(request)[1])
    assert np.isnan(request.vectors[0]).all()
    assert np.isfinite(request.vectors[1]).all()


async def test_row_is_a_copy():
    """What happens to a worker's array afterwards does not change a vector."""
    request = make_request(1)
    vectors = expected(request)
    request.settle(0, vectors[0])
    vectors[:] = 7
    assert np.array_equal(request.vectors, expected(request))


async def test_settled_twice():
    """An input that is settled a second time is a mistake that is told, and the first vector stands."""
    request = make_request(1, 1)
    request.settle(0, expected(request)[0])
    with pytest.raises(KeyError):
        request.settle(0, np.zeros(WIDTH, np.float32))
    assert np.array_equal(request.vectors[0], expected(request)[0])


async def test_first_error_ends_it():
    """Without partial results the first error is the request's, and what comes later is ignored."""
    request, error = make_request(1, 1, 1), InputFailed("first")
    request.settle(1, error)
    request.settle(0, InputFailed("second"))
    request.settle(2, expected(request)[2])
    assert request.done.exception() is error


async def test_partial():
    """With partial results an error is kept beside the vectors of the others."""
    request, error = make_request(1, 1, partial=True), InputFailed("this one")
    request.settle(0, error)
    assert not request.done.done()
    request.settle(1, expected(request)[1])
    assert request.done.result() is None
    assert request.errors == {0: error}
    assert np.isnan(request.vectors[0]).all()
    assert np.array_equal(request.vectors[1], expected(request)[1])


async def test_cancelled():
    """A request whose client went away takes what still arrives without a word."""
    request = make_request(1, 1, partial=True)
    assert not request.jobs[0].gone
    request.done.cancel()
    assert all(job.gone for job in request.jobs)
    request.settle(0, expected(request)[0])
    request.settle(1, ModelUnavailable("late"))
    assert request.done.cancelled()


async def test_refused_before_it_waits():
    """An input that has no ids is settled from the start, and is no job."""
    error = InvalidRequest("too long")
    request = Request([make_ids(2), error, make_ids(3)], blank(3, WIDTH), 1.0, partial=True)
    assert [(job.index, job.tokens) for job in request.jobs] == [(0, 2), (2, 3)]
    assert request.tokens == 5
    assert request.errors == {1: error}
    assert not request.done.done()


async def test_nothing_left_to_wait_for():
    """A request is done from the start when all its inputs were refused."""
    request = Request([InvalidRequest("too long")] * 2, WIDTH, 1.0, partial=True)
    assert request.done.result() is None
    assert len(request.errors) == 2
    assert request.seconds(since=0.0)["infer"] == 0.0


async def test_repr():
    """A request says how much of it is open."""
    request = make_request(2, 3)
    request.settle(0, expected(request)[0])
    assert repr(request) == "<Request 2 jobs, 1 open, 5 tokens>"


async def test_partial_results_are_for_faults_of_inputs():
    """What is no fault of an input fails the request, also where partial results were asked for."""
    request = make_request(1, 1, partial=True)
    request.settle(0, expected(request)[0])
    request.settle(1, ModelUnavailable("gone"))
    with pytest.raises(ModelUnavailable):
        await request.done
