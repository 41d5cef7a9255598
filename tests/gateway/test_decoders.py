"""Decoders survive garbage collection: msgspec 0.22.0 crashes on a certain kind of type, now and then."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

PROGRAM = """
import gc
import msgspec
from embeddings_gateway.backends.messages import FromWorker, ToWorker
from embeddings_gateway.backends.spec import Spec
from embeddings_gateway.config import Config
from embeddings_gateway.api.encode import EmbeddingResponse
from embeddings_gateway.api.errors import ErrorBody
from embeddings_gateway.api.decode import Input, some_fields
from embeddings_gateway.api.schemas import EmbeddingRequest, StrictEmbeddingRequest

types = [ToWorker, FromWorker, Spec, Config, EmbeddingRequest, StrictEmbeddingRequest, ErrorBody]
types += [some_fields(EmbeddingRequest), some_fields(StrictEmbeddingRequest), Input]
decoders = [module.Decoder(one) for one in types for module in (msgspec.json, msgspec.msgpack)]
for _ in range(200):
    gc.collect()
    msgspec.convert({"backend": "hf", "path": "a/b", "device": "cuda:0"}, Spec)
print(len(decoders), "decoders live")
"""


@pytest.mark.parametrize("seed", ["0", "1", "2", "3"])
def test_garbage_collection(seed):
    """A process that has every decoder and collects garbage all the time does not crash."""
    ended = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env=os.environ | {"PYTHONHASHSEED": seed},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (ended.returncode, ended.stdout) == (0, "20 decoders live\n"), ended.stderr
