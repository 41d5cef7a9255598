"""The JSON files of a model directory, read into typed values, and what its settings files say.

``config_sentence_transformers.json`` for the whole model; ``sentence_bert_config.json`` (under any of its old
names) and ``tokenizer_config.json`` for its transformer. A setting that would change the vector and is not
understood is a LoadError.
"""

from __future__ import annotations

import codecs
from pathlib import Path
from typing import TypeVar, get_origin

import msgspec

from embeddings_gateway.backends.base import LoadError

T = TypeVar("T")

# Written by sentence-transformers over the years, the newest first; it reads the first that exists.
TRANSFORMER_FILES = tuple(
    f"sentence_{family}_config.json"
    for family in ("bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet")
)
# Arguments that choose how to load or compute, not what: the backend decides these itself.
HARMLESS_ARGUMENTS = {
    "attn_implementation",
    "dtype",
    "model_max_length",
    "padding_side",
    "revision",
    "torch_dtype",
    "trust_remote_code",
    "truncation_side",
    "use_cache",
    "use_fast",
}
# A tokenizer without a limit says so with a number such as 1e30.
NO_LIMIT = 10**9


class ModelSettings(msgspec.Struct, frozen=True):
    """What the author says of the whole model; the attributes are those of ``Layout``."""

    prompts: dict[str, str]
    default_prompt: str | None
    dot_product: bool
    dimensions: tuple[int, ...]
    truncate_dim: int | None


class TransformerSettings(msgspec.Struct, frozen=True):
    """What the author says of the transformer; the attributes are those of ``Layout``."""

    max_tokens: int | None
    lower_case: bool


class _ModelFile(msgspec.Struct):
    model_type: str = "SentenceTransformer"
    prompts: dict[str, str | None] = {}
    default_prompt_name: str | None = None
    similarity_fn_name: str | None = None
    truncate_dim: int | None = None
    matryoshka_dims: list[int] | None = None


class _Modality(msgspec.Struct):
    method: str
    method_output_name: str | list[str] | None = None


class _TransformerFile(msgspec.Struct):
    max_seq_length: int | None = None
    do_lower_case: bool = False
    transformer_task: str = "feature-extraction"
    module_output_name: str | None = None
    modality_config: dict[str, _Modality] = {}
    processing_kwargs: dict[str, object] = {}
    query_expansion: object = None
    model_args: dict[str, object] = {}
    model_kwargs: dict[str, object] = {}
    config_args: dict[str, object] = {}
    config_kwargs: dict[str, object] = {}
    tokenizer_args: dict[str, object] = {}
    processor_kwargs: dict[str, object] = {}


class _TokenizerFile(msgspec.Struct):
    model_max_length: int | float | None = None


def read_json(path: Path, kind: type[T]) -> T:
    """Return the file's content as ``kind``. Keys that ``kind`` does not name are ignored.

    In a struct's place a key that is null counts as absent: sentence-transformers has written such files.
    """
    try:
        content = msgspec.json.decode(path.read_bytes().removeprefix(codecs.BOM_UTF8))
        if isinstance(content, dict) and issubclass(get_origin(kind) or kind, msgspec.Struct):
            content = {key: value for key, value in content.items() if value is not None}
        return msgspec.convert(content, kind)
    except OSError as error:
        raise LoadError(
            f"{path} cannot be read: {error.strerror}. Is the model directory complete?"
        ) from error
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise LoadError(f"{path} is not what a model directory holds there: {error}") from error


def read_json_if_present(path: Path, kind: type[T]) -> T | None:
    """Return the file's content as ``kind``, or nothing where there is no such file."""
    return read_json(path, kind) if path.exists() else None


def read_model(root: Path) -> ModelSettings:
    """Read ``config_sentence_transformers.json``, if there is one."""
    path = root / "config_sentence_transformers.json"
    file = read_json_if_present(path, _ModelFile) or _ModelFile()
    if file.model_type != "SentenceTransformer":
        raise LoadError(f"{path}: a {file.model_type} is not a model of one dense vector per text")
    if file.default_prompt_name is not None and file.default_prompt_name not in file.prompts:
        raise LoadError(f"{path}: default_prompt_name {file.default_prompt_name!r} is not among its prompts")
    return ModelSettings(
        prompts={name: prompt or "" for name, prompt in file.prompts.items()},
        default_prompt=file.default_prompt_name,
        dot_product=file.similarity_fn_name in {"dot", "dot_score", "dot_product"},
        dimensions=tuple(file.matryoshka_dims or ()),
        truncate_dim=file.truncate_dim,
    )


def read_transformer(folder: Path) -> TransformerSettings:
    """Read the transformer's settings and its tokenizer's limit."""
    path = next((folder / name for name in TRANSFORMER_FILES if (folder / name).exists()), None)
    file = _TransformerFile()
    if path:
        file = read_json(path, _TransformerFile)
        _check(path, file)
    # This limit replaces the tokenizer's even where it is higher, as sentence-transformers has it.
    limit = file.max_seq_length or _tokenizer_limit(folder)
    return TransformerSettings(max_tokens=limit, lower_case=file.do_lower_case)


def matryoshka(config: dict[str, object]) -> tuple[int, ...]:
    """Return the Matryoshka widths that some authors put in ``config.json`` itself."""
    for key in ("matryoshka_dimensions", "matryoshka_dims"):
        widths = config.get(key)
        if isinstance(widths, list):
            return tuple(width for width in widths if isinstance(width, int))
    return ()


def _check(path: Path, file: _TransformerFile) -> None:
    arguments = [file.model_args, file.model_kwargs, file.config_args, file.config_kwargs]
    arguments += [file.tokenizer_args, file.processor_kwargs]
    unknown = {key for group in arguments for key in group} - HARMLESS_ARGUMENTS
    text = file.modality_config.get("text")
    refused = {
        "transformer_task": file.transformer_task != "feature-extraction",
        "module_output_name": file.module_output_name not in {None, "token_embeddings"},
        "query_expansion": file.query_expansion is not None,
        "processing_kwargs": any(file.processing_kwargs.get(key) for key in ("text", "common")),
        # The text would be put through a chat template first, and no template is ever rendered here.
        "modality_config": "message" in file.modality_config or (text is not None and not _is_plain(text)),
        ", ".join(sorted(unknown)): bool(unknown),
    }
    for key, wrong in refused.items():
        if wrong:
            raise LoadError(f"{path}: {key} asks for something that is not supported")


def _is_plain(modality: _Modality) -> bool:
    return modality.method == "forward" and modality.method_output_name in (
        "last_hidden_state",
        ["last_hidden_state"],
    )


def _tokenizer_limit(folder: Path) -> int | None:
    file = read_json_if_present(folder / "tokenizer_config.json", _TokenizerFile) or _TokenizerFile()
    limit = file.model_max_length
    return int(limit) if limit is not None and 0 < limit < NO_LIMIT else None
