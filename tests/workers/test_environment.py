"""The environment variables that a worker gets."""

from __future__ import annotations

import pytest

from embeddings_gateway.backends.spec import FakeSpec, GgufSpec, HfSpec
from embeddings_gateway.workers.local.environment import worker_environment

LOCAL, PACKAGE, HUB = (HfSpec(path=path) for path in ("/models/a", "package:a/b", "org/name"))
FAKE = FakeSpec()


def test_waiting_threads_do_not_spin_for_long():
    """Unless the operator says otherwise, OpenMP threads sleep while they wait, after a moment."""
    settings = worker_environment(FakeSpec(threads=3), {})
    assert settings["OMP_WAIT_POLICY"] == "PASSIVE"
    assert 0 < int(settings["GOMP_SPINCOUNT"]) < 1000
    assert settings["OMP_NUM_THREADS"] == "3"
    assert "OMP_NUM_THREADS" not in worker_environment(FAKE, {})


def test_a_worker_has_few_heaps():
    """A worker's C library keeps two heaps, unless the operator wants another number."""
    assert worker_environment(FAKE, {})["MALLOC_ARENA_MAX"] == "2"
    assert worker_environment(FAKE, {"MALLOC_ARENA_MAX": "8"})["MALLOC_ARENA_MAX"] == "8"


def test_settings_of_the_operator():
    """Settings of engines in the gateway's environment are passed on, and take precedence over ours."""
    own = {"OMP_WAIT_POLICY": "ACTIVE", "OMP_NUM_THREADS": "2", "HOME": "/nowhere", "LC_ALL": "C"}
    settings = worker_environment(FakeSpec(threads=3), own)
    assert settings | own == settings
    assert "GOMP_SPINCOUNT" not in settings
    assert worker_environment(FAKE, {"GOMP_SPINCOUNT": "9"})["GOMP_SPINCOUNT"] == "9"


@pytest.mark.parametrize("spec", [FAKE, LOCAL, PACKAGE, HUB, GgufSpec(path="/m.gguf")], ids=str)
def test_secrets_stay_with_the_gateway(spec):
    """No worker gets a variable that is not known, which may be another program's secret."""
    secrets = {"AWS_SECRET_ACCESS_KEY": "1", "DB_PASSWORD": "2", "OPENAI_API_KEY": "3", "NOTIFY_SOCKET": "4"}
    assert not worker_environment(spec, secrets).keys() & secrets.keys()


def test_only_a_worker_that_downloads_gets_what_that_needs():
    """The hub's token, proxies and certificates are for models of the hub only."""
    own = {"HF_TOKEN": "1", "HTTPS_PROXY": "2", "no_proxy": "3", "SSL_CERT_FILE": "4"}
    assert worker_environment(HUB, own).items() >= own.items()
    for spec in (LOCAL, PACKAGE, FAKE):
        assert not worker_environment(spec, own).keys() & own.keys()


def test_more_variables_by_configuration():
    """A model's ``environment`` names variables that its worker gets besides."""
    spec = FakeSpec(environment=("MY_ENGINE", "ABSENT"))
    passed = worker_environment(spec, {"MY_ENGINE": "1", "MY_ENGINES": "2"})
    assert passed["MY_ENGINE"] == "1"
    assert not passed.keys() & {"MY_ENGINES", "ABSENT"}
