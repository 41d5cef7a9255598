"""Loads the transformer and makes sure that every weight in use came from a file that was summed.

transformers fills a layer that the file lacks with random numbers and only logs it. Such a layer makes up
vectors, so here it is an error.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_MASKED_LM_MAPPING_NAMES,
)

from embeddings_gateway.backends.base import LoadError
from embeddings_gateway.backends.hf.files.layout import Layout
from embeddings_gateway.backends.hf.files.weights import Weights
from embeddings_gateway.backends.hf.network.architecture import Architecture, read_architecture
from embeddings_gateway.backends.hf.runtimes.runtime import TransformerFacts
from embeddings_gateway.backends.hf.silence_transformers import silence_transformers

# What files of before 2023 hold beside weights: the transformer computes these itself.
BUFFERS = ("causal_mask", "inv_freq", "masked_bias", "position_ids")
TRIED_TOKENS = 4
"""The length of the inputs that show whether a token sees those after it."""


class Encoder(NamedTuple):
    """A transformer with its weights, on the processor, ready for inference; ``notes`` are for the operator."""

    model: nn.Module
    facts: TransformerFacts
    notes: tuple[str, ...] = ()


class PositionOffset(NamedTuple):
    """Positions that count from past the padding id, as those of RoBERTa's relatives and MPNet do.

    Attributes:
        padding: the padding id. Positions count from ``padding + 1`` and leave out tokens that are this id;
            those have the position ``padding``, also inside a text.
        max_tokens: the tokens for which there are positions.
    """

    padding: int
    max_tokens: int


def load_encoder(layout: Layout, weights: Weights, dtype: torch.dtype) -> Encoder:
    """Load the transformer, with weights of ``dtype``. No code of the directory ever runs."""
    folder = layout.folder
    try:
        with silence_transformers():
            architecture = read_architecture(layout)
            _without_cache(architecture.config)
            state = _read_state([layout.root / name for name in weights.transformer])
            model, report = _load(architecture, state, dtype)
    except LoadError:
        raise
    except Exception as error:  # transformers, torch and safetensors raise many kinds
        raise LoadError(f"{folder} cannot be loaded by transformers: {_reason(error)}") from error
    _check(folder, model, report, state)
    text = architecture.config.get_text_config()
    return Encoder(model, _facts(folder, model, text), architecture.notes)


def position_offset(model: nn.Module) -> PositionOffset | None:
    """Return how a transformer's positions are offset; ``None`` where they count from 0."""
    # The models that do so are the only ones with a module that has a padding_idx and a table of positions.
    for module in model.modules():
        table, padding = getattr(module, "position_embeddings", None), getattr(module, "padding_idx", None)
        if isinstance(table, nn.Embedding) and isinstance(padding, int):
            return PositionOffset(padding, table.num_embeddings - padding - 1)
    return None


def _read_state(files: Iterable[Path]) -> dict[str, Tensor]:
    """Return the tensors of all files, without the masks that some old ones hold beside them."""
    state: dict[str, Tensor] = {}
    for file in files:
        state |= load_file(file)
    return {name: tensor for name, tensor in state.items() if not _is_mask(name, tensor)}


def _is_mask(name: str, tensor: Tensor) -> bool:
    """Return whether a tensor is no weight but says with 0 and 1 which earlier tokens a token sees."""
    if name.rpartition(".")[2] not in ("bias", "causal_mask") or tensor.dim() != 4:
        return False
    square = tensor[0, 0].float()
    return bool(((square == 0) | (square == 1)).all() and square.triu(1).sum() == 0)


def _load(
    architecture: Architecture, state: dict[str, Tensor], dtype: torch.dtype
) -> tuple[Any, dict[str, Any]]:
    options: dict[str, Any] = {
        "config": architecture.config,
        "state_dict": state,
        "dtype": dtype,
        "ignore_mismatched_sizes": True,  # they are reported, and refused with our own words
        "output_loading_info": True,
    }
    family: Any = architecture.model_class
    try:
        return family.from_pretrained(None, attn_implementation="sdpa", **options)  # type: ignore[no-any-return]
    except (ValueError, ImportError) as error:
        if "scaled_dot_product_attention" not in str(error):
            raise
        return family.from_pretrained(None, attn_implementation="eager", **options)  # type: ignore[no-any-return]


def _without_cache(config: object) -> None:
    """Keep decoders from building a cache of keys and values for a text that never continues."""
    setattr(config, "use_cache", False)  # noqa: B010 - the attribute is not declared everywhere
    for name in getattr(config, "sub_configs", {}):
        if (part := getattr(config, name, None)) is not None:
            _without_cache(part)


def _check(folder: Path, model: nn.Module, report: Mapping[str, Any], state: Mapping[str, Tensor]) -> None:
    """Refuse weights that do not fit the architecture, except in heads that no vector goes through."""
    made_up = sorted(key for key in report["missing_keys"] if "pooler" not in key.split("."))
    if made_up:
        raise LoadError(f"{folder}: the weights lack {_some(made_up)}, which would have to be invented")
    misfits = [_misfit(*mismatch) for mismatch in sorted(report["mismatched_keys"], key=str)]
    if misfits:
        raise LoadError(f"{folder}: the weights do not fit config.json: {_some(misfits)}")
    # A layer that the file has and the architecture lacks: other code than transformers' made the model.
    body = {name for name, _ in model.named_children()} - {"pooler"}
    prefix = f"{getattr(model, 'base_model_prefix', '')}."
    unexpected = [key for key in report["unexpected_keys"] if key.rpartition(".")[2] not in BUFFERS]
    ignored = sorted(key for key in unexpected if key.removeprefix(prefix).partition(".")[0] in body)
    if ignored:
        raise LoadError(
            f"{folder}: the weights have {_some(ignored)}, which this architecture would leave out: "
            "the model needs code of its own, and none is ever run"
        )


def _misfit(name: str, in_file: object, in_model: object) -> str:
    return f"{name} is {_shape(in_file)} and has to be {_shape(in_model)}"


def _shape(size: object) -> str:
    return " x ".join(map(str, size)) if isinstance(size, Iterable) else str(size)


def _facts(folder: Path, model: nn.Module, config: Any) -> TransformerFacts:
    table = _token_embeddings(folder, model)
    offset = position_offset(model)
    return TransformerFacts(
        pad_id=_pad_id(folder, table, config, offset),
        positions=_positions(offset, config),
        vocabulary_size=len(table),
        causal=_causal(folder, model, config, len(table)),
    )


def _pad_id(folder: Path, table: Tensor, config: Any, offset: PositionOffset | None) -> int:
    """Return the id that fills rows; its embedding is finite, or it would spoil those beside it."""
    wanted = getattr(config, "pad_token_id", None) if offset is None else offset.padding
    if isinstance(wanted, int) and 0 <= wanted < len(table) and table[wanted].isfinite().all():
        return wanted
    # It is masked, so any does where no position depends on it.
    finite = table.isfinite().all(dim=1).nonzero()
    if offset is not None or not len(finite):
        raise LoadError(f"{folder}: the embedding of the padding token {wanted} is not finite")
    return int(finite[0])


def _token_embeddings(folder: Path, model: Any) -> Tensor:
    """Return the table of token embeddings, ``[vocabulary, width]``."""
    try:
        weight = model.get_input_embeddings().weight
        return weight.detach().reshape(len(weight), -1)  # type: ignore[no-any-return]
    except (AttributeError, NotImplementedError, TypeError):
        raise LoadError(
            f"{folder}: {type(model).__name__} has no table of token embeddings, "
            "so it is no model for token ids of a vocabulary, which alone are supported"
        ) from None


def _positions(offset: PositionOffset | None, config: object) -> int | None:
    limit = getattr(config, "max_position_embeddings", None)
    if not isinstance(limit, int) or limit <= 0:
        return None
    return limit if offset is None else offset.max_tokens


def _causal(folder: Path, model: nn.Module, config: Any, vocabulary_size: int) -> bool:
    """Return whether a token sees only those before it, which is tried out."""
    wants_both = getattr(config, "is_causal", None) is False or (
        getattr(config, "use_bidirectional_attention", None) is True
    )
    seen = _sees_later_tokens(model, vocabulary_size)
    if seen is False and wants_both:
        raise LoadError(
            f"{folder}: config.json wants attention in both directions, which {type(model).__name__} lacks"
        )
    if seen is not None:
        return not seen
    # By name: a decoder is what transformers uses to continue text and never to fill in a mask.
    kind = getattr(config, "model_type", "")
    decoder = kind in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES and kind not in MODEL_FOR_MASKED_LM_MAPPING_NAMES
    return decoder and not wants_both


@torch.inference_mode()
def _sees_later_tokens(model: nn.Module, vocabulary_size: int) -> bool | None:
    """Return whether a first token's output depends on the last token; ``None`` if that cannot be found out."""
    source = torch.Generator().manual_seed(0)
    ids = torch.randint(vocabulary_size, (2, TRIED_TOKENS), generator=source)
    changed = ids.clone()
    changed[:, -1] = (ids[:, -1] + 1 + vocabulary_size // 2) % vocabulary_size
    mask = torch.ones_like(ids)
    try:
        first, second = (
            model.eval()(input_ids=inputs, attention_mask=mask).last_hidden_state.float()
            for inputs in (ids, changed)
        )
    except Exception:  # a model that fails here fails on its first text, where that is told
        return None
    if not (first.isfinite().all() and second.isfinite().all()) or torch.equal(first[:, -1], second[:, -1]):
        return None
    return not torch.allclose(first[:, 0], second[:, 0], rtol=1e-4, atol=1e-6)


def _reason(error: Exception) -> str:
    """Shorten a library's message, which may list every architecture it knows."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:400]}"


def _some(names: list[str]) -> str:
    rest = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + rest
