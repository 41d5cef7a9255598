"""Hugging Face weights written as GGUF files, to measure and to test with: no wheel has the real converter.

It knows three architectures (BERT, Qwen3, the encoder of T5), and leaves out whatever these do not need.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import gguf
import numpy as np

DTYPES = {
    "f32": (gguf.GGMLQuantizationType.F32, gguf.LlamaFileType.ALL_F32),
    "f16": (gguf.GGMLQuantizationType.F16, gguf.LlamaFileType.MOSTLY_F16),
    "bf16": (gguf.GGMLQuantizationType.BF16, gguf.LlamaFileType.MOSTLY_BF16),
    "q8_0": (gguf.GGMLQuantizationType.Q8_0, gguf.LlamaFileType.MOSTLY_Q8_0),
}
POOLINGS = {
    "none": gguf.PoolingType.NONE,
    "mean": gguf.PoolingType.MEAN,
    "cls": gguf.PoolingType.CLS,
    "last": gguf.PoolingType.LAST,
    "rank": gguf.PoolingType.RANK,
}
# Small tensors that the engine reads as floats only.
ALWAYS_F32 = ("position_embd.weight", "token_types.weight", "attn_rel_b.weight")
SPACE = "\u2581"

Weights = Mapping[str, np.ndarray]


def write_bert(
    path: Path,
    weights: Weights,
    config: Any,
    words: Sequence[str],
    *,
    dtype: str = "f32",
    pooling: str | None,
) -> Path:
    """Write a ``BertModel``: its state as arrays, its configuration, the lines of its ``vocab.txt``."""
    writer = _writer(path, gguf.MODEL_ARCH.BERT, config, dtype, pooling)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_layer_norm_eps(config.layer_norm_eps)
    writer.add_causal_attention(False)
    writer.add_tokenizer_model("bert")
    writer.add_token_type_count(config.type_vocab_size)
    writer.add_token_list([_phantom_space(word) for word in words])
    writer.add_token_types(
        [_token_type(word, ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")) for word in words]
    )
    writer.add_pad_token_id(words.index("[PAD]"))
    writer.add_unk_token_id(words.index("[UNK]"))
    writer.add_bos_token_id(words.index("[CLS]"))
    writer.add_sep_token_id(words.index("[SEP]"))
    return _write(
        writer, weights, config.num_hidden_layers, dtype, skip=("pooler.", "embeddings.position_ids")
    )


def write_qwen3(
    path: Path,
    weights: Weights,
    config: Any,
    *,
    dtype: str = "f32",
    pooling: str | None,
    adds_end: bool | None,
    pre: str = "qwen2",
) -> Path:
    """Write a ``Qwen3Model`` over :func:`bytes_vocabulary`; without ``adds_end`` as old files are, silent."""
    tokens = bytes_vocabulary()
    writer = _writer(path, gguf.MODEL_ARCH.QWEN3, config, dtype, pooling)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(tokens)
    writer.add_token_types([_token_type(token, ("<|endoftext|>",)) for token in tokens])
    writer.add_token_merges(["t h"])
    writer.add_eos_token_id(tokens.index("<|endoftext|>"))
    writer.add_add_bos_token(False)
    if adds_end is not None:
        writer.add_add_eos_token(adds_end)
    return _write(writer, weights, config.num_hidden_layers, dtype)


def write_t5_encoder(
    path: Path, weights: Weights, config: Any, pieces: Sequence[tuple[str, float]], *, pooling: str | None
) -> Path:
    """Write a ``T5EncoderModel`` in float32; the pieces start with ``<pad>``, ``</s>`` and ``<unk>``."""
    writer = _writer(path, gguf.MODEL_ARCH.T5ENCODER, config, "f32", pooling)
    writer.add_context_length(512)
    writer.add_layer_norm_eps(config.layer_norm_epsilon)
    writer.add_layer_norm_rms_eps(config.layer_norm_epsilon)
    writer.add_key_length(config.d_kv)
    writer.add_value_length(config.d_kv)
    writer.add_relative_attn_buckets_count(config.relative_attention_num_buckets)
    writer.add_tokenizer_model("t5")
    writer.add_token_list([piece for piece, _ in pieces])
    writer.add_token_scores([score for _, score in pieces])
    writer.add_token_types([_token_type(piece, ("<pad>", "</s>"), unknown="<unk>") for piece, _ in pieces])
    writer.add_add_bos_token(False)
    writer.add_add_eos_token(True)
    return _write(writer, weights, config.num_layers, "f32", skip=("encoder.embed_tokens",))


def bytes_vocabulary() -> list[str]:
    """Return the 256 byte tokens of a byte-level BPE, one merged token, and the end token."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [byte for byte in range(256) if byte not in printable]
    characters = {byte: chr(byte) for byte in printable} | {
        byte: chr(256 + i) for i, byte in enumerate(hidden)
    }
    return [*(characters[byte] for byte in range(256)), "th", "<|endoftext|>"]


def _writer(
    path: Path, arch: gguf.MODEL_ARCH, config: Any, dtype: str, pooling: str | None
) -> gguf.GGUFWriter:
    writer = gguf.GGUFWriter(path, gguf.MODEL_ARCH_NAMES[arch])
    writer.add_type("model")
    writer.add_file_type(DTYPES[dtype][1])
    writer.add_vocab_size(config.vocab_size)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_head_count(config.num_attention_heads)
    writer.add_feed_forward_length(getattr(config, "intermediate_size", None) or config.d_ff)
    if pooling is not None:
        writer.add_pooling_type(POOLINGS[pooling])
    return writer


def _write(
    writer: gguf.GGUFWriter, weights: Weights, blocks: int, dtype: str, skip: tuple[str, ...] = ()
) -> Path:
    arch = next(arch for arch, name in gguf.MODEL_ARCH_NAMES.items() if name == writer.arch)
    names = gguf.get_tensor_name_map(arch, blocks)
    for name, array in weights.items():
        if name.startswith(skip):
            continue
        target = names.get_name(name, try_suffixes=(".weight", ".bias"))
        assert target is not None, name
        _add_tensor(writer, target, array, dtype)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return Path(writer.path)


def _add_tensor(writer: gguf.GGUFWriter, name: str, array: np.ndarray, dtype: str) -> None:
    kind = DTYPES[dtype][0]
    if array.ndim == 1 or name.endswith(ALWAYS_F32):
        kind = gguf.GGMLQuantizationType.F32
    writer.add_tensor(
        name, gguf.quantize(np.ascontiguousarray(array, dtype=np.float32), kind), raw_dtype=kind
    )


def _phantom_space(word: str) -> str:
    """Mark the start of a word instead of its continuation, as llama.cpp wants WordPiece."""
    if word.startswith("[") and word.endswith("]"):
        return word
    return word[2:] if word.startswith("##") else SPACE + word


def _token_type(token: str, control: Sequence[str], unknown: str | None = None) -> gguf.TokenType:
    if token == unknown:
        return gguf.TokenType.UNKNOWN
    return gguf.TokenType.CONTROL if token in control else gguf.TokenType.NORMAL
