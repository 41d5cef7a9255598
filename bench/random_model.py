"""Writes encoders with random weights: ``python -m bench.random_model bert-base|large PATH``.

Their words are numbered, and the first token's vector, scaled to unit length, is a text's.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import AutoModel, BertConfig, PretrainedConfig, PreTrainedTokenizerFast, XLMRobertaConfig

from bench.texts import WIDE_WORDS

TOKENS = ("<s>", "<pad>", "</s>", "<unk>")
POSITIONS = 512
MODULES = (("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Normalize", "Normalize"))


def bert_base() -> PretrainedConfig:
    """Return BERT-base's shape with a small vocabulary."""
    return BertConfig(vocab_size=1000)


def large() -> PretrainedConfig:
    """Return BGE-M3's shape with its large vocabulary."""
    return XLMRobertaConfig(
        vocab_size=WIDE_WORDS + 12,
        hidden_size=1024,
        num_hidden_layers=24,
        num_attention_heads=16,
        intermediate_size=4096,
        max_position_embeddings=8194,
        type_vocab_size=1,
        initializer_range=0.05,  # wider than a new model's usual 0.02, so that texts get vectors that differ
    )


def write(path: Path, config: PretrainedConfig) -> None:
    """Write the model, a tokenizer of whole words, and what follows the encoder for sentence-transformers."""
    torch.manual_seed(0)
    AutoModel.from_config(config, add_pooling_layer=False).save_pretrained(path)
    words = min(WIDE_WORDS, config.vocab_size - len(TOKENS))
    ids = {token: id for id, token in enumerate((*TOKENS, *(f"w{word}" for word in range(words))))}
    tokenizer = Tokenizer(models.WordLevel(ids, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[(token, ids[token]) for token in ("<s>", "</s>")]
    )
    special = {"cls_token": "<s>", "sep_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, model_max_length=POSITIONS, **special
    ).save_pretrained(path)
    modules = [
        {"idx": idx, "name": str(idx), "path": folder, "type": f"sentence_transformers.models.{kind}"}
        for idx, (folder, kind) in enumerate(MODULES)
    ]
    pooling = {"word_embedding_dimension": config.hidden_size, "pooling_mode_cls_token": True}
    limits = {"max_seq_length": POSITIONS, "do_lower_case": False}
    for folder, _ in MODULES:
        (path / folder).mkdir(exist_ok=True)
    for name, content in (
        ("modules", modules),
        ("1_Pooling/config", pooling),
        ("sentence_bert_config", limits),
    ):
        (path / f"{name}.json").write_text(json.dumps(content))


if __name__ == "__main__":
    write(Path(sys.argv[2]), {"bert-base": bert_base, "large": large}[sys.argv[1]]())
