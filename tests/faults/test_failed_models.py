"""Models that cannot be served: they say so, and the others are served."""

from __future__ import annotations

import time

import pytest

from tests.faults.asking import answers
from tests.faults.models import FULL_SIZE, fault
from tests.faults.truth import Computed, vectors_of
from tests.faults.verdict import error_of
from tests.faults.watch import health, metric, starts
from tests.gateway.commands import run
from tests.server import eventually, serving

TRUTH = Computed("good")
AT_ONCE_S = 0.25


def assert_served(server) -> None:
    """Check that the good model is served."""
    texts = TRUTH.texts(0, 8)
    (reply,) = answers(server, "good", texts)
    assert reply.status == 200, reply.body
    assert TRUTH.right(texts, vectors_of(reply))


def refused_at_once(server) -> float:
    """Check that the bad model refuses a request with Retry-After; return how long that took."""
    (reply,) = answers(server, "bad", ["text"])
    assert reply.status == 503
    error = error_of(reply)
    assert (error["type"], error["code"], error["param"]) == ("server_error", "model_unavailable", "model")
    assert 1 <= int(reply.headers["retry-after"]) <= 120
    return reply.seconds


@pytest.mark.parametrize("loading", ["refuse", "abort", pytest.param("wrong", marks=FULL_SIZE)])
def test_one_model_fails(tmp_path, loading):
    """A model that refuses to load, ends its worker or fails its self-test is not served, with a reason."""
    with serving(tmp_path, fault("bad", loading=loading) + fault("good")) as server:
        eventually(lambda: health(server)[1]["bad"]["state"] == "failed")
        refused_at_once(server)
        assert_served(server)
        status, models = health(server)
        assert status == 503
        assert models["good"]["ready"]
        assert (models["bad"]["ready"], models["bad"]["state"]) == (False, "failed")
        assert models["bad"]["reason"]
        assert metric(server, "inputs_total", model="bad") == 0


@pytest.mark.parametrize("loading", [pytest.param("refuse", marks=FULL_SIZE), "wrong"])
def test_all_models_fail(tmp_path, loading):
    """If no model can be served, the process says why and ends with status 1."""
    (tmp_path / "gateway.toml").write_text(fault("bad", loading=loading) + fault("worse", loading=loading))
    finished = run("serve", "--port", "0", cwd=tmp_path)
    stderr = finished.stderr.decode()
    assert finished.returncode == 1
    assert "bad is failed" in stderr
    assert "worse is failed" in stderr


@FULL_SIZE
def test_one_never_loads(tmp_path, tell):
    """A model whose worker hangs whenever it loads is refused at once; the other is not affected."""
    with serving(tmp_path, fault("bad", loading="hang") + fault("good"), ready=False) as server:
        eventually(lambda: health(server)[1]["good"]["ready"])
        refused_s = []
        for _ in range(20):
            refused_s.append(refused_at_once(server))
            assert_served(server)
        assert not health(server)[1]["bad"]["ready"]
        before = starts(server, "bad")
        time.sleep(60)
        tell(refused_s_max=max(refused_s), starts_a_minute=starts(server, "bad") - before)
        assert max(refused_s) <= AT_ONCE_S
        assert starts(server, "bad") - before <= 8  # it is tried now and then, not all the time
        assert starts(server, "good") == 0
