"""What a configuration file means, and what is said of one that is wrong."""

from __future__ import annotations

import pytest

from embeddings_gateway.backends.spec import FakeSpec, GgufSpec, HfSpec
from embeddings_gateway.config import ServerConfig, ServingConfig
from embeddings_gateway.config_file import ConfigError, read_config


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
    """Return a function that tells what is said of a configuration."""

    def refused(text):
        with pytest.raises(ConfigError) as error:
            read(text)
        source, _, said = str(error.value).partition(": ")
        assert source == str(tmp_path / "gateway.toml")
        return said

    return refused


def test_defaults(read):
    """A model of which nothing but the backend is said has every default."""
    config = read('[models.m]\nbackend = "fake"')
    assert config.server == ServerConfig()
    assert config.models["m"].spec == FakeSpec()
    assert config.models["m"].serving == ServingConfig()


def test_every_part(read):
    """Keys of the server, of the serving and of the backend land where they belong."""
    config = read(
        "[server]\nport = 1\nstrict = true\nbody_timeout_s = 2\n"
        '[models."org/m"]\nbackend = "fake"\nwidth = 16\n'
        'dimensions = [4, 8]\naliases = ["n", "o"]\nreplicas = 3\ntruncate = "left"\ntoken_ids = "native"\n'
    )
    assert config.server == ServerConfig(port=1, strict=True, body_timeout_s=2)
    model = config.models["org/m"]
    assert model.spec == FakeSpec(width=16, dimensions=(4, 8))
    assert model.serving == ServingConfig(aliases=("n", "o"), replicas=3, truncate="left", token_ids="native")


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
def test_paths_that_are_none(read, path):
    """A hub id and the name of a package stay as they are."""
    assert read(f'[models.a]\nbackend = "hf"\npath = "{path}"').models["a"].spec == HfSpec(path=path)


def test_directory_before_hub(read, tmp_path):
    """A directory that looks like a hub id is the directory."""
    (tmp_path / "org" / "name").mkdir(parents=True)
    spec = read('[models.a]\nbackend = "hf"\npath = "org/name"').models["a"].spec
    assert spec.path == str(tmp_path.resolve() / "org" / "name")


FAKE = '[models.m]\nbackend = "fake"\n'
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
    "unheard-of key": (FAKE + "zzzzzzzz = 2", ["model 'm'", "'zzzzzzzz'", "known are aliases, audit_every"]),
    "serving type": (FAKE + "replicas = 'two'", ["model 'm'", "replicas", "Expected `int`"]),
    "serving range": (FAKE + "max_queue_tokens = 0", ["model 'm'", "max_queue_tokens", ">= 1"]),
    "alias type": (FAKE + "aliases = ['a', 1]", ["model 'm'", "aliases[1]", "Expected `str`"]),
    "backend type": (FAKE + "width = 1.5", ["model 'm'", "width", "Expected `int`"]),
    "policy": (FAKE + "truncate = 'both'", ["model 'm'", "truncate", "both"]),
    "server type": ("[server]\nport = '80'\n" + FAKE, ["server", "port", "Expected `int`"]),
    "server range": ("[server]\nport = 65536\n" + FAKE, ["server", "port", "<= 65535"]),
    "seconds": ("[server]\nbody_timeout_s = 0\n" + FAKE, ["server", "body_timeout_s"]),
    "server no table": ("server = 1\n" + FAKE, ["server is not a table", "[server]"]),
    "models no table": ("models = 1", ["models is not a table"]),
    "model no table": ("[models]\nm = 1", ["m is not a table"]),
    "no models": ("[server]\nport = 1", ["there is no model", "[models.NAME]"]),
    "nothing": ("", ["there is no model"]),
    "no backend": ("[models.m]\nwidth = 2", ["model 'm'", "backend", "hf, gguf, fake"]),
    "unknown backend": ("[models.m]\nbackend = 'onnx'", ["model 'm'", "'onnx'", "hf, gguf, fake"]),
    "backend of a wrong type": ("[models.m]\nbackend = ['hf']", ["model 'm'", "backend", "hf, gguf, fake"]),
    "no path": ("[models.m]\nbackend = 'gguf'", ["model 'm'", "path"]),
    "path type": ("[models.m]\nbackend = 'hf'\npath = 3", ["model 'm'", "path", "Expected `str`"]),
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
    "name with a role": (FAKE + "aliases = ['x@query']", ["model 'm'", "'x@query'", "role"]),
    "own name": (FAKE + "aliases = ['m']", ["model 'm'"]),
    "empty name": ("[models.'']\nbackend = 'fake'", ["1 to 256 characters"]),
    "long name": (f"[models.{'m' * 257}]\nbackend = 'fake'", ["1 to 256 characters"]),
    "no TOML": ("[models.m\n", ["not TOML", "line 1"]),
    "key twice": ("[server]\nport = 1\nport = 2", ["not TOML"]),
    "no UTF-8": (b"# \xff", ["not TOML"]),
}


@pytest.mark.parametrize("what", WRONG)
def test_mistakes(refusal, what):
    """A mistake is told with the model, the key and the fix."""
    text, words = WRONG[what]
    said = refusal(text)
    assert [word for word in words if word not in said] == [], said


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
