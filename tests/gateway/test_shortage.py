"""Whether a worker was ended for lack of memory, judged by the system's count of such deaths."""

from __future__ import annotations

import pytest

from embeddings_gateway.workers.shortage import LATELY_S, Shortage, memory_deaths


@pytest.mark.parametrize(("said", "count"), [("nr_free_pages 5\noom_kill 3\nx 1\n", 3), ("", 0), (None, 0)])
def test_memory_deaths(tmp_path, said, count):
    """How many processes the system has ended for lack of memory, where it says so."""
    if said is not None:
        (tmp_path / "vmstat").write_text(said)
    assert memory_deaths(tmp_path / "vmstat") == count


def test_lately():
    """A death of the last seconds counts, although the count was looked at since; an older one does not."""
    deaths = 3
    shortage = Shortage(0, lambda: deaths)
    assert not shortage.lately
    deaths = 4
    for now in (1, LATELY_S, LATELY_S + 1, 2 * LATELY_S - 1):
        shortage.look(now)
        assert shortage.lately
    shortage.look(2 * LATELY_S)
    assert not shortage.lately
