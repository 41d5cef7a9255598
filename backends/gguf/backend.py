"""A GGUF file as a backend: puts the parts together and states the facts."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from embeddings_gateway.backends import checksum
from embeddings_gateway.backends.base import (
    Batch,
    Column,
    EmbedError,
    LoadError,
    ModelInfo,
    Output,
    Part,
    TokenizedPart,
    Vectors,
    refuse_pairs,
)
from embeddings_gateway.backends.gguf.context import Contexts, read_traits
from embeddings_gateway.backends.gguf.header import read_header
from embeddings_gateway.backends.gguf.model import LlamaModel, check_path
from embeddings_gateway.backends.gguf.packing import INPUTS_MAX, Sizes, choose_sizes, limit_notes
from embeddings_gateway.backends.gguf.tokenizer import LlamaTokenizer
from embeddings_gateway.backends.model_options import offered_dimensions, resolve_prompts
from embeddings_gateway.backends.spec import GgufSpec

POOLINGS = ("cls", "mean", "last")


class GgufBackend:
    """A :class:`embeddings_gateway.backends.base.Backend` on llama.cpp."""

    def __init__(self, spec: GgufSpec) -> None:
        path = Path(spec.path)
        check_path(path)
        self.files: Sequence[Path] = (path,)
        try:
            weights = checksum.verify(path.parent, [path.name], spec.sha256)
        except OSError as error:
            raise LoadError(f"path: {path} cannot be read: {error.strerror}") from None
        # Only now: a file that is not the pinned one may be hostile.
        self._model = LlamaModel(path, read_header(path), spec.n_gpu_layers)
        try:
            self._start(spec, weights[path.name])
        except LoadError as error:
            self._model.close()
            raise LoadError(f"{path}: {error}") from None

    def _start(self, spec: GgufSpec, sha256: str) -> None:
        facts = self._model.facts
        pooling = _pooling(spec, facts.pooling)
        sizes = choose_sizes(
            facts,
            read_traits(self._model),
            spec,
            on_gpu=self._model.on_gpu,
            memory_bytes=_memory_bytes(),
        )
        self._tokenizer = LlamaTokenizer(self._model, pooling)
        self._normalize = spec.normalize is not False
        self.info = self._describe(spec, sizes, pooling, sha256)
        self._contexts = Contexts(self._model, sizes, pooling, spec.threads or _cores())

    def __repr__(self) -> str:
        return f"<GgufBackend {self._model!r} {self.info.pooling} {self.info.dimensions}>"

    def tokenize(self, texts: Sequence[str], text_pairs: Sequence[str] | None = None) -> Batch:
        """Turn each text into its ids. Any thread may call this."""
        refuse_pairs(text_pairs)
        return Batch.of([self._tokenizer.encode(text) for text in texts])

    def tokenize_part(self, text: str, part: Part) -> TokenizedPart:
        """Refuse: llama.cpp does not say which characters a token stands for."""
        raise EmbedError("this tokenizer takes whole texts only")

    def run(self, batch: Batch, outputs: Sequence[Output]) -> dict[Output, Column]:
        """Compute the vector of each input; ``dense`` is the only output."""
        vectors = self._contexts.embed(batch)
        if self._normalize:
            norms: Vectors = np.linalg.norm(vectors, axis=1, keepdims=True)
            with np.errstate(divide="ignore", invalid="ignore"):
                vectors = np.divide(vectors, norms)  # a vector of zeros becomes NaN, which the caller refuses
        return {"dense": Column(vectors)}

    def close(self) -> None:
        """Free the contexts first, for they point into the model."""
        self._contexts.close()
        self._model.close()

    def _describe(self, spec: GgufSpec, sizes: Sizes, pooling: str, sha256: str) -> ModelInfo:
        facts, tokenizer = self._model.facts, self._tokenizer
        prompts, default_prompt = resolve_prompts(spec)  # the format cannot hold a model's own
        return ModelInfo(
            dimensions=facts.dimensions,
            supported_dimensions=offered_dimensions(spec, facts.dimensions),
            max_tokens=sizes.max_tokens,
            vocabulary_size=facts.vocabulary_size,
            prefix=tokenizer.prefix,
            suffix=tokenizer.suffix,
            prompts=prompts,
            default_prompt=default_prompt,
            pooling=pooling,
            normalized=self._normalize,
            dtype=facts.dtype,
            device="gpu" if self._model.on_gpu else "cpu",
            runtime="llama.cpp",
            fingerprint=checksum.fingerprint(
                {
                    "runtime": "llama.cpp",
                    "weights": sha256,
                    "pooling": pooling,
                    "normalize": self._normalize,
                    "appended_token": tokenizer.appended,
                    **({"prompts": prompts, "default_prompt": default_prompt} if prompts else {}),
                }
            ),
            cost="packed",
            max_batch_tokens=sizes.max_batch_tokens,
            max_batch_inputs=INPUTS_MAX,
            created=int(self._model.path.stat().st_mtime),
            notes=limit_notes(facts, spec, sizes),
            token_span=tokenizer.span,
        )


def _pooling(spec: GgufSpec, stated: str | None) -> str:
    """Return the pooling to use, or say why there is none."""
    pooling = spec.pooling or stated
    if pooling in POOLINGS:
        return pooling
    problem = {
        None: "the file names no pooling",
        "none": "the file's pooling is none: it gives a vector for each token",
        "rank": "the file's pooling is rank: it gives scores, not vectors",
    }.get(pooling, f"the file's pooling {pooling} is unknown")
    raise LoadError(f'{problem}; set pooling = "mean", "cls" or "last", as the model was trained')


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _memory_bytes() -> int:
    """Return the machine's memory; where the system does not say, as if there were none to spare."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return 0
