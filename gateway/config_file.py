"""Reads the configuration from TOML; says of a mistake which key of which model it is, and the fix."""

from __future__ import annotations

import difflib
import os
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar, get_args

import msgspec

from embeddings_gateway.backends.spec import FakeSpec, HfSpec, Spec
from embeddings_gateway.config import Config, InputType, ModelConfig, ServerConfig, ServingConfig

DEFAULT = Path(__file__).with_name("default.toml")
VARIABLE = "EMBEDDINGS_GATEWAY_CONFIG"
IN_WORKING_DIRECTORY = Path("gateway.toml")
BACKENDS: dict[str, type[Spec]] = {str(spec.__struct_config__.tag): spec for spec in get_args(Spec)}
HUB_ID = re.compile(r"^[\w.-]+/[\w.-]+$")
ROLES = tuple(f"@{role}" for role in get_args(InputType))
SHA256 = re.compile(r"^[0-9a-f]{64}$")

S = TypeVar("S", bound=msgspec.Struct)


class ConfigError(Exception):
    """The configuration cannot be used. The message names the file, the key and the fix."""


def find_config() -> Path | None:
    """Return the configuration file of this process' environment or directory; ``None`` is the default."""
    if named := os.environ.get(VARIABLE):
        return Path(named)
    return IN_WORKING_DIRECTORY if IN_WORKING_DIRECTORY.is_file() else None


def read_config(path: Path | None) -> Config:
    """Read a configuration file, or the built-in default where ``path`` is ``None``.

    Raises:
        ConfigError: it cannot be read or used.
    """
    file = path or DEFAULT
    source = str(path) if path else "the built-in default"
    try:
        return parse(tomllib.loads(file.read_text("utf-8-sig")), file.resolve().parent, source)
    except OSError as error:
        raise ConfigError(f"{source}: cannot be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{source}: not TOML: {error}") from None
    except ConfigError as error:
        raise ConfigError(f"{source}: {error}") from None


def parse(document: Mapping[str, Any], directory: Path, source: str) -> Config:
    """Turn a TOML document into a configuration; relative paths are relative to ``directory``.

    Raises:
        ConfigError: a key is unknown or missing, or a value does not fit.
    """
    _refuse_unknown(document, {"server", "models"}, "the top level")
    _refuse_unknown(_table(document, "server"), set(ServerConfig.__struct_fields__), "server")
    server = _convert(_table(document, "server"), ServerConfig, "server")
    if server.max_buffered_bytes < server.max_body_bytes:
        raise ConfigError("server: max_buffered_bytes: less than max_body_bytes: set it to that or more")
    models = {
        name: _model(name, _table(_table(document, "models"), name, f"models.{name}"), directory)
        for name in _table(document, "models")
    }
    if not models:
        raise ConfigError("there is no model: add a table [models.NAME]")
    _refuse_same_names(models)
    return Config(server=server, models=models, source=source)


def _table(parent: Mapping[str, Any], key: str, path: str = "") -> Mapping[str, Any]:
    value = parent.get(key, {})
    if not isinstance(value, Mapping):
        raise ConfigError(f"{path or key} is not a table: write [{path or key}]")
    return value


def _model(name: str, table: Mapping[str, Any], directory: Path) -> ModelConfig:
    where = f"model {name!r}"
    if not isinstance(name, str):  # as in a dict of a program's
        raise ConfigError(f"{where}: a model's name is a string")
    if not name or len(name) > 256:
        raise ConfigError(f"{where}: a model's name has 1 to 256 characters")
    backend = table.get("backend")
    spec_type = BACKENDS.get(backend) if isinstance(backend, str) else None
    if spec_type is None:
        raise ConfigError(f"{where}: backend is {backend!r}: set it to one of {', '.join(BACKENDS)}")
    serving_keys = set(ServingConfig.__struct_fields__)
    spec_keys = set(spec_type.__struct_fields__)
    _refuse_unknown(table, serving_keys | spec_keys | {"backend"}, where)
    spec = _convert({k: v for k, v in table.items() if k not in serving_keys}, spec_type, where)
    serving = _convert({k: v for k, v in table.items() if k in serving_keys}, ServingConfig, where)
    _refuse_wrong_sums(getattr(spec, "sha256", None), where)
    return ModelConfig(spec=_located(spec, directory, where), serving=serving)


def _refuse_unknown(table: Mapping[str, Any], known: set[str], where: str) -> None:
    for key in map(str, table.keys() - known):
        others = [name for name, spec in BACKENDS.items() if key in spec.__struct_fields__]
        close = difflib.get_close_matches(key, known, 1)
        if close:
            fix = f"did you mean {close[0]!r}?"
        elif others and "backend" in known:
            fix = f"only backend {' and '.join(others)} takes it; remove it"
        else:
            fix = f"known are {', '.join(sorted(known))}"
        raise ConfigError(f"{where}: unknown key {key!r}: {fix}")


def _convert(table: Mapping[str, Any], into: type[S], where: str) -> S:
    try:
        return msgspec.convert(table, into)
    except msgspec.ValidationError as error:
        said, _, path = str(error).partition(" - at `$")
        key = path.strip("`.")
        missing = said.removeprefix("Object missing required field ").strip("`")
        raise ConfigError(
            f"{where}: {key}: {said}" if key else f"{where}: {missing} is missing: set it"
        ) from None


def _located(spec: Spec, directory: Path, where: str) -> Spec:
    """Return the spec with paths that no longer depend on where the configuration lies."""
    if isinstance(spec, FakeSpec):
        return spec
    if isinstance(spec, HfSpec):
        named = {"calibration": spec.calibration, "cache_dir": spec.cache_dir}
        files = {key: _absolute(directory, path) for key, path in named.items() if path is not None}
        spec = msgspec.structs.replace(spec, **files)
        if spec.path.startswith("package:"):
            return spec
    path = _absolute(directory, spec.path)
    if isinstance(spec, HfSpec) and not os.path.isdir(path):
        if HUB_ID.match(spec.path) and not spec.path.startswith("."):
            return spec
        raise ConfigError(f"{where}: path: there is no directory {path}, and it is no hub id like org/name")
    return msgspec.structs.replace(spec, path=path)


def _absolute(directory: Path, path: str) -> str:
    return os.path.realpath(directory / os.path.expanduser(path))


def _refuse_wrong_sums(sums: str | Mapping[str, str] | None, where: str) -> None:
    for value in [sums] if isinstance(sums, str) else (sums or {}).values():
        if not SHA256.match(value):
            raise ConfigError(f"{where}: sha256: {value!r} is not 64 lower-case hex digits")


def _refuse_same_names(models: Mapping[str, ModelConfig]) -> None:
    owners: dict[str, str] = {}
    for model, config in models.items():
        for name in (model, *config.serving.aliases):
            if name.endswith(ROLES):
                raise ConfigError(f"model {model!r}: {name!r} ends as only names with a role do: change it")
            if name in owners:
                raise ConfigError(f"model {model!r}: {name!r} is already a name of model {owners[name]!r}")
            owners[name] = model
