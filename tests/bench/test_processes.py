"""What processes cost, and servers that do not start."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from bench.process_tree import MemorySampler, ProcessTree, rss_mb
from bench.server import Recipe, Server, ServerError


def test_a_process_tree_has_descendants():
    """A child counts for its parent: its memory while it lives, its processor time afterwards too."""
    tree = ProcessTree(os.getpid())
    used = tree.cpu_s()
    child = subprocess.Popen([sys.executable, "-c", "print(sum(range(10**6))); input()"], stdin=-1, stdout=-1)
    assert child.stdout.readline()
    assert child.pid in [process.pid for process in tree.family()]
    assert rss_mb(tree.family()) > rss_mb(tree.family()[:1]) > 0
    child.communicate(b"\n")
    assert tree.cpu_s() > used
    assert ProcessTree(child.pid).cpu_s() == 0


def test_memory_is_sampled_while_a_block_runs():
    """There is a peak even of the shortest block, and none without a process."""
    with MemorySampler(ProcessTree(os.getpid())) as sampler:
        pass
    assert sampler.rss_peak_mb > 1
    with MemorySampler(None) as sampler:
        pass
    assert sampler.rss_peak_mb is None


def test_a_server_that_ends_says_why():
    """The error carries the status and the last words."""
    command = (sys.executable, "-c", "import sys; sys.exit('no port {port} for me')")
    server = Server(Recipe(command=command, base="/v1", model="m"))
    with pytest.raises(ServerError, match=f"status 1: no port {server.address.port} for me"):
        server.ready()
    server.close()
