"""Requests made from the API's own description, right and wrong ones: what is answered is described."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings

from embeddings_gateway.api.schemas import TIMEOUT_HEADER
from tests.faults.answers import WAIT_S, assert_serves
from tests.server import serving

schemathesis = pytest.importorskip("schemathesis", reason="schemathesis is not installed")
checks = pytest.importorskip("schemathesis.checks", reason="schemathesis is not installed")

FEW, MANY = 50, 2_000
CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_schema_conformance",
)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """Return a gateway with the fake backend."""
    with serving(tmp_path_factory.mktemp("server"), '[models.fake]\nbackend = "fake"\n') as running:
        yield running


@pytest.mark.parametrize("mode", ["positive", "negative"])
def test_what_the_description_makes(server, full_size, mode):
    """Whatever is made from the description, the answer is one that the description has."""
    api = schemathesis.openapi.from_url(f"{server.url}/docs/openapi.json")
    selected = [checks.CHECKS.get_one(name) for name in CHECKS]
    for result in api.get_all_operations():
        operation = result.ok()
        if mode == "negative" and not operation.body:
            continue  # there is nothing that could be wrong
        strategy = operation.as_strategy(generation_mode=schemathesis.GenerationMode(mode))

        def attempt(case):
            if (case.headers or {}).get(TIMEOUT_HEADER, "").isdigit():
                case.headers[TIMEOUT_HEADER] = "60000"  # a request that has a millisecond may well be 504
            answer = case.call(timeout=WAIT_S)
            case.validate_response(answer, checks=selected)

        many = MANY if full_size else FEW
        settings(max_examples=many, deadline=None, suppress_health_check=list(HealthCheck))(
            given(strategy)(attempt)
        )()
        assert_serves(server.url)
