"""What a model directory says of itself: which modules run, in which order, and with which settings.

Only JSON is read here, no weights and nothing by a model library. Understands sentence-transformers'
layout (``modules.json``), old and new, and a plain transformers directory.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec

from embeddings_gateway.backends import prompts
from embeddings_gateway.backends.base import LoadError
from embeddings_gateway.backends.hf.files import json_file, modules, settings
from embeddings_gateway.backends.hf.files.modules import Dense
from embeddings_gateway.backends.prompts import Prompts
from embeddings_gateway.backends.spec import HfSpec, Pooling


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
        pools_prompts: whether the words of a prompt are pooled with the text.
        dot_product: whether the author compares vectors by dot product.
        dimensions: Matryoshka widths named in the files, as they stand there.
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

    @property
    def folder(self) -> Path:
        """The transformer's directory."""
        return self.root / self.transformer


class _Entry(msgspec.Struct):
    type: str
    path: str = ""

    @property
    def kind(self) -> str:
        """The module's class name, for classes of sentence-transformers' own."""
        package, _, name = self.type.rpartition(".")
        return name if package.partition(".")[0] == "sentence_transformers" else self.type


def read(root: Path) -> Layout:
    """Read the settings of the model in ``root``.

    Raises:
        LoadError: a file is missing or damaged, or asks for something that is not supported.
    """
    entries = json_file.read_if_present(root / "modules.json", list[_Entry])
    if entries is None:
        entries = [_Entry(type="sentence_transformers.Transformer")]
        pooled = False
    else:
        _check(root, entries)
        pooled = True
    author = settings.read_model(root)
    transformer = settings.read_transformer(root / entries[0].path)
    config = _config(root / entries[0].path)
    return Layout(
        root=root,
        transformer=entries[0].path,
        config=config,
        pooling=modules.read_pooling(root / entries[1].path) if pooled else (),
        dense=tuple(modules.read_dense(root, entry.path) for entry in entries if entry.kind == "Dense"),
        normalize=entries[-1].kind == "Normalize",
        max_tokens=transformer.max_tokens,
        lower_case=transformer.lower_case,
        prompts=author.prompts,
        default_prompt=author.default_prompt,
        pools_prompts=not pooled or modules.pools_prompts(root / entries[1].path),
        dot_product=author.dot_product,
        dimensions=author.dimensions + settings.matryoshka(config),
    )


def prompted(layout: Layout, spec: HfSpec) -> Layout:
    """Put the configuration's prompts in the place of the model's own.

    Raises:
        LoadError: the model cannot be used with prompts, or the default one is not among them.
    """
    words, default = prompts.choose(spec, Prompts(layout.prompts, layout.default_prompt))
    if any(words.values()) and not layout.pools_prompts:
        raise LoadError(
            f"{layout.root}: include_prompt is false: leaving prompts out of the pooling is not supported"
        )
    return msgspec.structs.replace(layout, prompts=dict(words), default_prompt=default)


def settle(layout: Layout, spec: HfSpec, causal: bool) -> Layout:
    """Decide what the files leave open or the configuration overrides: pooling and normalising.

    Args:
        layout: as read.
        spec: how the model is configured.
        causal: whether the transformer's tokens see only those before them.
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
    config = json_file.read(folder / "config.json", dict[str, object])
    if (folder / "adapter_config.json").exists():
        # transformers would fetch the base model that it names, or leave the adapter out in silence.
        raise LoadError(f"{folder} holds an adapter: merge it into its base model and save that")
    if config.get("quantization_config"):
        raise LoadError(f"{folder / 'config.json'}: weights quantised for another library are not supported")
    return config
