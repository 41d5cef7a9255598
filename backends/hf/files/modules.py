"""The modules that follow the transformer in a sentence-transformers directory: how each says what it does.

Reads what sentence-transformers writes today (``pooling_mode``) and its older ``pooling_mode_*`` flags.
A setting that would change the vector and is not understood is a LoadError, never ignored.
"""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import msgspec

from embeddings_gateway.backends.base import LoadError
from embeddings_gateway.backends.hf.files import json_file
from embeddings_gateway.backends.spec import Pooling

POOLING_NAMES: dict[str, Pooling] = {
    "cls": "cls",
    "max": "max",
    "mean": "mean",
    "mean_sqrt_len_tokens": "mean_sqrt_len",
    "weightedmean": "weighted_mean",
    "lasttoken": "last",
}
# In the order in which sentence-transformers joins several of them.
POOLING_FLAGS: dict[str, Pooling] = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len",
    "pooling_mode_weightedmean_tokens": "weighted_mean",
    "pooling_mode_lasttoken": "last",
}
ACTIVATIONS = ("Identity", "Tanh", "GELU", "ReLU", "SiLU", "Sigmoid")
SENTENCE = "sentence_embedding"

assert set(POOLING_NAMES.values()) == set(get_args(Pooling))  # noqa: S101 - a fact of this file, checked once


class Dense(msgspec.Struct, frozen=True):
    """A linear layer after pooling.

    Attributes:
        folder: its directory, relative to the model's.
        in_features, out_features: widths.
        bias: whether it adds a bias.
        activation: the class in ``torch.nn`` that follows it.
        residual: whether its input is added to its output.
    """

    folder: str
    in_features: int
    out_features: int
    bias: bool
    activation: str
    residual: bool


class _DenseFile(msgspec.Struct):
    in_features: int
    out_features: int
    bias: bool = True
    activation_function: str = "torch.nn.modules.activation.Tanh"  # sentence-transformers' own default
    use_residual: bool = False
    module_input_name: str | None = None
    module_output_name: str | None = None


def pools_prompts(folder: Path) -> bool:
    """Return whether a Pooling module pools the words of a prompt with the text."""
    return json_file.read(folder / "config.json", dict[str, object]).get("include_prompt") is not False


def read_pooling(folder: Path) -> tuple[Pooling, ...]:
    """Return the modes of a Pooling module; the results of several are joined end to end, in this order.

    Raises:
        LoadError: a mode is unknown.
    """
    path = folder / "config.json"
    settings = json_file.read(path, dict[str, object])
    named = settings.get("pooling_mode")
    if named is None:
        flagged = tuple(mode for flag, mode in POOLING_FLAGS.items() if settings.get(flag) is True)
        return flagged or ("mean",)
    names = [str(name) for name in named] if isinstance(named, list) else [str(named)]
    unknown = [name for name in names if name not in POOLING_NAMES]
    if unknown or not names:
        raise LoadError(f"{path}: pooling_mode {named!r} is unknown; set pooling to override it")
    return tuple(POOLING_NAMES[name] for name in names)


def read_dense(root: Path, folder: str) -> Dense:
    """Return a Dense module's shape.

    Raises:
        LoadError: the activation is not one of torch's simple ones, or it works on another vector.
    """
    path = root / folder / "config.json"
    file = json_file.read(path, _DenseFile)
    package, _, activation = file.activation_function.rpartition(".")
    if not package.startswith("torch.nn") or activation not in ACTIVATIONS:
        raise LoadError(
            f"{path}: activation_function {file.activation_function!r} is not supported; "
            f"torch.nn's {', '.join(ACTIVATIONS)} are"
        )
    if {file.module_input_name, file.module_output_name} - {None, SENTENCE}:
        raise LoadError(f"{path}: only a Dense module from {SENTENCE} to {SENTENCE} is supported")
    return Dense(folder, file.in_features, file.out_features, file.bias, activation, file.use_residual)
