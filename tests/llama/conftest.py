"""GGUF files, each written once a session from real or tiny random weights, and backends on them."""

from __future__ import annotations

from pathlib import Path

import pytest

from embeddings_gateway.backends.spec import GgufSpec
from tests.conftest import THREADS

WORDS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefghijklmnopqrstuvwxyz")
PIECES = ("<pad>", "</s>", "<unk>", "\u2581", *"abcdefghijklmnopqrstuvwxyz", "\u2581the", "ing")


@pytest.fixture(scope="session")
def tiny_bert(transformers):
    """Return a random BertModel of 64 positions."""
    config = transformers.BertConfig(
        vocab_size=len(WORDS),
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=128,
        max_position_embeddings=64,
    )
    return random_model(transformers, transformers.BertModel, config, add_pooling_layer=False)


@pytest.fixture(scope="session")
def bert_file(make_gguf, tiny_bert, tmp_path_factory):
    """Return a function from a pooling to a GGUF file of the tiny BERT; without one the file names none."""
    folder = tmp_path_factory.mktemp("bert")

    def write(pooling: str | None) -> Path:
        path = folder / f"{pooling}.gguf"
        if not path.exists():
            make_gguf.write_bert(path, state(tiny_bert), tiny_bert.config, WORDS, pooling=pooling)
        return path

    return write


@pytest.fixture(scope="session")
def tiny_qwen3(make_gguf, transformers):
    """Return a random Qwen3Model over single bytes, of 4096 positions."""
    config = transformers.Qwen3Config(
        vocab_size=len(make_gguf.bytes_vocabulary()),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        max_position_embeddings=4096,
    )
    return random_model(transformers, transformers.Qwen3Model, config)


@pytest.fixture(scope="session")
def qwen3_file(make_gguf, tiny_qwen3, tmp_path_factory):
    """Return a function that writes the tiny Qwen3 with a pooling, an end token or none, a pre-tokenizer."""
    folder = tmp_path_factory.mktemp("qwen3")

    def write(pooling: str = "last", *, adds_end: bool | None = True, pre: str = "qwen2") -> Path:
        path = folder / f"{pooling}-{adds_end}-{pre}.gguf"
        if not path.exists():
            make_gguf.write_qwen3(
                path, state(tiny_qwen3), tiny_qwen3.config, pooling=pooling, adds_end=adds_end, pre=pre
            )
        return path

    return write


@pytest.fixture(scope="session")
def tiny_t5(transformers):
    """Return the encoder of a random T5."""
    config = transformers.T5Config(
        vocab_size=len(PIECES), d_model=64, d_kv=16, num_heads=4, num_layers=2, d_ff=128
    )
    config.feed_forward_proj = "gated-gelu"
    return random_model(transformers, transformers.T5EncoderModel, config)


@pytest.fixture(scope="session")
def t5_file(make_gguf, tiny_t5, tmp_path_factory):
    """Return a GGUF file of the tiny T5 encoder, pooled by mean."""
    scored = [(piece, -float(i)) for i, piece in enumerate(PIECES)]
    path = tmp_path_factory.mktemp("t5") / "t5.gguf"
    return make_gguf.write_t5_encoder(path, state(tiny_t5), tiny_t5.config, scored, pooling="mean")


@pytest.fixture
def open_backend():
    """Return a function from a file and options to a loaded backend, closed after the test."""
    backend_module = pytest.importorskip("embeddings_gateway.backends.gguf.backend")
    opened = []

    def load(path: Path, **options):
        opened.append(backend_module.GgufBackend(GgufSpec(path=str(path), threads=THREADS, **options)))
        return opened[-1]

    yield load
    for backend in opened:
        backend.close()


def random_model(transformers, family, config, **options):
    """Return a model of ``family`` with the same random weights every time."""
    transformers.set_seed(0)
    return family(config, **options).eval()


def state(model):
    """Return a model's weights as float32 arrays."""
    return {name: tensor.float().numpy() for name, tensor in model.state_dict().items()}
