"""A Hugging Face model directory as a backend: puts files, tokenizer, network and runtime together."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np
import torch

from backends.base import EmbedError, LoadError, ModelInfo, TokenIds, Vectors
from backends.hf import identity, limits
from backends.hf.files import layout, location, weights
from backends.hf.files.layout import Layout
from backends.hf.files.weights import Weights
from backends.hf.network import encoder, head
from backends.hf.network.encoder import Encoder
from backends.hf.network.network import Network
from backends.hf.runtimes import torch_runtime
from backends.hf.runtimes.batch import pad
from backends.hf.runtimes.runtime import Runtime
from backends.hf.runtimes.torch_runtime import TorchRuntime
from backends.hf.text.tokenizer import HfTokenizer
from backends.hf.text.vocabulary import end_tokens, open_vocabulary
from backends.spec import HfSpec, Pooling

# Short inputs reach this before the token budget does; measured, more in one batch is no faster.
BATCH_INPUTS = 256


class HfBackend:
    """One loaded model. See :class:`backends.base.Backend` for who may call what, and when.

    Raises:
        LoadError: the model cannot be served; the message names the file or key and what to do.
    """

    info: ModelInfo

    def __init__(self, spec: HfSpec) -> None:
        if spec.threads is not None:
            torch.set_num_threads(spec.threads)
        device = torch_runtime.choose_device(spec.device)
        dtype = torch_runtime.choose_dtype(spec.dtype, device)
        model = layout.read(location.locate(spec.path, spec.revision))
        # Before any library parses a file: a file that is not the pinned one may be hostile.
        files = weights.verify(model, spec.sha256)
        self._tokenizer = _tokenizer(model)
        transformer = encoder.load_encoder(model.folder, torch_runtime.DTYPES[dtype])
        model = _settled(spec, model, transformer)
        dense = [head.load_dense(model.root, module) for module in model.dense]
        network = Network(transformer.model, model.pooling, dense, model.normalize)
        self._runtime: Runtime = TorchRuntime(network, device, dtype)
        self._pad_id = transformer.pad_id
        self.info = self._describe(spec, model, files, transformer)

    def __repr__(self) -> str:
        info = self.info
        return f"HfBackend({info.pooling}, {info.dimensions} dimensions, {info.dtype} on {info.device})"

    def tokenize(self, texts: Sequence[str]) -> list[TokenIds]:
        """Turn each text into its ids, special tokens included, never cut. Any thread may call this."""
        return self._tokenizer.tokenize(texts)

    def embed(self, batch: Sequence[TokenIds]) -> Vectors:
        """Turn each input into its vector: row ``i`` belongs to ``batch[i]``."""
        return self._runtime.run(*pad(batch, self._pad_id))

    def close(self) -> None:
        """Give the memory back. Nothing is called afterwards."""
        self._runtime.close()

    def _describe(self, spec: HfSpec, model: Layout, files: Weights, transformer: Encoder) -> ModelInfo:
        tokenizer, runtime = self._tokenizer, self._runtime
        width = self._try_out()
        special = len(tokenizer.prefix) + len(tokenizer.suffix)
        return ModelInfo(
            dimensions=width,
            supported_dimensions=limits.widths(spec.dimensions, model.dimensions, width),
            max_tokens=limits.longest_input(
                spec.max_tokens, model.max_tokens, transformer.positions, special
            ),
            # An id that only one of the two knows is no token of this model.
            vocabulary_size=min(tokenizer.size, transformer.vocabulary),
            prefix=tokenizer.prefix,
            suffix=tokenizer.suffix,
            prompts=model.prompts,
            default_prompt=model.default_prompt,
            pooling="+".join(model.pooling),
            normalized=model.normalize,
            dtype=runtime.dtype,
            device=runtime.device,
            runtime=runtime.name,
            fingerprint=identity.identify(model, files, tokenizer, runtime),
            cost="padded",
            batch_tokens=spec.batch_tokens or runtime.batch_tokens,
            batch_inputs=BATCH_INPUTS,
            created=files.changed,
        )

    def _try_out(self) -> int:
        """Embed one word, so that a model that cannot work is found before it is served; return the width."""
        try:
            vector = self.embed(self.tokenize(["a"]))
        except EmbedError as error:
            raise LoadError(
                f"the model fails on its first input ({error}): do its modules and pooling fit together?"
            ) from error
        if not np.isfinite(vector).all():
            raise LoadError("the model's first vector is not finite: its weights or dtype are wrong")
        return int(vector.shape[1])


def _tokenizer(model: Layout) -> HfTokenizer:
    vocabulary = open_vocabulary(model.folder, model.lower_case)
    return HfTokenizer(vocabulary, end_tokens(model.folder, vocabulary))


def _settled(spec: HfSpec, model: Layout, transformer: Encoder) -> Layout:
    """Decide what the files leave open or the configuration overrides."""
    by_architecture: tuple[Pooling, ...] = ("last",) if transformer.causal else ("mean",)
    by_author = model.normalize or not model.dot_product
    return msgspec.structs.replace(
        model,
        pooling=(spec.pooling,) if spec.pooling else model.pooling or by_architecture,
        normalize=by_author if spec.normalize is None else spec.normalize,
    )
