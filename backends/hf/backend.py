"""A Hugging Face model directory as a backend: puts files, tokenizer, network and runtime together."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np

from embeddings_gateway.backends.base import (
    Batch,
    Column,
    EmbedError,
    LoadError,
    ModelInfo,
    Output,
    Part,
    TokenizedPart,
    refuse_pairs,
)
from embeddings_gateway.backends.checksum import fingerprint
from embeddings_gateway.backends.hf import hardware
from embeddings_gateway.backends.hf.batch_check import check_batch_invariance
from embeddings_gateway.backends.hf.conversion.probes import calibration_sum
from embeddings_gateway.backends.hf.files.layout import Layout, read_layout, resolve, with_prompts
from embeddings_gateway.backends.hf.files.weights import Weights, locate, verify_weights, vocabulary_sums
from embeddings_gateway.backends.hf.runtimes.load_runtime import load_runtime, select_runtime
from embeddings_gateway.backends.hf.runtimes.runtime import LoadedModel, best_batch_tokens
from embeddings_gateway.backends.hf.tokenizer import HfTokenizer, open_tokenizer
from embeddings_gateway.backends.model_options import offered_dimensions
from embeddings_gateway.backends.selftest import PROBES
from embeddings_gateway.backends.spec import HfSpec

# They limit batches of very short inputs, where the token budget does not.
BATCH_INPUTS_CPU = 256
BATCH_INPUTS_GPU = 2048
# Keys of config.json that say who saved the model, when and how, not what it computes.
VOLATILE = {
    "_commit_hash",
    "_name_or_path",
    "architectures",
    "dtype",
    "torch_dtype",
    "transformers_version",
    "use_cache",
}
TRUNCATED = (
    "vectors have {} of their {} dimensions by default, as the model's files say (truncate_dim); "
    "requests may ask for all, and the setting dimensions replaces the files'"
)


class HfBackend:
    """One loaded model. ``base.Backend`` says who may call what, and when."""

    def __init__(self, spec: HfSpec) -> None:
        choice = select_runtime(spec)
        layout = with_prompts(read_layout(locate(spec.path, spec.revision), spec.pooling), spec)
        # Before any library parses a file: a file that is not the pinned one may be hostile.
        weights = verify_weights(layout, spec.sha256)
        loaded = load_runtime(spec, choice, layout, weights)
        self._tokenizer = open_tokenizer(layout, loaded.tokenizer, loaded.converted)
        self._runtime = loaded.runtime
        self.files: Sequence[Path] = loaded_files(layout, weights, loaded)
        self.info = self._describe(spec, resolve(layout, spec, loaded.facts.causal), weights, loaded)
        check_batch_invariance(self._runtime, self.info, self.tokenize(PROBES).ids)

    def __repr__(self) -> str:
        info = self.info
        return f"HfBackend({info.pooling}, {info.dimensions} dimensions, {info.dtype} on {info.device})"

    def tokenize(self, texts: Sequence[str], text_pairs: Sequence[str] | None = None) -> Batch:
        """Turn each text into its ids. Any thread may call this."""
        refuse_pairs(text_pairs)
        return Batch.of(self._tokenizer.tokenize(texts))

    def tokenize_part(self, text: str, part: Part) -> TokenizedPart:
        """Turn a part of a text into its ids. Any thread may call this."""
        return self._tokenizer.tokenize_part(text, part)

    def run(self, batch: Batch, outputs: Sequence[Output]) -> dict[Output, Column]:
        """Compute the vector of each input; ``dense`` is the only output."""
        # Not every runtime refuses these: some embed an unknown id as zeros.
        if batch.ids.max() >= self.info.vocabulary_size or batch.lengths.max() > self.info.max_tokens:
            raise EmbedError("an input is too long, or has an id outside the vocabulary")
        return {"dense": Column(self._runtime.run(batch))}

    def close(self) -> None:
        """Free the memory."""
        self._runtime.close()

    def _describe(self, spec: HfSpec, layout: Layout, weights: Weights, loaded: LoadedModel) -> ModelInfo:
        tokenizer, runtime, facts = self._tokenizer, self._runtime, loaded.facts
        special = len(tokenizer.prefix) + len(tokenizer.suffix)
        max_tokens = longest_input(spec.max_tokens, layout.max_tokens, facts.positions, special)
        dimensions = self._try_out()
        # The author's default, as sentence-transformers has it. The configuration's dimensions replace it.
        cut = layout.truncate_dim if spec.dimensions is None else None
        cut = cut if cut is not None and 0 < cut < dimensions else None
        batch_tokens = spec.max_batch_tokens or loaded.batch_tokens
        calibration = calibration_sum(spec.calibration) if runtime.dtype == "int8" else None
        return ModelInfo(
            dimensions=dimensions,
            supported_dimensions=offered_dimensions(
                spec, dimensions, (*layout.dimensions, cut or dimensions)
            ),
            default_dimensions=cut,
            max_tokens=max_tokens,
            # An id has to be known to both.
            vocabulary_size=min(tokenizer.size, facts.vocabulary_size),
            prefix=tokenizer.prefix,
            suffix=tokenizer.suffix,
            prompts=layout.prompts,
            default_prompt=layout.default_prompt,
            pooling="+".join(layout.pooling),
            normalized=layout.normalize,
            dtype=runtime.dtype,
            device=runtime.device,
            runtime=runtime.name,
            fingerprint=space_fingerprint(layout, weights, loaded, tokenizer, calibration),
            cost=runtime.cost,
            max_batch_tokens=batch_tokens
            or best_batch_tokens(runtime.run, runtime.device, facts.pad_id, max_tokens),
            max_batch_inputs=BATCH_INPUTS_CPU if runtime.device == "cpu" else BATCH_INPUTS_GPU,
            created=weights.changed,
            notes=(*loaded.notes, *([TRUNCATED.format(cut, dimensions)] if cut else [])),
            token_span=tokenizer.rules.span,
            divides_texts=tokenizer.rules.places is not None,
        )

    def _try_out(self) -> int:
        """Embed one word, so that a broken model fails while it loads; return the dimensions."""
        try:
            vector = self._runtime.run(self.tokenize(["a"]))
        except EmbedError as error:
            raise LoadError(
                f"the model fails on its first input ({error}): do its modules and pooling fit together?"
            ) from error
        if not np.isfinite(vector).all():
            raise LoadError("the model's first vector is not finite: its weights or dtype are wrong")
        return int(vector.shape[1])


def loaded_files(layout: Layout, weights: Weights, loaded: LoadedModel) -> list[Path]:
    """Return the files that vectors are computed from: weights, vocabulary, and conversion.

    Settings are not among them: they are read once, and a change shows when a worker starts again.
    """
    vocabulary = [layout.folder / name for name in vocabulary_sums(layout)]
    converted = list(loaded.converted.iterdir()) if loaded.converted else []
    return [*(layout.root / name for name in weights.sums), *vocabulary, *converted]


def space_fingerprint(
    layout: Layout, weights: Weights, loaded: LoadedModel, tokenizer: HfTokenizer, calibration: str | None
) -> str:
    """Return the fingerprint of everything that the vectors depend on, which no limit is.

    ``layout`` is resolved. ``calibration`` is the sum of the texts that int8 was calibrated with.
    """
    runtime = loaded.runtime
    # What is not in int8 is in bf16 where the processor has it.
    int8 = {} if calibration is None else {"calibration": calibration, "has_bf16": hardware.has_bf16()}
    heeded = msgspec.to_builtins(msgspec.structs.replace(loaded.tokenizer, notes=()))
    return fingerprint(
        {
            **int8,
            **({"tokenizer_settings": heeded} if heeded else {}),
            "weights": weights.sums,
            "vocabulary": vocabulary_sums(layout),
            "special_tokens": [tokenizer.prefix, tokenizer.suffix],
            "lower_case": layout.lower_case,
            "config": {key: value for key, value in layout.config.items() if key not in VOLATILE},
            "pooling": layout.pooling,
            "dense": [msgspec.to_builtins(module) for module in layout.dense],
            "normalize": layout.normalize,
            "prompts": layout.prompts,
            "default_prompt": layout.default_prompt,
            "dtype": runtime.dtype,
            "runtime": runtime.name,
        }
    )


def longest_input(configured: int | None, author: int | None, positions: int | None, special: int) -> int:
    """Return the longest input in tokens: the configured limit, else the author's or that of the positions."""
    known = [limit for limit in (author, positions) if limit is not None]
    if configured is None and not known:
        raise LoadError("max_tokens is not set, and the model's files name no limit: set it")
    if configured is not None and known and configured > min(known):
        raise LoadError(f"max_tokens is {configured}, but the model takes {min(known)}: lower or remove it")
    limit = min(known) if configured is None else configured
    if limit <= special:
        raise LoadError(
            f"max_tokens is {limit}, but {special} special tokens stand around every text: raise it"
        )
    return limit
