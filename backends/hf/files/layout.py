"""What a model directory says of itself: which modules run, in which order, and with which settings.

Only JSON is read here, no weights and nothing by a model library. It understands sentence-transformers'
layout (``modules.json``), old and new, and a plain transformers directory. A setting that would change the
vector and is not understood is a LoadError.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import get_args

import msgspec

from embeddings_gateway.backends.base import LoadError
from embeddings_gateway.backends.hf.files import settings
from embeddings_gateway.backends.hf.files.settings import read_json, read_json_if_present
from embeddings_gateway.backends.model_options import resolve_prompts
from embeddings_gateway.backends.spec import HfSpec, Pooling

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
# Keys of config.json that make transformers load other files than those that were summed.
REDIRECTS = ("configuration_files", "transformers_weights")

assert set(POOLING_NAMES.values()) == set(get_args(Pooling))  # noqa: S101 - a fact of this file, checked once


class Dense(msgspec.Struct, frozen=True):
    """A linear layer after pooling.

    Attributes:
        folder: its directory, relative to the model's.
        activation: the class in ``torch.nn`` that follows it.
        residual: whether its input is added to its output.
    """

    folder: str
    in_features: int
    out_features: int
    bias: bool
    activation: str
    residual: bool


class Layout(msgspec.Struct, frozen=True, kw_only=True):
    """A model directory, understood.

    Attributes:
        root: the directory.
        transformer: the transformer's directory, relative to ``root``; ``""`` for ``root`` itself.
        config: its ``config.json``.
        pooling: the pooling modes, joined end to end; empty where the directory does not say.
        dense: the linear layers after pooling, in order.
        normalize: whether the model has a Normalize module.
        max_tokens: the author's limit, special tokens included; ``None`` where the files do not say.
        lower_case: whether text is lower-cased first, whatever the tokenizer does.
        prompts, default_prompt: as in ``ModelInfo``.
        pools_prompts: whether the tokens of a prompt are pooled with those of the text.
        dot_product: whether the author compares vectors by dot product.
        dimensions: Matryoshka widths named in the files, as they stand there.
        truncate_dim: the width to which sentence-transformers cuts vectors; ``None``: to none.
    """

    root: Path
    transformer: str
    config: dict[str, object]
    pooling: tuple[Pooling, ...]
    dense: tuple[Dense, ...]
    normalize: bool
    max_tokens: int | None
    lower_case: bool
    prompts: dict[str, str]
    default_prompt: str | None
    pools_prompts: bool
    dot_product: bool
    dimensions: tuple[int, ...]
    truncate_dim: int | None

    @property
    def folder(self) -> Path:
        """The transformer's directory."""
        return self.root / self.transformer


class _DenseFile(msgspec.Struct):
    in_features: int
    out_features: int
    bias: bool = True
    activation_function: str = "torch.nn.modules.activation.Tanh"  # sentence-transformers' own default
    use_residual: bool = False
    module_input_name: str | None = None
    module_output_name: str | None = None


class _Entry(msgspec.Struct):
    type: str
    path: str = ""

    @property
    def kind(self) -> str:
        """The module's class name, for classes of sentence-transformers' own."""
        package, _, name = self.type.rpartition(".")
        return name if package.partition(".")[0] == "sentence_transformers" else self.type


def read_layout(root: Path, pooling: Pooling | None = None) -> Layout:
    """Read the settings of the model in ``root``; ``pooling`` replaces what its Pooling module says."""
    entries = _read_modules(root)
    modes, pools_prompts = _read_pooling(root, entries, pooling)
    author = settings.read_model(root)
    transformer = settings.read_transformer(root / entries[0].path)
    config = _config(root / entries[0].path)
    return Layout(
        root=root,
        transformer=entries[0].path,
        config=config,
        pooling=modes,
        dense=tuple(_read_dense(root, entry.path) for entry in entries if entry.kind == "Dense"),
        normalize=entries[-1].kind == "Normalize",
        max_tokens=transformer.max_tokens,
        lower_case=transformer.lower_case,
        prompts=author.prompts,
        default_prompt=author.default_prompt,
        pools_prompts=pools_prompts,
        dot_product=author.dot_product,
        dimensions=author.dimensions + settings.matryoshka(config),
        truncate_dim=author.truncate_dim,
    )


def _read_modules(root: Path) -> list[_Entry]:
    entries = read_json_if_present(root / "modules.json", list[_Entry])
    if entries is None:
        return [_Entry(type="sentence_transformers.Transformer")]
    # Dropout does something in training only.
    entries = [entry for entry in entries if entry.kind != "Dropout"]
    _check(root, entries)
    return entries


def _read_pooling(
    root: Path, entries: Sequence[_Entry], configured: Pooling | None
) -> tuple[tuple[Pooling, ...], bool]:
    """Return the pooling modes, as in ``Layout``, and whether prompts are pooled."""
    if len(entries) == 1:
        return (configured,) if configured else (), True
    path = root / entries[1].path / "config.json"
    if configured:
        file = read_json_if_present(path, dict[str, object]) or {}
        return (configured,), file.get("include_prompt") is not False
    if not path.exists():
        raise LoadError(f"{path} is missing: fetch the model again, or set pooling")
    file = read_json(path, dict[str, object])
    return _modes(path, file), file.get("include_prompt") is not False


def with_prompts(layout: Layout, spec: HfSpec) -> Layout:
    """Replace the model's own prompts by those of the configuration, where it has any."""
    prompts, default_prompt = resolve_prompts(spec, layout.prompts, layout.default_prompt)
    if any(prompts.values()) and not layout.pools_prompts:
        raise LoadError(
            f"{layout.root}: include_prompt is false: leaving prompts out of the pooling is not supported"
        )
    return msgspec.structs.replace(layout, prompts=prompts, default_prompt=default_prompt)


def resolve(layout: Layout, spec: HfSpec, causal: bool) -> Layout:
    """Decide what the files leave open or the configuration overrides: pooling and normalising.

    ``causal``: whether the transformer's tokens see only those before them.
    """
    by_architecture: tuple[Pooling, ...] = ("last",) if causal else ("mean",)
    by_author = layout.normalize or not layout.dot_product
    return msgspec.structs.replace(
        layout,
        pooling=(spec.pooling,) if spec.pooling else layout.pooling or by_architecture,
        normalize=by_author if spec.normalize is None else spec.normalize,
    )


def _check(root: Path, entries: Sequence[_Entry]) -> None:
    """Accept Transformer, Pooling, any number of Dense, and at most one Normalize, in this order."""
    kinds = [entry.kind for entry in entries]
    for kind in kinds:
        if kind not in {"Transformer", "Pooling", "Dense", "Normalize"}:
            raise LoadError(f"{root / 'modules.json'}: module type {kind!r} is not supported")
    tail = kinds[2:-1] if kinds[-1:] == ["Normalize"] else kinds[2:]
    if kinds[:2] != ["Transformer", "Pooling"] or set(tail) - {"Dense"}:
        raise LoadError(
            f"{root / 'modules.json'}: modules must be Transformer, Pooling, Dense (any number), Normalize; "
            f"they are {', '.join(kinds)}"
        )
    for entry in entries:
        if Path(entry.path).is_absolute() or ".." in Path(entry.path).parts:
            raise LoadError(f"{root / 'modules.json'}: path {entry.path!r} leads out of the model directory")


def _config(folder: Path) -> dict[str, object]:
    path = folder / "config.json"
    if (folder / "adapter_config.json").exists():
        # transformers would fetch the base model that it names, or leave the adapter out in silence.
        raise LoadError(
            f"{folder} holds an adapter (LoRA), not a model: merge it into its base model "
            "(peft's merge_and_unload) and save that with save_pretrained"
        )
    if not path.exists() and (hint := _elsewhere(folder)):
        raise LoadError(f"{folder} has no config.json: {hint}")
    config = read_json(path, dict[str, object])
    if config.get("quantization_config"):
        raise LoadError(f"{path}: weights quantised for another library are not supported")
    for key in REDIRECTS:
        if config.get(key):
            raise LoadError(f"{path}: {key} names other files to load, which is not supported: remove it")
    return config


def _elsewhere(folder: Path) -> str:
    """Return where a model is that was looked for in ``folder``; empty if there is none below it."""
    snapshots = sorted(path for path in (folder / "snapshots").glob("*") if path.is_dir())
    if snapshots:
        return f"it is a model's folder in a hub cache: path has to be {snapshots[-1]}, or the hub id"
    nested = [path.parent for name in ("modules.json", "config.json") for path in folder.glob(f"*/{name}")]
    models = sorted({str(path) for path in nested if (path / "config.json").exists()})
    return f"path has to be one of {', '.join(models[:5])}" if models else ""


def _modes(path: Path, file: dict[str, object]) -> tuple[Pooling, ...]:
    """Return the modes of a Pooling module; the results of several are joined end to end, in this order."""
    named = file.get("pooling_mode")
    if named is None:
        flagged = tuple(mode for flag, mode in POOLING_FLAGS.items() if file.get(flag) is True)
        return flagged or ("mean",)
    names = [str(name) for name in named] if isinstance(named, list) else [str(named)]
    unknown = [name for name in names if name not in POOLING_NAMES]
    if unknown or not names:
        raise LoadError(f"{path}: pooling_mode {named!r} is unknown; set pooling to override it")
    return tuple(POOLING_NAMES[name] for name in names)


def _read_dense(root: Path, folder: str) -> Dense:
    """Return a Dense module's shape, unless it needs more than a layer and one of torch's activations."""
    path = root / folder / "config.json"
    file = read_json(path, _DenseFile)
    package, _, activation = file.activation_function.rpartition(".")
    if not package.startswith("torch.nn") or activation not in ACTIVATIONS:
        raise LoadError(
            f"{path}: activation_function {file.activation_function!r} is not supported; "
            f"torch.nn's {', '.join(ACTIVATIONS)} are"
        )
    if {file.module_input_name, file.module_output_name} - {None, SENTENCE}:
        raise LoadError(f"{path}: only a Dense module from {SENTENCE} to {SENTENCE} is supported")
    return Dense(folder, file.in_features, file.out_features, file.bias, activation, file.use_residual)
