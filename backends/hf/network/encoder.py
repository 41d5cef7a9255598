"""Loads the transformer and makes sure that every weight in use came from the file.

transformers fills a layer that the file lacks with random numbers and only logs it. Such a layer makes up
vectors, so here it is an error.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import torch
import transformers
from torch import nn
from transformers import AutoConfig, AutoModel
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_MASKED_LM_MAPPING_NAMES,
)

from embeddings_gateway.backends.base import LoadError
from embeddings_gateway.backends.hf.runtimes.runtime import TransformerFacts
from embeddings_gateway.backends.hf.silence_transformers import silence_transformers

# Encoder-decoders whose encoder stands alone in transformers, by config.json's model_type.
ENCODERS = {
    "longt5": "LongT5EncoderModel",
    "mt5": "MT5EncoderModel",
    "switch_transformers": "SwitchTransformersEncoderModel",
    "t5": "T5EncoderModel",
    "umt5": "UMT5EncoderModel",
}


class Encoder(NamedTuple):
    """A transformer with its weights, on the processor, ready for inference."""

    model: nn.Module
    facts: TransformerFacts


class PositionOffset(NamedTuple):
    """Positions that count from past the padding id, as those of RoBERTa's relatives and MPNet do.

    Attributes:
        padding: the padding id. Positions count from ``padding + 1`` and leave out tokens that are this id;
            those have the position ``padding``, also inside a text.
        max_tokens: the tokens for which there are positions.
    """

    padding: int
    max_tokens: int


def load_encoder(folder: Path, dtype: torch.dtype) -> Encoder:
    """Load the transformer in ``folder``, with weights of ``dtype``. No code of the directory ever runs."""
    try:
        with silence_transformers():
            config = AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
            _without_cache(config)
            model, report = _load(folder, config, dtype)
    except LoadError:
        raise
    except Exception as error:  # transformers, torch and safetensors raise many kinds
        raise LoadError(f"{folder} cannot be loaded by transformers: {_reason(error)}") from error
    _check(folder, model, report["missing_keys"], report["unexpected_keys"])
    text = config.get_text_config()
    pad_id = getattr(text, "pad_token_id", None)
    facts = TransformerFacts(
        pad_id=pad_id if isinstance(pad_id, int) and pad_id >= 0 else 0,
        positions=_positions(model, text),
        vocabulary_size=model.get_input_embeddings().weight.shape[0],
        causal=_causal(text),
    )
    return Encoder(model, facts)


def position_offset(model: nn.Module) -> PositionOffset | None:
    """Return how a transformer's positions are offset; ``None`` where they count from 0."""
    # The models that do so are the only ones with a module that has a padding_idx and a table of positions.
    for module in model.modules():
        table, padding = getattr(module, "position_embeddings", None), getattr(module, "padding_idx", None)
        if isinstance(table, nn.Embedding) and isinstance(padding, int):
            return PositionOffset(padding, table.num_embeddings - padding - 1)
    return None


def _load(folder: Path, config: object, dtype: torch.dtype) -> tuple[Any, dict[str, Iterable[str]]]:
    options = {
        "config": config,
        "dtype": dtype,
        "use_safetensors": True,
        "trust_remote_code": False,
        "local_files_only": True,
        "output_loading_info": True,
    }
    family = _family(folder, config)
    try:
        return family.from_pretrained(folder, attn_implementation="sdpa", **options)  # type: ignore[no-any-return]
    except (ValueError, ImportError) as error:
        if "scaled_dot_product_attention" not in str(error):
            raise
        return family.from_pretrained(folder, attn_implementation="eager", **options)  # type: ignore[no-any-return]


def _family(folder: Path, config: object) -> type[AutoModel]:
    kind = getattr(config, "model_type", "")
    if kind in ENCODERS:
        return getattr(transformers, ENCODERS[kind])  # type: ignore[no-any-return]
    if getattr(config, "is_encoder_decoder", False):
        raise LoadError(
            f"{folder}: {kind} is an encoder-decoder; of those only {', '.join(ENCODERS)} are supported"
        )
    return AutoModel  # type: ignore[no-any-return]


def _without_cache(config: object) -> None:
    """Keep decoders from building a cache of keys and values for a text that never continues."""
    setattr(config, "use_cache", False)  # noqa: B010 - the attribute is not declared everywhere
    for name in getattr(config, "sub_configs", {}):
        if (part := getattr(config, name, None)) is not None:
            _without_cache(part)


def _check(folder: Path, model: nn.Module, missing: Iterable[str], unexpected: Iterable[str]) -> None:
    """Refuse weights that do not fit the architecture, except in heads that no vector goes through."""
    made_up = sorted(key for key in missing if "pooler" not in key.split("."))
    if made_up:
        raise LoadError(f"{folder}: the weights lack {_some(made_up)}, which would have to be invented")
    # A layer that the file has and the architecture lacks: other code than transformers' made the model.
    body = {name for name, _ in model.named_children()} - {"pooler"}
    prefix = f"{getattr(model, 'base_model_prefix', '')}."
    ignored = sorted(key for key in unexpected if key.removeprefix(prefix).partition(".")[0] in body)
    if ignored:
        raise LoadError(
            f"{folder}: the weights have {_some(ignored)}, which this architecture would leave out: "
            "the model needs code of its own, and none is ever run"
        )


def _positions(model: nn.Module, config: object) -> int | None:
    limit = getattr(config, "max_position_embeddings", None)
    if not isinstance(limit, int) or limit <= 0:
        return None
    offset = position_offset(model)
    return limit if offset is None else offset.max_tokens


def _causal(config: object) -> bool:
    """Return whether it is a decoder: a model that transformers uses to continue text, never to fill in a mask."""
    kind = getattr(config, "model_type", "")
    decoder = kind in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES and kind not in MODEL_FOR_MASKED_LM_MAPPING_NAMES
    bidirectional = getattr(config, "use_bidirectional_attention", None) is True
    return decoder and not bidirectional and getattr(config, "is_causal", True) is not False


def _reason(error: Exception) -> str:
    """Shorten a library's message, which may list every architecture it knows."""
    if "trust_remote_code" in str(error):
        # The library's own advice is to run the code.
        return (
            "it needs code of its own, and none is ever run: take a model whose architecture transformers has"
        )
    return f"{type(error).__name__}: {' '.join(str(error).split())[:400]}"


def _some(names: list[str]) -> str:
    rest = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + rest
