"""llama.cpp's functions, as the low-level module of llama-cpp-python has them.

The package's own file is not run: it imports the high-level API, and with it diskcache, which unpickles its files.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from typing import Any

PACKAGE = "llama_cpp"


def _load() -> Any:
    if PACKAGE in sys.modules:  # somebody else's code has run its file
        return importlib.import_module(f"{PACKAGE}.llama_cpp")
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None:
        raise ModuleNotFoundError(f"No module named {PACKAGE!r}", name=PACKAGE)
    sys.modules[PACKAGE] = importlib.util.module_from_spec(spec)  # it knows its folder, and is empty
    try:
        return importlib.import_module(f"{PACKAGE}.llama_cpp")
    finally:
        del sys.modules[PACKAGE]


llama = _load()
