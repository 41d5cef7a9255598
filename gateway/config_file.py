"""Reads the configuration from TOML. An error names the model, the key, the allowed values and the fix."""

from __future__ import annotations

import difflib
import os
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

import msgspec

from embeddings_gateway.allowed_values import explain, with_short_forms
from embeddings_gateway.backends.spec import FakeSpec, HfSpec, Spec
from embeddings_gateway.config import (
    Config,
    InputType,
    ModelConfig,
    RenamedSetting,
    ServerConfig,
    ServingConfig,
)
from embeddings_gateway.log import get_logger
from embeddings_gateway.toml_hints import hint

DEFAULT = Path(__file__).with_name("default.toml")
VARIABLE = "EMBEDDINGS_GATEWAY_CONFIG"
IN_WORKING_DIRECTORY = Path("gateway.toml")
BACKENDS: dict[str, type[Spec]] = {str(spec.__struct_config__.tag): spec for spec in get_args(Spec)}
BackendKey = msgspec.defstruct("BackendKey", [("backend", Literal[tuple(BACKENDS)])])
RENAMED = {
    "inputs_max": "max_inputs",
    "input_ids_max": "max_input_ids",
    "request_tokens_max": "max_request_tokens",
    "input_chars_max": "max_input_chars",
    "body_bytes_max": "max_body_bytes",
    "connections_max": "max_connections",
    "requests_bytes_max": "max_buffered_bytes",
    "queue_tokens": "max_queue_tokens",
    "batch_tokens": "max_batch_tokens",
}
"""Old name of a setting -> new name. The old names are accepted for one release."""

SPEC_TABLES = ("prompts", "sha256")
HUB_ID = re.compile(r"^[\w.-]+/[\w.-]+$")
INPUT_TYPE_SUFFIXES = tuple(f"@{input_type}" for input_type in get_args(InputType))
SHA256 = re.compile(r"^[0-9a-f]{64}$")

S = TypeVar("S", bound=msgspec.Struct)


class ConfigError(Exception):
    """The configuration cannot be used. The message names the file, the key and the fix."""


def find_config() -> Path | None:
    """Return the file that the environment names, else the working directory's; ``None`` is the default."""
    if path := os.environ.get(VARIABLE):
        return Path(path)
    # In a working directory that may not be entered there is no file for us.
    return IN_WORKING_DIRECTORY if os.path.isfile(IN_WORKING_DIRECTORY) else None


def read_config(path: Path | None) -> Config:
    """Read a configuration file, or the built-in default if ``path`` is ``None``.

    Raises:
        ConfigError: the file cannot be read or used.
    """
    file = path or DEFAULT
    source = str(path) if path else "the built-in default"
    try:
        return parse(_document(file), file.resolve().parent, source)
    except OSError as error:
        raise ConfigError(f"{source}: cannot be read: {error.strerror}") from None
    except ConfigError as error:
        raise ConfigError(f"{source}: {error}") from None


def _document(file: Path) -> Mapping[str, Any]:
    """Return the decoded file.

    Raises:
        OSError: it cannot be read.
        ConfigError: it is no TOML.
    """
    try:
        text = file.read_text("utf-8-sig")
        return tomllib.loads(text)
    except UnicodeDecodeError:
        raise ConfigError("not TOML: it is not in UTF-8: save it as UTF-8") from None
    except tomllib.TOMLDecodeError as error:
        how = hint(text, str(error))
        raise ConfigError(f"not TOML: {error}{how and f': {how}'}") from None


def log_renamed(config: Config) -> None:
    """Log a warning for each setting that has an old name. Call it after logging is configured."""
    log = get_logger()
    for where, old, new in config.renamed:
        log.warning("setting renamed", where=where, old=old, new=new)


def parse(document: Mapping[str, Any], directory: Path, source: str) -> Config:
    """Turn a TOML document into a configuration. Relative paths are relative to ``directory``.

    Raises:
        ConfigError: a key is unknown or missing, or a value does not fit.
    """
    _refuse_unknown(document, {"server", "models"}, "the top level")
    renamed: list[RenamedSetting] = []
    server = _server(_table(document, "server"), directory, renamed)
    models = {
        name: _model(name, _table(_table(document, "models"), name, f"models.{name}"), directory, renamed)
        for name in _table(document, "models")
    }
    if not models:
        raise ConfigError("there is no model: add a table [models.NAME]")
    _refuse_duplicate_names(models)
    return Config(server=server, models=models, source=source, renamed=tuple(renamed))


def _table(parent: Mapping[str, Any], key: str, path: str = "") -> Mapping[str, Any]:
    value = parent.get(key, {})
    if not isinstance(value, Mapping):
        name = "models.NAME" if key == "models" else path or key
        raise ConfigError(f"{path or key} is not a table: write [{name}]")
    return value


def _server(table: Mapping[str, Any], directory: Path, renamed: list[RenamedSetting]) -> ServerConfig:
    known = set(ServerConfig.__struct_fields__)
    table = _with_new_names(table, known, "server", renamed)
    _refuse_unknown(table, known, "server")
    server = _convert(table, ServerConfig, "server")
    if server.max_buffered_bytes < server.max_body_bytes:
        raise ConfigError(
            f"server: max_buffered_bytes is {server.max_buffered_bytes}: "
            f"set it to max_body_bytes ({server.max_body_bytes}) or more"
        )
    if server.host.startswith("unix:"):
        path = _absolute(directory, server.host.removeprefix("unix:"))
        server = msgspec.structs.replace(server, host=f"unix:{path}")
    return server


def _model(
    name: str, table: Mapping[str, Any], directory: Path, renamed: list[RenamedSetting]
) -> ModelConfig:
    where = f"model {name!r}"
    if not isinstance(name, str):  # a program may pass a mapping with any keys
        raise ConfigError(f"{where}: a model's name is a string")
    if not name or len(name) > 256:
        raise ConfigError(f"{where}: a model's name has 1 to 256 characters")
    _refuse_split_name(name, table)
    if problem := explain(table, BackendKey):
        raise ConfigError(f"{where}: {problem}")
    spec_type = BACKENDS[table["backend"]]
    serving_keys = set(ServingConfig.__struct_fields__)
    known = serving_keys | set(spec_type.__struct_fields__) | {"backend"}
    table = _with_new_names(table, known, where, renamed)
    _refuse_unknown(table, known, where)
    spec = _convert({k: v for k, v in table.items() if k not in serving_keys}, spec_type, where)
    serving = _convert({k: v for k, v in table.items() if k in serving_keys}, ServingConfig, where)
    _refuse_bad_checksums(getattr(spec, "sha256", None), where)
    spec = _with_absolute_paths(spec, directory, where)
    return ModelConfig(spec=spec, serving=serving, missing_path=_missing_path(spec, directory))


def _refuse_split_name(name: str, table: Mapping[str, Any]) -> None:
    """Refuse the tables that a name with a dot and without quotes makes, such as ``[models.bge-small-en-v1.5]``."""
    for key, value in table.items():
        if not isinstance(value, Mapping) or key in SPEC_TABLES:
            continue
        if key in ("server", "models"):
            raise ConfigError(f"model {name!r}: {key} is no part of a model: write [{key}]")
        if "backend" not in table or "backend" in value:
            whole = ".".join([name, key, *_rest_of_name(value)])
            raise ConfigError(f'model {name!r}: a name with a dot stands in quotes: write [models."{whole}"]')


def _rest_of_name(table: Mapping[str, Any]) -> list[str]:
    tables = [key for key, value in table.items() if isinstance(value, Mapping)]
    return [] if "backend" in table or not tables else [tables[0], *_rest_of_name(table[tables[0]])]


def _with_new_names(
    table: Mapping[str, Any], known: set[str], where: str, renamed: list[RenamedSetting]
) -> Mapping[str, Any]:
    """Return the table with the new names of settings; append the renamed ones to ``renamed``."""
    result = dict(table)
    for old, new in RENAMED.items():
        if old not in table or new not in known:
            continue
        if new in table:
            raise ConfigError(f"{where}: {old} is the old name of {new}, and both are set: remove {old}")
        result[new] = result.pop(old)
        renamed.append(RenamedSetting(where, old, new))
    return result


def _refuse_unknown(table: Mapping[str, Any], known: set[str], where: str) -> None:
    for key in map(str, table.keys() - known):
        backends = [name for name, spec in BACKENDS.items() if key in spec.__struct_fields__]
        close = difflib.get_close_matches(key, known, 1)
        if close:
            fix = f"did you mean {close[0]!r}?"
        elif backends and "backend" in known:
            fix = f"only backend {' and '.join(backends)} takes it; remove it"
        else:
            fix = f"the known keys are {', '.join(sorted(known))}"
        raise ConfigError(f"{where}: unknown key {key!r}: {fix}")


def _convert(table: Mapping[str, Any], into: type[S], where: str) -> S:
    table = with_short_forms(table, into)
    try:
        return msgspec.convert(table, into)
    except msgspec.ValidationError:
        raise ConfigError(f"{where}: {explain(table, into)}") from None


def _with_absolute_paths(spec: Spec, directory: Path, where: str) -> Spec:
    if isinstance(spec, FakeSpec):
        return spec
    if isinstance(spec, HfSpec):
        paths = {"calibration": spec.calibration, "cache_dir": spec.cache_dir}
        paths = {key: _absolute(directory, path) for key, path in paths.items() if path is not None}
        spec = msgspec.structs.replace(spec, **paths)
        if spec.path.startswith("package:"):
            return spec
    path = _absolute(directory, spec.path)
    if isinstance(spec, HfSpec) and not os.path.isdir(path):
        if os.path.exists(path):
            raise ConfigError(f"{where}: path: {path} is a file: {_fix_for_file(path)}")
        if HUB_ID.match(spec.path) and not spec.path.startswith("."):
            return spec
        raise ConfigError(f"{where}: path: there is no directory {path}, and it is no hub id like org/name")
    return msgspec.structs.replace(spec, path=path)


def _fix_for_file(path: str) -> str:
    return 'set backend = "gguf"' if path.endswith(".gguf") else "set it to the model's directory"


def _missing_path(spec: Spec, directory: Path) -> str | None:
    """Return the directory that a hub id would be, if it were a path."""
    if isinstance(spec, HfSpec) and HUB_ID.match(spec.path):
        return _absolute(directory, spec.path)
    return None


def _absolute(directory: Path, path: str) -> str:
    return os.path.realpath(directory / os.path.expanduser(path))


def _refuse_bad_checksums(sha256: str | Mapping[str, str] | None, where: str) -> None:
    for value in [sha256] if isinstance(sha256, str) else (sha256 or {}).values():
        if not SHA256.match(value):
            raise ConfigError(f"{where}: sha256: {value!r} is not 64 lower-case hex digits")


def _refuse_duplicate_names(models: Mapping[str, ModelConfig]) -> None:
    owners: dict[str, str] = {}
    for model, config in models.items():
        for name in (model, *config.serving.aliases):
            if name.endswith(INPUT_TYPE_SUFFIXES):
                endings = " and ".join(INPUT_TYPE_SUFFIXES)
                raise ConfigError(
                    f"model {model!r}: {name!r} may not end like this: {endings} say a request's input_type"
                )
            if name in owners:
                raise ConfigError(
                    f"model {model!r}: {name!r} is already a name of model {owners[name]!r}: remove one"
                )
            owners[name] = model
