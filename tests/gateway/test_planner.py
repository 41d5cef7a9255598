"""The planner's promises, for queues and limits of every kind."""

from __future__ import annotations

import copy
from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from embeddings_gateway.batching.planner import Limits, cost, plan

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


def looked_at(queue, bounds):
    """Return the jobs from the head that the planner may choose from."""
    window = []
    for job in alive(queue):
        window.append(job)
        if (
            sum(one.tokens for one in window) >= bounds.window_batches * bounds.batch_tokens
            or len(window) >= bounds.window_batches * bounds.batch_inputs
        ):
            break
    return window


def padding(jobs):
    """Return the tokens that a padded batch of these jobs computes for nothing."""
    return max(job.tokens for job in jobs) * len(jobs) - sum(job.tokens for job in jobs)


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
def test_first_leaves(queue, bounds):
    """The first overdue job of the window is in the batch; where none is overdue, the head."""
    for waiting, planned in batches(queue, bounds):
        window = looked_at(waiting, bounds)
        overdue = [job for job in window if job.overtaken >= bounds.overtakes_max]
        assert all(job in planned.run for job in (overdue or window)[:1])


@given(
    st.lists(
        st.lists(st.tuples(st.floats(0, 1), st.builds(Waiting, tokens=lengths)), max_size=12), max_size=25
    ),
    limits,
)
def test_overtaking_is_bounded(arrivals, bounds):
    """No job is overtaken by more than the bound, wherever in the order others arrive, however alike."""
    waiting, arriving = [], iter(arrivals)
    overtakes = {id(job): 0 for some in arrivals for _, job in some}
    more = True
    while more or waiting:
        more = next(arriving, [])
        for where, job in more:
            waiting.insert(round(where * len(waiting)), job)
        planned = plan(waiting, bounds, NOW)
        last = max((waiting.index(job) for job in planned.run), default=0)
        passed = [job for job in waiting[:last] if job not in planned.run]
        assert planned.overtaken == passed
        for job in passed:
            job.overtaken += 1
            overtakes[id(job)] += 1
        waiting = [job for job in waiting if job not in planned.run]
    assert max(overtakes.values(), default=0) <= bounds.overtakes_max


@given(fresh, st.lists(st.lists(st.builds(Waiting, tokens=lengths), max_size=12), max_size=25), limits)
def test_waiting_is_bounded(queue, arrivals, bounds):
    """A job that nothing is put before waits for a batch a job before it and ``overtakes_max``, at most."""
    waiting, arriving = list(queue), iter(arrivals)
    left = {id(job): place for place, job in enumerate(waiting)}
    while waiting:
        planned = plan(waiting, bounds, NOW)
        for job in planned.overtaken:
            job.overtaken += 1
        waiting = [job for job in waiting if job not in planned.run]
        for job in waiting:
            left[id(job)] -= 1
            assert left[id(job)] >= -bounds.overtakes_max
        more = next(arriving, [])
        left |= {id(job): len(waiting) + place for place, job in enumerate(more)}
        waiting += more


@given(mixed, limits)
def test_order_within_a_batch(queue, bounds):
    """The jobs of a batch stand in the order in which they waited."""
    for waiting, planned in batches(queue, bounds):
        places = [waiting.index(job) for job in planned.run]
        assert places == sorted(places)


@given(mixed, limits)
def test_padding_is_bounded(queue, bounds):
    """Padding is at most a tenth of a batch's cost, or a small part of the budget, whatever is overdue."""
    bounds = bounds._replace(cost="padded", batch_tokens=4 * bounds.batch_tokens)
    for _, planned in batches(queue, bounds):
        if planned.run:
            assert padding(planned.run) <= max(cost(planned.run, bounds) / 10, bounds.batch_tokens / 32)


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
    assert seen == looked_at(queue, bounds)
    assert all(job in seen for job in planned.run)


def test_likeness():
    """A padded batch takes the head's likes from behind an unlike job."""
    queue = [Waiting(10), Waiting(90), Waiting(11), Waiting(9)]
    bounds = Limits("padded", batch_tokens=200, batch_inputs=8)
    assert [job.tokens for job in plan(queue, bounds, NOW).run] == [10, 11, 9]


def test_least_padding():
    """Of jobs that would do, those leave that need the least padding, and the oldest of equals."""
    queue = [Waiting(50), Waiting(48), Waiting(51), Waiting(49), Waiting(49), Waiting(49)]
    bounds = Limits("padded", batch_tokens=2000, batch_inputs=3)
    assert plan(queue, bounds, NOW).run == [queue[0], queue[3], queue[4]]


def test_what_a_longer_job_costs():
    """A longer job is weighed with the padding of all that it would join."""
    queue = [Waiting(50), Waiting(50), Waiting(50), Waiting(51), Waiting(48)]
    bounds = Limits("padded", batch_tokens=2000, batch_inputs=4)
    assert plan(queue, bounds, NOW).run == [*queue[:3], queue[4]]


def test_packed():
    """A packed batch takes in order whatever fits, however unlike."""
    queue = [Waiting(10), Waiting(90), Waiting(195), Waiting(100), Waiting(11)]
    bounds = Limits("packed", batch_tokens=200, batch_inputs=8)
    assert [job.tokens for job in plan(queue, bounds, NOW).run] == [10, 90, 100]


def test_overdue():
    """A batch is put together round the first overdue job, and never behind one that it leaves."""
    bounds = Limits("padded", batch_tokens=600, batch_inputs=8)
    queue = [Waiting(tokens) for tokens in (10, 90, 11, 91, 92, 12, 90)]
    for place in (1, 4, 5):
        queue[place].overtaken = bounds.overtakes_max
    planned = plan(queue, bounds, NOW)
    assert planned.run == [queue[1], queue[3], queue[4]]
    assert planned.overtaken == [queue[0], queue[2]]


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
