"""Which embedding space a model makes: everything that its vectors depend on, and nothing else."""

from __future__ import annotations

import msgspec

from embeddings_gateway.backends import checksum
from embeddings_gateway.backends.fingerprint import fingerprint
from embeddings_gateway.backends.hf import hardware
from embeddings_gateway.backends.hf.files.layout import Layout
from embeddings_gateway.backends.hf.files.weights import Weights
from embeddings_gateway.backends.hf.runtimes.runtime import Runtime
from embeddings_gateway.backends.hf.text.tokenizer import HfTokenizer

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
VOCABULARIES = ("tokenizer.json", "vocab.txt", "vocab.json", "merges.txt", "*.model")


def identify(
    layout: Layout,
    weights: Weights,
    tokenizer: HfTokenizer,
    runtime: Runtime,
    calibration: str | None,
) -> str:
    """Return the fingerprint. Limits on length and width are left out: they do not move a vector.

    Args:
        layout: with pooling and normalising as they are computed, not only as the files say.
        weights, tokenizer, runtime: of the same model.
        calibration: the sum of the texts that int8 was calibrated with, where it is in int8.
    """
    # What is not in int8 is in bf16 where the processor has it.
    int8 = {} if calibration is None else {"calibration": calibration, "has_bf16": hardware.has_bf16()}
    return fingerprint(
        {
            **int8,
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


def vocabulary_sums(layout: Layout) -> dict[str, str]:
    """Return the vocabulary's sums: of ``tokenizer.json`` alone where it exists, since only it is read."""
    for pattern in VOCABULARIES[:1], VOCABULARIES[1:]:
        files = [file for name in pattern for file in sorted(layout.folder.glob(name))]
        if files:
            return {file.name: checksum.sha256(file) for file in files}
    return {}
