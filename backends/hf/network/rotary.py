"""Rotary positions that depend on the length of the text (longrope), for each input by itself.

transformers chooses between the short and the long frequencies by the longest input of a batch. So a text would
have another vector beside a longer one.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

BY_LENGTH = "longrope"
"""The type with two sets of frequencies. Others have one, up to the longest input that a model takes."""


class RotaryByLength(nn.Module):
    """A transformer's rotary positions, with the frequencies that each input has when it is alone."""

    def __init__(self, rotary: Any) -> None:
        super().__init__()
        self.rotary = rotary

    def forward(
        self, x: Tensor, position_ids: Tensor, layer_type: str | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return cosines and sines, ``[inputs, tokens, width]``.

        Args:
            x: says which dtype and device they have.
            position_ids: int64 ``[inputs, tokens]``, as :func:`own_positions` makes them.
            layer_type: the kind of layer, for models that have several.
        """
        kind = () if layer_type is None else (layer_type,)
        parameters = _parameters(self.rotary, layer_type)
        if parameters.get("rope_type") != BY_LENGTH:
            return self.rotary(x, position_ids, *kind)  # type: ignore[no-any-return]
        limit = parameters["original_max_position_embeddings"]
        # Asked for no position beyond the limit it gives the short frequencies, and for one more the long ones.
        short = self.rotary(x, position_ids.clamp(max=limit - 1), *kind)
        beyond = torch.full_like(position_ids[:, :1], limit)
        long = [values[:, :-1] for values in self.rotary(x, torch.cat([position_ids, beyond], dim=1), *kind)]
        is_long = (position_ids.amax(dim=1) >= limit)[:, None, None]
        cosines, sines = (torch.where(is_long, *pair) for pair in zip(long, short, strict=True))
        return cosines, sines


def own_positions(attention_mask: Tensor) -> Tensor:
    """Return the position of each token, int64 ``[inputs, tokens]``; padding has that of its input's last."""
    positions = torch.arange(attention_mask.shape[1], device=attention_mask.device)[None]
    return torch.minimum(positions, attention_mask.sum(dim=1, keepdim=True) - 1)


def split_by_length(transformer: nn.Module) -> bool:
    """Replace the rotary positions that depend on a batch's longest input; return whether there were any.

    If so the transformer has to be given :func:`own_positions`.
    """
    names = [name for name, module in transformer.named_modules() if _depends_on_length(module)]
    for name in names:
        transformer.set_submodule(name, RotaryByLength(transformer.get_submodule(name)))
    return bool(names)


def _depends_on_length(module: nn.Module) -> bool:
    if "RotaryEmbedding" not in type(module).__name__:
        return False
    parameters = _parameters(module, None)
    by_layer = [each for each in parameters.values() if isinstance(each, dict)]
    return any(each.get("rope_type") == BY_LENGTH for each in (parameters, *by_layer))


def _parameters(rotary: Any, layer_type: str | None) -> dict[str, Any]:
    parameters = getattr(getattr(rotary, "config", None), "rope_parameters", None) or {}
    return parameters if layer_type is None else parameters[layer_type]
