"""Builds tiny models with random weights, of every family and layout that is claimed to work.

Small enough to build in a blink, real enough that transformers and sentence-transformers load them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import (
    BertConfig,
    BertModel,
    Gemma3TextConfig,
    Gemma3TextModel,
    MistralConfig,
    MistralModel,
    ModernBertConfig,
    ModernBertModel,
    MPNetConfig,
    MPNetModel,
    NomicBertConfig,
    NomicBertModel,
    Phi3Config,
    Phi3Model,
    PreTrainedModel,
    Qwen3Config,
    Qwen3Model,
    T5Config,
    T5ForConditionalGeneration,
    XLMRobertaConfig,
    XLMRobertaModel,
)

from tests.texts import varied_texts

HIDDEN = 32
POSITIONS = 64
VOCABULARY = 600
SIZES = {
    "hidden_size": HIDDEN,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": POSITIONS,
}
BERT_TOKENS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
ROBERTA_TOKENS = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]


@dataclass(frozen=True)
class Family:
    """A kind of model: how to build one, and which tokens frame its texts.

    ``tokens`` are the special tokens in the order of their ids, ``before`` and ``after`` frame every text.
    """

    make: Callable[[], PreTrainedModel]
    tokens: list[str]
    pad: str
    before: str | None
    after: str


def _bert() -> PreTrainedModel:
    return BertModel(BertConfig(vocab_size=VOCABULARY, **SIZES))


def _xlm_roberta() -> PreTrainedModel:
    return XLMRobertaModel(
        XLMRobertaConfig(vocab_size=VOCABULARY, type_vocab_size=1, pad_token_id=1, **SIZES)
    )


def _mpnet() -> PreTrainedModel:
    return MPNetModel(MPNetConfig(vocab_size=VOCABULARY, pad_token_id=1, **SIZES))


def _modernbert() -> PreTrainedModel:
    special = {"pad_token_id": 0, "cls_token_id": 2, "bos_token_id": 2, "sep_token_id": 3, "eos_token_id": 3}
    # A window shorter than the texts, so that local attention is in play.
    return ModernBertModel(ModernBertConfig(vocab_size=VOCABULARY, local_attention=8, **special, **SIZES))


def _nomic_bert() -> PreTrainedModel:
    return NomicBertModel(NomicBertConfig(vocab_size=VOCABULARY, pad_token_id=0, **SIZES))


def _qwen3() -> PreTrainedModel:
    heads = {"num_key_value_heads": 2, "head_dim": 8, "pad_token_id": 0, "eos_token_id": 0, "bos_token_id": 0}
    return Qwen3Model(Qwen3Config(vocab_size=VOCABULARY, **heads, **SIZES))


def _t5() -> PreTrainedModel:
    # With its decoder, as most files have it.
    return T5ForConditionalGeneration(
        T5Config(vocab_size=VOCABULARY, d_model=HIDDEN, d_kv=8, d_ff=64, num_layers=2, num_heads=4)
    )


def _mistral() -> PreTrainedModel:
    heads = {"num_key_value_heads": 2, "head_dim": 8, "pad_token_id": 0, "eos_token_id": 0, "bos_token_id": 0}
    return MistralModel(MistralConfig(vocab_size=VOCABULARY, sliding_window=12, **heads, **SIZES))


def _gemma3() -> PreTrainedModel:
    # As EmbeddingGemma: every token sees those on both sides, in some layers only the near ones.
    layers = {"sliding_window": 12, "layer_types": ["sliding_attention", "full_attention"]}
    heads = {"num_key_value_heads": 1, "head_dim": 8, "use_bidirectional_attention": True}
    special = {"pad_token_id": 0, "eos_token_id": 0, "bos_token_id": 0}
    return Gemma3TextModel(Gemma3TextConfig(vocab_size=VOCABULARY, **layers, **heads, **special, **SIZES))


def _phi3() -> PreTrainedModel:
    factors = {"short_factor": [1.0] * 4, "long_factor": [1.5, 3.0, 8.0, 16.0]}
    rope = {
        "rope_type": "longrope",
        "rope_theta": 10000.0,
        "original_max_position_embeddings": 24,
        **factors,
    }
    special = {"pad_token_id": 0, "eos_token_id": 0, "bos_token_id": 0, "num_key_value_heads": 2}
    config = {"original_max_position_embeddings": 24, "rope_parameters": rope, **special, **SIZES}
    return Phi3Model(Phi3Config(vocab_size=VOCABULARY, **config))


DECODER = ("<|endoftext|>", None, "<|endoftext|>")
FAMILIES: Mapping[str, Family] = {
    "bert": Family(_bert, BERT_TOKENS, "[PAD]", "[CLS]", "[SEP]"),
    "xlm-roberta": Family(_xlm_roberta, ROBERTA_TOKENS, "<pad>", "<s>", "</s>"),
    "mpnet": Family(_mpnet, ROBERTA_TOKENS, "<pad>", "<s>", "</s>"),
    "modernbert": Family(_modernbert, BERT_TOKENS, "[PAD]", "[CLS]", "[SEP]"),
    "nomic-bert": Family(_nomic_bert, BERT_TOKENS, "[PAD]", "[CLS]", "[SEP]"),
    "qwen3": Family(_qwen3, ["<|endoftext|>"], "<|endoftext|>", None, "<|endoftext|>"),
    "t5": Family(_t5, ["<pad>", "</s>", "<unk>"], "<pad>", None, "</s>"),
}
BY_LENGTH: Mapping[str, Family] = {
    "gemma3": Family(_gemma3, ["<|endoftext|>"], *DECODER),
    "mistral": Family(_mistral, ["<|endoftext|>"], *DECODER),
    "phi3": Family(_phi3, ["<|endoftext|>"], *DECODER),
}
"""Models that treat long inputs in another way than short ones."""


def make_model(directory: Path, family: str, seed: int = 0) -> Path:
    """Write a plain transformers directory with random weights and a trained vocabulary; return it."""
    kind = {**FAMILIES, **BY_LENGTH}[family]
    torch.manual_seed(seed)
    model = kind.make()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                # The usual start values are so small that every text would get the same vector.
                parameter.normal_(0, 0.2)
    model.save_pretrained(directory)
    make_vocabulary(kind).save(str(directory / "tokenizer.json"))
    settings = {"tokenizer_class": "TokenizersBackend", "pad_token": kind.pad, "model_max_length": POSITIONS}
    write_json(directory / "tokenizer_config.json", settings)
    return directory


def make_vocabulary(kind: Family) -> Tokenizer:
    """Train a small vocabulary: WordPiece for BERT's descendants, byte-level BPE for the others."""
    if "[UNK]" in kind.tokens:
        tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
        tokenizer.normalizer = normalizers.BertNormalizer()
        tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        tokenizer.decoder = decoders.WordPiece()
        trainer = trainers.WordPieceTrainer(vocab_size=VOCABULARY, special_tokens=kind.tokens)
    else:
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=VOCABULARY,
            special_tokens=kind.tokens,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        )
    tokenizer.train_from_iterator(varied_texts(200, seed=1), trainer)
    frame = [token for token in (kind.before, "$A", kind.after) if token]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=frame, special_tokens=[(token, kind.tokens.index(token)) for token in frame if token != "$A"]
    )
    # What a file may carry and a server must not heed.
    tokenizer.enable_truncation(max_length=8)
    tokenizer.enable_padding(length=8, pad_id=kind.tokens.index(kind.pad), pad_token=kind.pad)
    return tokenizer


def add_modules(directory: Path, *modules: tuple[str, dict[str, object]]) -> Path:
    """Write ``modules.json`` and each module's folder and config, in sentence-transformers' old form."""
    entries = [{"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"}]
    for index, (kind, config) in enumerate(modules, start=1):
        path = f"{index}_{kind}"
        module = {
            "idx": index,
            "name": str(index),
            "path": path,
            "type": f"sentence_transformers.models.{kind}",
        }
        entries.append(module)
        (directory / path).mkdir()
        write_json(directory / path / "config.json", config)
    write_json(directory / "modules.json", entries)
    return directory


def write_json(path: Path, content: object) -> None:
    """Write a settings file."""
    path.write_text(json.dumps(content))
