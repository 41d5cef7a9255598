"""Builds the models that no package carries. Run as ``python -m bench.build WHAT [ARGUMENTS] PATH``."""

from __future__ import annotations

import sys
from pathlib import Path

import msgspec
import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from bench import gguf_file
from bench.texts import WIDE_WORDS

POSITIONS = 512
LARGE_VOCABULARY = 250_002
# Weights drawn wider than a new model's usual 0.02, so that texts get vectors that differ.
SPREAD = 0.05


def minilm_gguf(source: Path, path: Path, dtype: str = "bf16") -> None:
    """Write a BERT with its vocabulary as a GGUF file, pooled by mean."""
    model = transformers.BertModel.from_pretrained(source, add_pooling_layer=False)
    weights = {name: tensor.float().numpy() for name, tensor in model.state_dict().items()}
    words = (source / "vocab.txt").read_text("utf-8").splitlines()
    gguf_file.write_bert(path, weights, model.config, words, dtype=dtype, pooling="mean")


def bert_base(path: Path) -> None:
    """Write a random model of BERT-base's shape, with a small vocabulary of numbered words."""
    config = transformers.BertConfig(vocab_size=1000)
    torch.manual_seed(0)
    transformers.BertModel(config, add_pooling_layer=False).save_pretrained(path)
    words = {"[PAD]": 0, "[UNK]": 1, "[CLS]": 2, "[SEP]": 3} | {f"w{i}": 4 + i for i in range(996)}
    write_tokenizer(path, words, pad="[PAD]", unknown="[UNK]", begin="[CLS]", end="[SEP]")


def large(path: Path) -> None:
    """Write a random model of BGE-M3's shape, its whole vocabulary made of numbered words."""
    config = transformers.XLMRobertaConfig(
        vocab_size=LARGE_VOCABULARY,
        hidden_size=1024,
        num_hidden_layers=24,
        num_attention_heads=16,
        intermediate_size=4096,
        max_position_embeddings=8194,
        type_vocab_size=1,
        initializer_range=SPREAD,
    )
    torch.manual_seed(0)
    transformers.XLMRobertaModel(config, add_pooling_layer=False).save_pretrained(path)
    words = {"<s>": 0, "<pad>": 1, "</s>": 2, "<unk>": 3} | {f"w{i}": 4 + i for i in range(WIDE_WORDS)}
    write_tokenizer(path, words, pad="<pad>", unknown="<unk>", begin="<s>", end="</s>")
    write_modules(path, config.hidden_size)


def write_tokenizer(
    path: Path, words: dict[str, int], *, pad: str, unknown: str, begin: str, end: str
) -> None:
    """Write a tokenizer of whole words."""
    tokenizer = Tokenizer(models.WordLevel(words, unk_token=unknown))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.add_special_tokens([pad, unknown, begin, end])
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{begin} $A {end}", special_tokens=[(token, words[token]) for token in (begin, end)]
    )
    tokenizer.save(str(path / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "pad_token": pad,
        "unk_token": unknown,
        "cls_token": begin,
        "sep_token": end,
        "model_max_length": POSITIONS,
    }
    write_json(path / "tokenizer_config.json", settings)


def write_modules(path: Path, width: int) -> None:
    """Say, in sentence-transformers' way, that the first token's vector is scaled to unit length."""
    kinds = (("0", "", "Transformer"), ("1", "1_Pooling", "Pooling"), ("2", "2_Normalize", "Normalize"))
    modules = [
        {"idx": int(name), "name": name, "path": folder, "type": f"sentence_transformers.models.{kind}"}
        for name, folder, kind in kinds
    ]
    for _, folder, _ in kinds[1:]:
        (path / folder).mkdir()
    pooling = {
        "word_embedding_dimension": width,
        "pooling_mode_cls_token": True,
        "pooling_mode_mean_tokens": False,
    }
    write_json(path / "modules.json", modules)
    write_json(path / "1_Pooling/config.json", pooling)
    write_json(path / "sentence_bert_config.json", {"max_seq_length": POSITIONS, "do_lower_case": False})


def write_json(path: Path, content: object) -> None:
    """Write a settings file."""
    path.write_bytes(msgspec.json.encode(content))


def main() -> None:
    """Build what the command line says."""
    match sys.argv[1:]:
        case ["minilm-gguf", source, path]:
            minilm_gguf(Path(source), Path(path))
        case ["bert-base", path]:
            bert_base(Path(path))
        case ["large", path]:
            large(Path(path))
        case _:
            sys.exit(__doc__)


if __name__ == "__main__":
    main()
