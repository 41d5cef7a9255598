"""The house rules that a machine can check: who imports whom, how large things are, what is documented."""

from __future__ import annotations

import ast
import itertools
import json
import re
import tomllib
from pathlib import Path

import pytest

from embeddings_gateway.api.errors import TABLE
from embeddings_gateway.app import openapi_document
from embeddings_gateway.backends.spec import FakeSpec, GgufSpec, HfSpec
from embeddings_gateway.config import ServerConfig, ServingConfig
from embeddings_gateway.config_file import parse
from embeddings_gateway.metrics import Metrics

ROOT = Path(__file__).parent.parent
ARCHITECTURE = (ROOT / "ARCHITECTURE.md").read_text()
SOURCES = sorted([*ROOT.glob("gateway/**/*.py"), *ROOT.glob("backends/**/*.py")])
MEASURING = sorted(ROOT.glob("bench/**/*.py"))
FILE_LINES_MAX = 400
FUNCTION_LINES_MAX = 60
AT_HOME = {
    "litestar": ("gateway/app.py", "gateway/api/"),
    "torch": ("backends/hf/",),
    "transformers": ("backends/hf/",),
    "tokenizers": ("backends/hf/",),
    "huggingface_hub": ("backends/hf/",),
    "openvino": ("backends/hf/",),
    "nncf": ("backends/hf/",),
    "platformdirs": ("backends/hf/",),
    "filelock": ("backends/hf/",),
    "llama_cpp": ("backends/gguf/",),
    "prometheus_client": ("gateway/metrics.py",),
    "structlog": ("gateway/log.py",),
    "typer": ("gateway/cli/",),
    "rich": ("gateway/cli/",),
    "httptools": ("gateway/server/",),
    "pybase64": ("gateway/api/",),
}
ROOMS = {
    "embeddings_gateway.workers": {"workers", "metrics", "config", "log"},
    "embeddings_gateway.batching": {"batching", "workers", "metrics", "errors", "config", "log"},
    "embeddings_gateway.serving": {"serving", "batching", "workers", "metrics", "errors", "config", "log"},
    "embeddings_gateway.library": {
        "library",
        "serving",
        "metrics",
        "errors",
        "config",
        "config_file",
        "allowed_values",
    },
    "embeddings_gateway.server": {"server", "errors", "config", "log"},
    "embeddings_gateway.api": {
        "api",
        "server",
        "serving",
        "metrics",
        "errors",
        "config",
        "allowed_values",
        "log",
    },
}
PURE = (
    "gateway/api/json_pieces.py",
    "gateway/batching/checks.py",
    "gateway/batching/chunks.py",
    "gateway/batching/planner.py",
    "gateway/batching/speed.py",
    "gateway/workers/local/breaker.py",
    "gateway/workers/local/search_share.py",
    "gateway/workers/local/environment.py",
    "gateway/workers/local/stderr_filter.py",
    "gateway/workers/local/hang_detector.py",
    "gateway/library/embeddings.py",
    "gateway/serving/served.py",
    "gateway/serving/prepare/policies.py",
    "gateway/serving/prepare/tally.py",
    "backends/invariance.py",
    "backends/redact.py",
    "backends/gguf/packing.py",
)
IMPURE = {"asyncio", "time", "logging", "random", "os"}
NOTHING_OF_OURS = (
    "backends/base.py",
    "gateway/errors.py",
    "gateway/batching/planner.py",
)
LAZY = (
    "backends/load.py",
    "backends/hf/runtimes/load_runtime.py",
    "backends/hf/tokenizer.py",
    "backends/hf/conversion/convert.py",
    "backends/hf/conversion/converting_process.py",
    "gateway/serving/prepare/cl100k.py",
    "bench/engines.py",
    "bench/ceiling.py",
)

by_path = pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
by_any_path = pytest.mark.parametrize(
    "path", [*SOURCES, *MEASURING], ids=lambda path: str(path.relative_to(ROOT))
)


def name_of(path: Path) -> str:
    """Return the file's path from the root, as imports are written against it."""
    return str(path.relative_to(ROOT))


def module_of(path: Path) -> str:
    """Return the name that a file is imported by."""
    top, *parts = path.relative_to(ROOT).with_suffix("").parts
    package = {"gateway": ["embeddings_gateway"], "backends": ["embeddings_gateway", "backends"]}.get(
        top, [top]
    )
    return ".".join([*package, *parts])


def imports(tree: ast.AST) -> list[str]:
    """Return the modules that a file imports."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            found.append(node.module or "")
            found += [f"{node.module}.{alias.name}" for alias in node.names]
    return found


def functions(tree: ast.AST) -> list[ast.FunctionDef | ast.AsyncFunctionDef]:
    """Return all functions of a file."""
    return [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]


@by_path
def test_imports_run_one_way(path):
    """Backends know no gateway, rooms only those below them, pure files no world, libraries have a home."""
    modules = imports(ast.parse(path.read_text()))
    tops = {module.partition(".")[0] for module in modules}
    name = name_of(path)
    ours = {module.split(".")[1] for module in modules if module.startswith("embeddings_gateway.")}
    if name.startswith("backends/"):
        assert ours <= {"backends"}
    if name in NOTHING_OF_OURS:
        assert not ours
    assert not tops & {"gateway", "backends"}  # names that a user's own folders may have
    assert "bench" not in tops
    assert (name in PURE) == ast.get_docstring(ast.parse(path.read_text())).startswith("PURE: ")
    if name in PURE:
        assert not tops & IMPURE
    room = ".".join(module_of(path).split(".")[:2])
    if room in ROOMS:
        assert ours <= {"backends", *ROOMS[room]}
    for library in tops & AT_HOME.keys():
        assert name.startswith(AT_HOME[library]), f"{library} is imported in {name}"


@by_any_path
def test_files_and_functions_are_small(path):
    """A file fits into a head, a function on a page, imports stand at the top, and none is of the tests."""
    text = path.read_text()
    tree = ast.parse(text)
    assert not any(module.startswith("tests") for module in imports(tree))
    assert text.count("\n") <= FILE_LINES_MAX
    for function in functions(tree):
        assert function.end_lineno - function.lineno < FUNCTION_LINES_MAX, function.name
        if name_of(path) not in LAZY:
            assert not imports(function), f"{function.name} imports"


@by_any_path
def test_every_file_says_what_it_does(path):
    """A module opens with a docstring, and the architecture's table has a row for its room."""
    assert ast.get_docstring(ast.parse(path.read_text()))
    room = str(path.parent.relative_to(ROOT))
    rows = [row.split("|")[1] for row in ARCHITECTURE.splitlines() if row.startswith("| `")]
    assert any(f"`{room}`" in row or f"`{room}/`" in row for row in rows)


@pytest.mark.parametrize(
    "path", sorted([*ROOT.glob("*.md"), *ROOT.glob("*.toml")]), ids=lambda path: path.name
)
def test_no_conflict_is_left(path):
    """No document has the marks of a merge that was not finished."""
    assert not re.search(r"^(<<<<<<<|=======|>>>>>>>)", path.read_text(), re.MULTILINE)


def test_the_architecture_can_be_read_at_once():
    """It is short, and names no file that is not there."""
    assert ARCHITECTURE.count("\n") <= 200
    names = re.findall(r"`((?:api|server|serving|batching|workers|backends)/[a-z_/]+)`", ARCHITECTURE)
    assert names
    for name in names:
        place = ROOT / name if name.startswith("backends/") else ROOT / "gateway" / name
        assert place.is_dir() or place.with_suffix(".py").is_file(), name


@pytest.mark.parametrize("path", sorted(ROOT.glob("examples/*.py")), ids=lambda path: path.name)
def test_every_example_is_shown_and_run(path):
    """An example says how it is run, uses nothing that is not public, is in the table, and has a test."""
    tree = ast.parse(path.read_text())
    assert f"examples/{path.name}" in ast.get_docstring(tree)
    assert not any(
        module.startswith(("embeddings_gateway.library", "embeddings_gateway.backends", "tests"))
        for module in imports(tree)
    )
    assert f"[{path.name}]({path.name})" in (ROOT / "examples/README.md").read_text()
    assert any(path.name in test.read_text() for test in ROOT.glob("tests/**/test_examples.py"))


def test_there_is_no_cycle():
    """No file imports one that needs it."""
    paths = [*SOURCES, *MEASURING]
    modules = {module_of(path): path for path in paths}
    needs = {
        module: {name for name in imports(ast.parse(path.read_text())) if name in modules and name != module}
        for module, path in modules.items()
    }
    while free := [module for module, needed in needs.items() if not needed & needs.keys()]:
        for module in free:
            del needs[module]
    assert not needs


@pytest.mark.parametrize("path", sorted(ROOT.glob("tests/**/test_*.py")), ids=lambda path: path.name)
def test_every_test_says_what_it_shows(path):
    """Each test has a docstring."""
    for function in functions(ast.parse(path.read_text())):
        if function.name.startswith("test_"):
            assert ast.get_docstring(function), function.name


def test_the_committed_description_is_the_apps():
    """``openapi/openapi.json`` is what the command ``openapi`` writes."""
    assert json.loads((ROOT / "openapi/openapi.json").read_text()) == json.loads(
        json.dumps(openapi_document())
    )


def table(*header: str) -> list[list[str]]:
    """Return the rows of the README's tables with this header, each as its cells."""
    _, *parts = (ROOT / "README.md").read_text().split(f"| {' | '.join(header)} |\n")
    lines = itertools.chain(
        *(itertools.takewhile(lambda line: line.startswith("|"), part.splitlines()) for part in parts)
    )
    return [[cell.strip(" |") for cell in line.split(" | ")] for line in lines if not line.startswith("|--")]


def names(rows: list[list[str]]) -> set[str]:
    """Return the code words in the first cells of rows."""
    return {name for row in rows for name in re.findall(r"`(\w+)`", row[0])}


def test_the_example_configuration_shows_every_key():
    """The example loads, and each key that can be set is in it and has a row in the README."""
    example = (ROOT / "gateway.example.toml").read_text()
    assert parse(tomllib.loads(example), ROOT, "the example").models
    models = (ServingConfig, HfSpec, GgufSpec, FakeSpec)
    of_server, of_models = names(table("key", "default", "meaning")), names(table("key", "for", "meaning"))
    assert set(ServerConfig.__struct_fields__) <= of_server
    assert set(itertools.chain(*(struct.__struct_fields__ for struct in models))) <= of_models
    for key in sorted(
        set(itertools.chain(*(struct.__struct_fields__ for struct in (ServerConfig, *models))))
    ):
        assert re.search(rf"^(# )?{key} = ", example, re.MULTILINE), key


def test_the_readme_shows_every_metric():
    """Each metric has a row in the README's table, and the table has no other."""
    shown = {name.removesuffix("_total") for name in names(table("metric", "labels", "meaning"))}
    assert shown == {
        family.name.removeprefix("embeddings_gateway_") for family in Metrics().registry.collect()
    }


def test_the_readme_shows_every_error():
    """Each row of the table from errors to HTTP is in the README's."""
    shown = {
        (status, kind, code)
        for _, statuses, kind, code in table("situation", "status", "type", "code")
        for status in statuses.split(", ")
    }
    for error, status in TABLE.items():
        code = f"`{status.code}`" if status.code else "null"
        assert (str(status.http), f"`{status.type}`", code) in shown, error.__name__
