"""PURE: what of a worker's standard error may be logged.

Libraries quote what they fail on, and what they quote may look like a message of theirs. Once a worker has
been given texts of users, only lines of known shapes are repeated, and of these only words that stand here,
names of files that are part of this installation or of the engines, and the numbers of their lines.
"""

from __future__ import annotations

import builtins
import re
import sys
from collections.abc import Callable
from pathlib import Path

LINES_MAX = 40

ROOTS = "|".join(re.escape(str(root)) for root in {sys.prefix, sys.base_prefix, Path(__file__).parents[2]})
NAMES = "|".join(name for name, kind in vars(builtins).items() if isinstance(kind, type) and "Err" in name)
CRASHES = "Segmentation fault|Aborted|Bus error|Illegal instruction|Floating-point exception"
CORRUPTED = "|".join(
    re.escape(said)
    for said in (
        "double free or corruption (out)",
        "double free or corruption (!prev)",
        "double free or corruption (fasttop)",
        "corrupted size vs. prev_size",
        "free(): invalid pointer",
        "free(): invalid size",
        "free(): double free detected in tcache 2",
        "malloc(): corrupted top size",
        "malloc(): invalid size (unsorted)",
        "malloc_consolidate(): invalid chunk size",
    )
)
"""What glibc says of a heap that was written over."""

THROWN = (
    "bad_alloc|exception|invalid_argument|length_error|logic_error|out_of_range|runtime_error|system_error"
)
ENGINE_FILES = "|".join(
    re.escape(name)
    for name in (
        *("ggml.c", "ggml-alloc.c", "ggml-backend.cpp", "ggml-cpu.c", "ggml-cpu.cpp", "ggml-cuda.cu"),
        *("ggml-quants.c", "gguf.cpp", "ops.cpp", "binary-ops.cpp", "unary-ops.cpp", "vec.cpp", "llama.cpp"),
        *(
            "llama-batch.cpp",
            "llama-context.cpp",
            "llama-graph.cpp",
            "llama-kv-cache.cpp",
            "llama-memory.cpp",
        ),
        *("llama-model.cpp", "llama-vocab.cpp", "unicode.cpp"),
    )
)
"""Files of llama.cpp in which a batch or a text can fail."""

LINE = r"\d{1,5}"

SHAPES = tuple(
    re.compile(shape)
    for shape in (
        rf'^ *(?P<said>File "(?P<path>(?:{ROOTS})/[\w./-]+)", line {LINE})(?!\d)',  # of a Python stack
        r"^(?P<said>Traceback \(most recent call last\))",
        r"^(?P<said>Current thread|Thread) 0x",
        rf"^(?P<said>{NAMES})\b",
        rf"^(?P<said>Fatal Python error: (?:{CRASHES}))",
        r"^(?P<said>thread '(?:main|<unnamed>)') (?:\(\d+\) )?(?P<then>panicked) at ",  # of Rust
        rf"^\S*?(?P<said>(?<![^/])(?:{ENGINE_FILES}):{LINE}: GGML_ASSERT)\b",
        rf"^(?P<said>terminate called after throwing an instance of 'std::(?:{THROWN})')",
        r"^(?P<said>terminate called without an active exception)",
        rf"^(?P<said>{CORRUPTED})$",
        r"^(?P<said>CUDA (?:error|out of memory))",
    )
)


def without_texts(said: str, is_file: Callable[[str], bool]) -> str:
    """Return what of these lines holds no text of a user, and how many others there were.

    Args:
        said: what a worker wrote.
        is_file: tells whether a path is that of a file on this machine.
    """
    kept, hidden = [], 0
    for line in said.splitlines():
        found = next(filter(None, (shape.match(line) for shape in SHAPES)), None)
        parts = found.groupdict() if found else {}
        if parts and ("path" not in parts or is_file(parts["path"])):
            kept.append(" ".join(part for name, part in parts.items() if name != "path"))
        else:
            hidden += bool(line.strip())
    kept = kept[-LINES_MAX:]
    return "\n".join([*kept, f"({hidden} other lines)"] if hidden else kept)
