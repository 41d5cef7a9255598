"""What of llama-cpp-python a worker imports."""

from __future__ import annotations

import importlib.util
import subprocess
import sys

import pytest

if importlib.util.find_spec("llama_cpp") is None:
    pytest.skip("the gguf extra is not installed", allow_module_level=True)

LOADED = """
import sys
import embeddings_gateway.backends.gguf.backend
print(*sorted(name for name in sys.modules if name.partition(".")[0] in ("diskcache", "jinja2", "llama_cpp")))
"""
BESIDE = """
import embeddings_gateway.backends.gguf.backend as ours
import llama_cpp
from llama_cpp import llama_cpp as low_level
from embeddings_gateway.backends.gguf.bindings import llama
print(llama is low_level, llama_cpp.Llama.__name__)
"""


@pytest.mark.parametrize(
    ("program", "printed"),
    [
        pytest.param(LOADED, "llama_cpp._ctypes_extensions llama_cpp.llama_cpp", id="alone"),
        pytest.param(BESIDE, "True Llama", id="beside-the-package"),
    ],
)
def test_only_the_low_level_module_is_imported(program, printed):
    """A worker imports the functions alone, and no cache of pickles; a program may still import the whole package."""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == printed
