"""How the values that a field takes are described."""

from __future__ import annotations

import msgspec
import pytest

from embeddings_gateway.allowed_values import describe, explain_value
from embeddings_gateway.api.schemas import EmbeddingRequest
from embeddings_gateway.config import Truncate

REQUEST = {
    "model": "a string",
    "input": "a string or a list, each item a string, an integer or a list of integers",
    "encoding_format": "one of float, base64",
    "dimensions": "an integer of at least 1",
    "truncate": (
        "error (NONE or false), right (END or true), left (START) or mean: what happens to an input that is too long"
    ),
    "input_type": (
        "query (search_query) or document (search_document, passage): "
        "which of the model's prompts is put before each text"
    ),
    "partial": "true or false",
}


@pytest.mark.parametrize("name", REQUEST)
def test_fields_of_a_request(name):
    """Each field of a request is described by the values that it takes."""
    (field,) = (field for field in msgspec.structs.fields(EmbeddingRequest) if field.name == name)
    assert describe(field.type) == REQUEST[name]


def test_values():
    """A value that fits needs no explanation; one that does not is shown, shortened, with what is allowed."""
    assert explain_value("left", Truncate, "truncate") == ""
    assert explain_value(None, Truncate, "truncate") == (
        "truncate is None: set it to one of error, right, left, mean"
    )
    assert len(explain_value("x" * 10_000, Truncate, "truncate")) < 100
