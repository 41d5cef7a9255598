"""A GGUF file that is written to while it is served: no vector of what it became is given out."""

from __future__ import annotations

import shutil

import pytest

pytest.importorskip("llama_cpp", reason="the gguf extra is not installed")

from embeddings_gateway.backends.spec import GgufSpec
from embeddings_gateway.workers.engine import WorkerGone
from embeddings_gateway.workers.local.launcher import startup

pytestmark = pytest.mark.anyio


@pytest.fixture
async def served(bert_file, tmp_path):
    """Return a file of its own, and the link to a worker that serves it."""
    path = shutil.copy(bert_file("mean"), tmp_path / "model.gguf")
    link = await startup(GgufSpec(path=str(path), threads=1))
    yield path, link
    await link.close()


async def test_written_in_place(served):
    """After other weights were copied over the file, the worker computes nothing more and is ended."""
    path, link = served
    content = path.read_bytes()
    middle = len(content) // 2
    batch = (await link.tokenize(["a river"])).batch
    assert len((await link.run(batch, ("dense",))).columns["dense"]) == 1
    with path.open("r+b") as file:
        file.seek(middle)
        file.write(content[middle + 64 :] + content[middle : middle + 64])
    with pytest.raises(WorkerGone):
        await link.run(batch, ("dense",))
    assert (await link.ended()).how == f"{path} was changed while it was served"


async def test_renamed_over(served):
    """A file that another one is renamed over is served on: the worker still has the old one."""
    path, link = served
    before = (await link.run((await link.tokenize(["a river"])).batch, ("dense",))).columns["dense"]
    path.with_name("new").write_bytes(b"no model at all")
    path.with_name("new").rename(path)
    after = (await link.run((await link.tokenize(["a river"])).batch, ("dense",))).columns["dense"]
    assert (after.values == before.values).all()
    assert await link.check() == ""
