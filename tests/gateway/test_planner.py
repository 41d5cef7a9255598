"""The planner's promises, for queues and limits of every kind."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from itertools import takewhile

from hypothesis import given
from hypothesis import strategies as st

from gateway.batching.planner import Limits, cost, plan

NOW = 100.0


@dataclass(eq=False)
class Waiting:
    """A job as the planner sees it."""

    tokens: int
    overtaken: int = 0
    gone: bool = False
    deadline: float = NOW + 1


lengths = st.integers(1, 60)
limits = st.builds(
    Limits,
    cost=st.sampled_from(["padded", "packed"]),
    batch_tokens=st.integers(1, 200),
    batch_inputs=st.integers(1, 10),
    window_batches=st.integers(1, 4),
    overtakes_max=st.integers(0, 3),
)
fresh = st.lists(st.builds(Waiting, tokens=lengths), max_size=40)
mixed = st.lists(
    st.builds(
        Waiting,
        tokens=lengths,
        overtaken=st.integers(0, 4),
        gone=st.booleans(),
        deadline=st.sampled_from([NOW - 1, NOW, NOW + 1]),
    ),
    max_size=40,
)


def alive(jobs):
    """Return the jobs that somebody waits for and that are still in time."""
    return [job for job in jobs if not job.gone and job.deadline > NOW]


def batches(queue, bounds):
    """Run a queue empty; yield each plan with the queue as it was."""
    waiting = list(queue)
    while waiting:
        planned = plan(waiting, bounds, NOW)
        yield waiting, planned
        leaving = {id(job) for job in [*planned.run, *planned.drop]}
        assert leaving, "a queue that does not get shorter never ends"
        for job in planned.overtaken:
            job.overtaken += 1
        waiting = [job for job in waiting if id(job) not in leaving]


@given(mixed, limits)
def test_every_job_leaves_once(queue, bounds):
    """Each job leaves exactly once: run if it is alive, dropped if it is gone or expired."""
    plans = [planned for _, planned in batches(queue, bounds)]
    run = [id(job) for planned in plans for job in planned.run]
    drop = [id(job) for planned in plans for job in planned.drop]
    assert sorted(run) == sorted(map(id, alive(queue)))
    assert sorted(run + drop) == sorted(map(id, queue))


@given(mixed, limits)
def test_limits_hold(queue, bounds):
    """A batch is within the budget and the count, unless it is one job alone."""
    for _, planned in batches(queue, bounds):
        assert len(planned.run) <= bounds.batch_inputs
        assert len(planned.run) <= 1 or cost(planned.run, bounds) <= bounds.batch_tokens


@given(mixed, limits)
def test_head_leaves(queue, bounds):
    """The first job that is alive is in the batch."""
    for waiting, planned in batches(queue, bounds):
        assert [job for job in planned.run if job in alive(waiting)[:1]] == alive(waiting)[:1]


@given(fresh, st.lists(st.lists(st.builds(Waiting, tokens=lengths), max_size=8), max_size=20), limits)
def test_overtaking_is_bounded(queue, arrivals, bounds):
    """No job is overtaken by more than the bound, however many arrive behind it."""
    waiting, arriving = list(queue), iter(arrivals)
    overtakes = {id(job): 0 for job in [*queue, *(job for some in arrivals for job in some)]}
    while waiting := [*waiting, *next(arriving, [])]:
        planned = plan(waiting, bounds, NOW)
        last = max(waiting.index(job) for job in planned.run)
        passed = [job for job in waiting[:last] if job not in planned.run]
        assert planned.overtaken == passed
        for job in passed:
            job.overtaken += 1
            overtakes[id(job)] += 1
        waiting = [job for job in waiting if job not in planned.run]
    assert max(overtakes.values(), default=0) <= bounds.overtakes_max


@given(mixed, limits)
def test_order_within_a_batch(queue, bounds):
    """The jobs of a batch stand in the order in which they waited."""
    for waiting, planned in batches(queue, bounds):
        places = [waiting.index(job) for job in planned.run]
        assert places == sorted(places)


@given(fresh, limits)
def test_padding_is_bounded(queue, bounds):
    """While nothing has been overtaken too often, a padded batch holds jobs of like length only."""
    for waiting, planned in batches(queue, bounds._replace(cost="padded")):
        if max(job.overtaken for job in waiting) < bounds.overtakes_max:
            longest = max(job.tokens for job in planned.run)
            assert longest - min(job.tokens for job in planned.run) <= max(8, longest // 4)


@given(mixed, limits)
def test_purity(queue, bounds):
    """Planning changes no job, and the same queue gets the same plan."""
    before = copy.deepcopy(queue)
    first, second = plan(iter(queue), bounds, NOW), plan(tuple(queue), bounds, NOW)
    assert first == second
    assert [vars(job) for job in queue] == [vars(job) for job in before]


@given(fresh, limits)
def test_window(queue, bounds):
    """Only the first few batches' worth of tokens, or of jobs, are looked at."""
    seen = []
    planned = plan((seen.append(job) or job for job in queue), bounds, NOW)
    enough = bounds.window_batches * bounds.batch_tokens
    many = bounds.window_batches * bounds.batch_inputs
    within = list(
        takewhile(lambda n: sum(job.tokens for job in queue[:n]) < enough and n < many, range(len(queue)))
    )
    assert len(seen) == len(within)
    assert all(job in seen for job in planned.run)


def test_likeness():
    """A padded batch takes the head's likes from behind an unlike job; a packed one takes all that fits."""
    queue = [Waiting(10), Waiting(90), Waiting(11), Waiting(9)]
    bounds = Limits("padded", batch_tokens=200, batch_inputs=8)
    assert [job.tokens for job in plan(queue, bounds, NOW).run] == [10, 11, 9]
    assert [job.tokens for job in plan(queue, bounds._replace(cost="packed"), NOW).run] == [10, 90, 11, 9]


def test_overtaken_too_often():
    """A job that was overtaken as often as allowed puts an end to sorting."""
    queue = [Waiting(10), Waiting(90, overtaken=8), Waiting(11)]
    planned = plan(queue, Limits("padded", batch_tokens=200, batch_inputs=8), NOW)
    assert [job.tokens for job in planned.run] == [10, 90]
    assert planned.overtaken == []


def test_costs():
    """A padded batch costs its longest job times the count, a packed one the sum."""
    jobs = [Waiting(3), Waiting(10)]
    assert cost(jobs, Limits("padded", 1, 1)) == 20
    assert cost(jobs, Limits("packed", 1, 1)) == 13


def test_larger_than_the_budget():
    """A job that alone exceeds the budget runs alone."""
    planned = plan([Waiting(500), Waiting(1)], Limits("packed", batch_tokens=100, batch_inputs=8), NOW)
    assert [job.tokens for job in planned.run] == [500]


def test_nothing_waits():
    """An empty queue, or one of jobs that nobody waits for, gives an empty batch that is not full."""
    bounds = Limits("padded", batch_tokens=100, batch_inputs=8)
    gone = Waiting(1, gone=True)
    assert plan([], bounds, NOW) == ([], [], [], False)
    assert plan([gone], bounds, NOW) == ([], [gone], [], False)


def test_full():
    """A batch is full when it is half of the budget, has all the jobs it may, or others wait beside it."""
    bounds = Limits("packed", batch_tokens=100, batch_inputs=4)
    assert not plan([Waiting(49)], bounds, NOW).full
    assert plan([Waiting(50)], bounds, NOW).full
    assert not plan([Waiting(1)] * 3, bounds, NOW).full
    assert plan([Waiting(1) for _ in range(4)], bounds, NOW).full
    assert plan([Waiting(10), Waiting(95)], bounds, NOW).full
