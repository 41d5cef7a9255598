"""A model that must not load, and how to spoil one."""

from __future__ import annotations

import json

import pytest

from embeddings_gateway.backends.base import LoadError
from embeddings_gateway.backends.hf.backend import HfBackend
from embeddings_gateway.backends.spec import HfSpec
from tests.hf.torch_settings import TORCH
from tests.make_hf import write_json


def refused(directory, **settings):
    """Return the message of the LoadError."""
    with pytest.raises(LoadError) as caught:
        HfBackend(HfSpec(path=str(directory), **{**TORCH, **settings}))
    return str(caught.value)


def change(path, **values):
    """Change values of a JSON file."""
    content = json.loads(path.read_text()) if path.exists() else {}
    write_json(path, {**content, **values})
