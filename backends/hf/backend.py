"""A Hugging Face model directory as a backend: puts files, tokenizer, network and runtime together."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from embeddings_gateway.backends.base import EmbedError, LoadError, ModelInfo, TokenIds, Vectors
from embeddings_gateway.backends.hf import identity, limits
from embeddings_gateway.backends.hf.conversion.texts import calibration_sum
from embeddings_gateway.backends.hf.files import layout, location, weights
from embeddings_gateway.backends.hf.files.layout import Layout, settle
from embeddings_gateway.backends.hf.files.weights import Weights
from embeddings_gateway.backends.hf.opening import Opened, open_model
from embeddings_gateway.backends.hf.runtimes import budget
from embeddings_gateway.backends.hf.runtimes.choice import choose
from embeddings_gateway.backends.hf.text.tokenizer import open_tokenizer
from embeddings_gateway.backends.spec import HfSpec

# Bounds beside the budget in tokens, for batches of inputs of next to nothing.
BATCH_INPUTS_CPU = 256
BATCH_INPUTS_GPU = 2048


class HfBackend:
    """One loaded model. ``base.Backend`` says who may call what, and when.

    Raises:
        LoadError: the model cannot be served; the message names the file or key and what to do.
    """

    info: ModelInfo

    def __init__(self, spec: HfSpec) -> None:
        choice = choose(spec)
        model = layout.prompted(layout.read(location.locate(spec.path, spec.revision)), spec)
        # Before any library parses a file: a file that is not the pinned one may be hostile.
        files = weights.verify(model, spec.sha256)
        opened = open_model(spec, choice, model, files)
        self._tokenizer = open_tokenizer(model, opened.kept)
        self._runtime = opened.runtime
        self.info = self._describe(spec, settle(model, spec, opened.facts.causal), files, opened)

    def __repr__(self) -> str:
        info = self.info
        return f"HfBackend({info.pooling}, {info.dimensions} dimensions, {info.dtype} on {info.device})"

    def tokenize(self, texts: Sequence[str]) -> list[TokenIds]:
        """Turn each text into its ids, special tokens included, never cut. Any thread may call this."""
        return self._tokenizer.tokenize(texts)

    def embed(self, batch: Sequence[TokenIds]) -> Vectors:
        """Turn each input into its vector: row ``i`` belongs to ``batch[i]``."""
        # Not every runtime refuses these: some look a row of zeros up for them, and make a vector of it.
        ids, longest = np.concatenate(batch), max(map(len, batch))
        if ids.max() >= self.info.vocabulary_size or longest > self.info.max_tokens:
            raise EmbedError("an input is too long, or has an id outside the vocabulary")
        return self._runtime.run(batch)

    def close(self) -> None:
        """Give the memory back. Nothing is called afterwards."""
        self._runtime.close()

    def _describe(self, spec: HfSpec, model: Layout, files: Weights, opened: Opened) -> ModelInfo:
        tokenizer, runtime, facts = self._tokenizer, self._runtime, opened.facts
        special = len(tokenizer.prefix) + len(tokenizer.suffix)
        tokens_max = limits.longest_input(spec.max_tokens, model.max_tokens, facts.positions, special)
        width = self._try_out()
        batch_tokens = spec.max_batch_tokens or opened.batch_tokens
        calibration = calibration_sum(spec.calibration) if runtime.dtype == "int8" else None
        return ModelInfo(
            dimensions=width,
            supported_dimensions=limits.widths(spec.dimensions, model.dimensions, width),
            max_tokens=tokens_max,
            # An id that only one of the two knows is no token of this model.
            vocabulary_size=min(tokenizer.size, facts.vocabulary),
            prefix=tokenizer.prefix,
            suffix=tokenizer.suffix,
            prompts=model.prompts,
            default_prompt=model.default_prompt,
            pooling="+".join(model.pooling),
            normalized=model.normalize,
            dtype=runtime.dtype,
            device=runtime.device,
            runtime=runtime.name,
            fingerprint=identity.identify(model, files, tokenizer, runtime, calibration),
            cost=runtime.cost,
            batch_tokens=batch_tokens
            or budget.measure(runtime.run, runtime.device, facts.pad_id, tokens_max),
            batch_inputs=BATCH_INPUTS_CPU if runtime.device == "cpu" else BATCH_INPUTS_GPU,
            created=files.changed,
            notes=opened.notes,
        )

    def _try_out(self) -> int:
        """Embed one word, so that a model that cannot work is found before it is served; return the width."""
        try:
            vector = self._runtime.run(self.tokenize(["a"]))
        except EmbedError as error:
            raise LoadError(
                f"the model fails on its first input ({error}): do its modules and pooling fit together?"
            ) from error
        if not np.isfinite(vector).all():
            raise LoadError("the model's first vector is not finite: its weights or dtype are wrong")
        return int(vector.shape[1])
