"""What a configuration file means, and the errors about a wrong one."""

from __future__ import annotations

import pytest

from embeddings_gateway import log
from embeddings_gateway.backends.spec import FakeSpec, GgufSpec, HfSpec
from embeddings_gateway.config import ServerConfig, ServingConfig
from embeddings_gateway.config_file import ConfigError, log_renamed, read_config
from tests.processes import SECONDS_MAX

FAKE = '[models.m]\nbackend = "fake"\n'


@pytest.fixture
def read(tmp_path):
    """Return a function that writes a configuration and reads it."""

    def write_and_read(text):
        path = tmp_path / "gateway.toml"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return read_config(path)

    return write_and_read


@pytest.fixture
def refusal(read, tmp_path):
    """Return a function that returns the error about a configuration."""

    def error_of(text):
        with pytest.raises(ConfigError) as error:
            read(text)
        source, _, message = str(error.value).partition(": ")
        assert source == str(tmp_path / "gateway.toml")
        return message

    return error_of


def test_defaults(read):
    """A model with nothing but a backend has every default."""
    config = read('[models.m]\nbackend = "fake"')
    assert config.server == ServerConfig()
    assert config.models["m"].spec == FakeSpec()
    assert config.models["m"].serving == ServingConfig()


def test_every_part(read):
    """Keys of the server, of serving and of the backend end up in their structs."""
    config = read(
        "[server]\nport = 1\nstrict = true\nbody_timeout_s = 2\n"
        '[models."org/m"]\nbackend = "fake"\nwidth = 16\n'
        'dimensions = [4, 8]\naliases = ["n", "o"]\nreplicas = 3\ntruncate = "left"\ntoken_ids = "native"\n'
    )
    assert config.server == ServerConfig(port=1, strict=True, body_timeout_s=2)
    model = config.models["org/m"]
    assert model.spec == FakeSpec(width=16, dimensions=(4, 8))
    assert model.serving == ServingConfig(aliases=("n", "o"), replicas=3, truncate="left", token_ids="native")


@pytest.mark.parametrize(
    ("struct", "table"),
    [(ServerConfig, "[server]\n{} = 0.5\n" + FAKE), (ServingConfig, FAKE + "{} = 0.5\n")],
)
def test_seconds_take_fractions(read, struct, table):
    """Every setting in seconds may be a fraction of one."""
    names = [name for name in struct.__struct_fields__ if name.endswith("_s")]
    assert names
    for name in names:
        config = read(table.format(name))
        assert getattr(config.server if struct is ServerConfig else config.models["m"].serving, name) == 0.5


ORIGINS = (
    "*",
    "null",
    "http://localhost:3000",
    "app://obsidian.md",
    "https://[::1]:8443",
    "moz-extension://0a-1b",
)
NO_ORIGINS = (
    "http://localhost:3000/",
    "localhost",
    "https://*.example.org",
    "https://a.org:443",
    "http://A.org",
    "",
)


def test_origins(read, refusal):
    """An origin is written as browsers write it, or would never be met."""
    config = read(f"[server]\ncors_origins = {list(ORIGINS)}\n{FAKE}")
    assert config.server.cors_origins == ORIGINS
    for origin in NO_ORIGINS:
        message = refusal(f"[server]\ncors_origins = ['{origin}']\n{FAKE}")
        assert message.startswith("server: cors_origins[0] is ")
        assert "without a path" in message


def test_sockets_and_prefixes(read, refusal, tmp_path):
    """A socket is relative to the file as any path; its permissions and a prefix have to be well-formed."""
    server = read(f'[server]\nhost = "unix:run/a.sock"\nroot_path = "/a/b-1"\n{FAKE}').server
    assert (server.host, server.root_path) == (f"unix:{tmp_path.resolve()}/run/a.sock", "/a/b-1")
    assert read(f'[server]\nhost = "unix:/run/a.sock"\n{FAKE}').server.host == "unix:/run/a.sock"
    assert "octal" in refusal(f'[server]\nsocket_mode = "rw"\n{FAKE}')
    for prefix in ("/", "a", "/a/", "/a b"):
        assert "without a slash at the end" in refusal(f'[server]\nroot_path = "{prefix}"\n{FAKE}')


def test_relative_paths(read, tmp_path):
    """A path is relative to the file that names it, and is absolute afterwards."""
    (tmp_path / "bge").mkdir()
    (tmp_path / "m.gguf").touch()
    config = read(
        '[models.a]\nbackend = "hf"\npath = "./bge"\n[models.b]\nbackend = "gguf"\npath = "m.gguf"\n'
    )
    assert config.models["a"].spec == HfSpec(path=str(tmp_path.resolve() / "bge"))
    assert config.models["b"].spec == GgufSpec(path=str(tmp_path.resolve() / "m.gguf"))


@pytest.mark.parametrize("path", ["BAAI/bge-m3", "package:some_package/model"])
def test_paths_that_are_not_files(read, path):
    """A hub id and the name of a package stay as they are."""
    assert read(f'[models.a]\nbackend = "hf"\npath = "{path}"').models["a"].spec == HfSpec(path=path)


def test_a_hub_id_that_may_be_a_path(read, tmp_path):
    """What might be a mistyped path keeps the directory that is not there, for the reason why it cannot be loaded."""
    models = read(
        '[models.a]\nbackend = "hf"\npath = "models/not-mounted"\n'
        '[models.b]\nbackend = "hf"\npath = "package:some_package/model"'
    ).models
    assert models["a"].missing_path == str(tmp_path.resolve() / "models" / "not-mounted")
    assert models["b"].missing_path is None


def test_directory_before_hub(read, tmp_path):
    """A directory that looks like a hub id is the directory."""
    (tmp_path / "org" / "name").mkdir(parents=True)
    spec = read('[models.a]\nbackend = "hf"\npath = "org/name"').models["a"].spec
    assert spec.path == str(tmp_path.resolve() / "org" / "name")


def test_a_file_in_place_of_a_directory(refusal, tmp_path):
    """A GGUF file for the other backend is named as what it is, though its path looks like a hub id."""
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "m.gguf").touch()
    message = refusal('[models.m]\nbackend = "hf"\npath = "models/m.gguf"')
    assert f"{tmp_path.resolve()}/models/m.gguf is a file" in message
    assert 'backend = "gguf"' in message


WRONG = {
    "mistyped top level": ("[modles.m]", ["the top level", "'modles'", "did you mean 'models'?"]),
    "mistyped server key": ("[server]\nprot = 1\n" + FAKE, ["server", "'prot'", "did you mean 'port'?"]),
    "mistyped serving key": (FAKE + "replica = 2", ["model 'm'", "'replica'", "did you mean 'replicas'?"]),
    "mistyped backend key": (FAKE + "widht = 2", ["model 'm'", "'widht'", "did you mean 'width'?"]),
    "another backend's key": (
        FAKE + "n_gpu_layers = 2",
        ["model 'm'", "'n_gpu_layers'", "gguf", "remove it"],
    ),
    "key of two backends": (FAKE + "sha256 = 'a'", ["model 'm'", "'sha256'", "hf and gguf"]),
    "unheard-of key": (
        FAKE + "zzzzzzzz = 2",
        ["model 'm'", "'zzzzzzzz'", "known keys are aliases, audit_every"],
    ),
    "old and new name": (
        FAKE + "queue_tokens = 2\nmax_queue_tokens = 2",
        ["model 'm'", "remove queue_tokens"],
    ),
    "old name elsewhere": (FAKE + "inputs_max = 2", ["model 'm'", "unknown key 'inputs_max'"]),
    "server no table": ("server = 1\n" + FAKE, ["server is not a table", "[server]"]),
    "models no table": ("models = 1", ["models is not a table"]),
    "model no table": ("[models]\nm = 1", ["m is not a table"]),
    "no models": ("[server]\nport = 1", ["there is no model", "[models.NAME]"]),
    "nothing": ("", ["there is no model"]),
    "missing directory": ("[models.m]\nbackend = 'hf'\npath = './x/y'", ["model 'm'", "no directory", "x/y"]),
    "no hub id": ("[models.m]\nbackend = 'hf'\npath = 'a/b/c'", ["model 'm'", "no directory", "hub id"]),
    "unknown home": ("[models.m]\nbackend = 'hf'\npath = '~nobody-here/m'", ["model 'm'", "path"]),
    "sum": ("[models.m]\nbackend = 'hf'\npath = 'a/b'\nsha256 = 'abc'", ["model 'm'", "sha256", "64"]),
    "upper-case sum": (
        f"[models.m]\nbackend = 'hf'\npath = 'a/b'\nsha256 = '{'A' * 64}'",
        ["model 'm'", "sha256", "lower-case"],
    ),
    "one of several sums": (
        f"[models.m]\nbackend = 'hf'\npath = 'a/b'\n[models.m.sha256]\na = '{'a' * 64}'\nb = 'b'",
        ["model 'm'", "sha256", "'b'"],
    ),
    "alias of another": (FAKE + "[models.n]\nbackend = 'fake'\naliases = ['m']", ["model 'n'", "model 'm'"]),
    "same aliases": (
        FAKE + "aliases = ['x']\n[models.n]\nbackend = 'fake'\naliases = ['x']",
        ["model 'n'", "'x'", "model 'm'"],
    ),
    "alias twice": (FAKE + "aliases = ['x', 'x']", ["model 'm'", "'x'"]),
    "name with an input type": (FAKE + "aliases = ['x@query']", ["model 'm'", "'x@query'", "input_type"]),
    "own name": (FAKE + "aliases = ['m']", ["model 'm'"]),
    "empty name": ("[models.'']\nbackend = 'fake'", ["1 to 256 characters"]),
    "long name": (f"[models.{'m' * 257}]\nbackend = 'fake'", ["1 to 256 characters"]),
    "no TOML": ("[models.m\n", ["not TOML", "line 1"]),
    "key twice": ("[server]\nport = 1\nport = 2", ["not TOML", "remove one"]),
    "table twice": ("[models.m]\n[models.m]", ["not TOML", "[models.m]", "rename one"]),
    "no UTF-8": (b"# \xff", ["not TOML", "save it as UTF-8"]),
    "UTF-16": ("[server]".encode("utf-16"), ["not TOML", "save it as UTF-8"]),
    "text without quotes": ("[models.m]\nbackend = fake", ["line 2", 'backend = "..."']),
    "path without quotes": ("[models.m]\npath = ./m", ["line 2", 'path = "..."']),
    "capital": ("[server]\nstrict = True", ["line 2", "strict = true"]),
    "colon": ("[server]\nport: 80", ["line 2", "port = ..."]),
    "open quotes": ('[models.m]\nbackend = "fake\n', ["line 2", "close the quotes"]),
    "list of tables": ("[[models]]\nbackend = 'fake'", ["models is not a table", "[models.NAME]"]),
    "name with a blank": ("[models.my model]", ["line 1", '[models."my model"]']),
    "backslashes": ('[models.m]\npath = "C:\\models"', ["not TOML", "'single quotes'"]),
    "name with a slash": ("[models.BAAI/bge-m3]", ["line 1", '[models."BAAI/bge-m3"]']),
    "name with a slash and a dot": ("[models.org/m-v1.5]", ["line 1", '[models."org/m-v1.5"]']),
    "name with a dot": ("[models.m-v1.5]\nbackend = 'fake'", ["model 'm-v1'", '[models."m-v1.5"]']),
    "name with dots": ("[models.m.1.5]\nbackend = 'fake'", ["model 'm'", '[models."m.1.5"]']),
    "part of a name": (FAKE + "[models.m.5]\nbackend = 'fake'", ["model 'm'", '[models."m.5"]']),
    "name with a dot and no backend": ("[models.m-v1.5]\nwidth = 3", ["model 'm-v1'", '[models."m-v1.5"]']),
    "server in a model": (FAKE + "[models.m.server]\nport = 1", ["model 'm'", "write [server]"]),
    "list of models": ("models = ['a']", ["models is not a table", "[models.NAME]"]),
    "file and not a directory": (
        "[models.m]\nbackend = 'hf'\npath = 'gateway.toml'",
        ["is a file", "directory"],
    ),
}


@pytest.mark.parametrize("what", WRONG)
def test_mistakes(refusal, what):
    """An error about a mistake names the model, the key and the fix."""
    text, words = WRONG[what]
    message = refusal(text)
    assert [word for word in words if word not in message] == [], message


HF = '[models.m]\nbackend = "hf"\npath = "org/name"\n'
VALUES = {
    "[server]\nport = 70000": "server: port is 70000: set it to an integer from 0 to 65535",
    "[server]\nport = '80'": "server: port is a string: set it to an integer from 0 to 65535",
    "[server]\nport = true": "server: port is a boolean: set it to an integer from 0 to 65535",
    "[server]\nstrict = 1": "server: strict is an integer: set it to true or false",
    "[server]\nlog_level = 'loud'": (
        "server: log_level is 'loud': set it to one of debug, info, warning, error"
    ),
    "[server]\nbody_timeout_s = 0": "server: body_timeout_s is 0: set it to a number above 0",
    "[server]\nbody_timeout_s = nan": "server: body_timeout_s is nan: set it to a number above 0",
    "[server]\nhost = 2026-01-01": "server: host is a date or time: set it to an address or name without a port "
    "(127.0.0.1, ::1, localhost; 0.0.0.0 is every network) or unix:PATH",
    FAKE + "width = 1.5": "model 'm': width is 1.5: set it to an integer of at least 1",
    FAKE + "max_queue_tokens = 0": "model 'm': max_queue_tokens is 0: set it to an integer of at least 1",
    FAKE + "min_bulk_share = 0.6": (
        "model 'm': min_bulk_share is 0.6: set it to a number above 0 and at most 0.5"
    ),
    FAKE + "truncate = 'both'": "model 'm': truncate is 'both': set it to one of error, right, left, mean",
    FAKE + "truncate = ['left']": "model 'm': truncate is a list: set it to one of error, right, left, mean",
    FAKE + "aliases = 'a'": (
        "model 'm': aliases is a string: set it to a list, each item a string of 1 or more characters"
    ),
    FAKE + "aliases = ['a', '']": (
        "model 'm': aliases[1] is an empty string: set it to a string of 1 or more characters"
    ),
    FAKE + "dimensions = [4, 0]": "model 'm': dimensions[1] is 0: set it to an integer of at least 1",
    FAKE + "prompts = { query = 3 }": "model 'm': prompts.query is an integer: set it to a string",
    HF
    + "sha256 = 3": "model 'm': sha256 is an integer: set it to a string or a table from strings to strings",
    HF + "device = 'gpu'": "model 'm': device is 'gpu': set it to auto, cpu, cuda or cuda:N",
    HF + "dtype = 'float33'": (
        "model 'm': dtype is 'float33': "
        "set it to one of auto, fp32 (float32), fp16 (float16), bf16 (bfloat16), int8"
    ),
    HF + "normalize = 'yes'": "model 'm': normalize is a string: set it to true or false",
    "[models.m]\nbackend = 'hf'\npath = 3": (
        "model 'm': path is an integer: "
        "set it to a model's directory, package:MODULE/DIRECTORY or a hub id such as org/name"
    ),
    "[models.m]\nbackend = 'gguf'": "model 'm': path is missing: set it to a GGUF file",
    "[models.m]\nbackend = 'onnx'": ("model 'm': backend is 'onnx': set it to one of hf, gguf, fake, fault"),
    "[models.m]\nbackend = ['hf']": ("model 'm': backend is a list: set it to one of hf, gguf, fake, fault"),
    "[models.m]\nwidth = 2": "model 'm': backend is missing: set it to one of hf, gguf, fake, fault",
}


@pytest.mark.parametrize("text", VALUES)
def test_values(refusal, text):
    """An error about a value names the key, what it is and all that it may be."""
    assert refusal(text if "[models" in text else f"{text}\n{FAKE}") == VALUES[text]


def test_a_string_that_may_be_secret_is_not_repeated(refusal):
    """A string is repeated only where a key takes one of a few words."""
    assert "hunter2" not in refusal("[server]\nport = 'hunter2'\n" + FAKE)
    assert "hunter2" not in refusal(FAKE + "prompts = 'hunter2'")


@pytest.mark.parametrize(
    ("spelling", "dtype"), [("float32", "fp32"), ("bfloat16", "bf16"), ("float16", "fp16"), ("int8", "int8")]
)
def test_spellings_of_dtypes(read, spelling, dtype):
    """A dtype may have its long name, and becomes the short one."""
    assert read(f"{HF}dtype = '{spelling}'").models["m"].spec.dtype == dtype


OLD = {
    "server": {
        "inputs_max": "max_inputs",
        "input_ids_max": "max_input_ids",
        "request_tokens_max": "max_request_tokens",
        "input_chars_max": "max_input_chars",
        "body_bytes_max": "max_body_bytes",
        "connections_max": "max_connections",
    },
    "model 'm'": {"queue_tokens": "max_queue_tokens", "batch_tokens": "max_batch_tokens"},
}


def test_old_names(read):
    """Old names of settings still work, and the configuration says which it has."""
    server, model = ("".join(f"{old} = 7\n" for old in names) for names in OLD.values())
    config = read(f"[server]\n{server}requests_bytes_max = 8\n{FAKE}{model}")
    values = config.server, config.models["m"].serving, config.models["m"].spec
    renamed = {old: new for names in OLD.values() for old, new in names.items()}
    for new in renamed.values():
        assert [getattr(value, new) for value in values if hasattr(value, new)] == [7]
    assert config.server.max_buffered_bytes == 8
    assert sorted(config.renamed) == sorted(
        [(where, old, new) for where, names in OLD.items() for old, new in names.items()]
        + [("server", "requests_bytes_max", "max_buffered_bytes")]
    )


def test_old_names_are_logged(read, caplog):
    """Each setting with an old name is logged once, as a warning; new names are not logged."""
    log_renamed(read(f"[server]\nconnections_max = 7\nmax_inputs = 5\n{FAKE}queue_tokens = 9\n"))
    assert log.flush(SECONDS_MAX)
    logged = [(record.levelname, record.getMessage()) for record in caplog.records]
    assert [(level, message) for level, message in logged if "setting renamed" in message] == [
        (
            "WARNING",
            "event='setting renamed' where='server' old='connections_max' new='max_connections'",
        ),
        (
            "WARNING",
            "event='setting renamed' where=\"model 'm'\" old='queue_tokens' new='max_queue_tokens'",
        ),
    ]


def test_no_file(tmp_path):
    """A file that cannot be read is named, with the reason."""
    with pytest.raises(ConfigError, match=r"none\.toml: cannot be read: No such file"):
        read_config(tmp_path / "none.toml")
    with pytest.raises(ConfigError, match="cannot be read: Is a directory"):
        read_config(tmp_path)


def test_built_in():
    """Without a file the built-in default is read, which serves one real model and never the fake one."""
    config = read_config(None)
    assert [type(model.spec) for model in config.models.values()] == [HfSpec]
    assert config.source == "the built-in default"


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "::1", "[::1]", "::", "localhost", "gateway-1.example.org", "fe80::1%eth0"]
)
def test_hosts(read, host):
    """A host is an address or a name."""
    assert read(f'[server]\nhost = "{host}"\n{FAKE}').server.host == host


@pytest.mark.parametrize(
    "host", ["", " ", "http://127.0.0.1", "127.0.0.1:8000", "[::1]:8000", "localhost/", "[::1"]
)
def test_what_is_no_host(refusal, host):
    """Anything else is refused: an empty host would be every network, and most others an obscure error."""
    assert "an address or name without a port" in refusal(f'[server]\nhost = "{host}"\n{FAKE}')
