"""PURE: chooses what of a worker's standard error may be logged.

Libraries quote the text that they fail on, and such a text may look like one of their messages. So once a worker
has seen users' texts, only lines of known forms are logged: their fixed words, names of files of this
installation or of the engines, and line numbers.
"""

from __future__ import annotations

import builtins
import re
import sys
from collections.abc import Callable
from pathlib import Path

LINES_MAX = 40

ROOTS = "|".join(re.escape(str(root)) for root in {sys.prefix, sys.base_prefix, Path(__file__).parents[3]})
NAMES = "|".join(name for name, kind in vars(builtins).items() if isinstance(kind, type) and "Err" in name)
CRASHES = "Segmentation fault|Aborted|Bus error|Illegal instruction|Floating-point exception"
CORRUPTED = "|".join(
    re.escape(message)
    for message in (
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
"""glibc's messages about a corrupted heap."""

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

FORMS = tuple(
    re.compile(form)
    for form in (
        rf'^ *(?P<kept>File "(?P<path>(?:{ROOTS})/[\w./-]+)", line {LINE})(?!\d)',  # a Python stack
        r"^(?P<kept>Traceback \(most recent call last\))",
        r"^(?P<kept>Current thread|Thread) 0x",
        rf"^(?P<kept>{NAMES})\b",
        rf"^(?P<kept>Fatal Python error: (?:{CRASHES}))",
        r"^(?P<kept>thread '(?:main|<unnamed>)') (?:\(\d+\) )?(?P<also>panicked) at ",  # Rust
        rf"^\S*?(?P<kept>(?<![^/])(?:{ENGINE_FILES}):{LINE}: GGML_ASSERT)\b",
        rf"^(?P<kept>terminate called after throwing an instance of 'std::(?:{THROWN})')",
        r"^(?P<kept>terminate called without an active exception)",
        rf"^(?P<kept>{CORRUPTED})$",
        r"^(?P<kept>CUDA (?:error|out of memory))",
    )
)


CRASH_FORMS = tuple(
    re.compile(form)
    for form in (
        r"(?P<crash>GGML_ASSERT\([^\n]{1,160}\))(?: failed)?$",
        r"(?P<crash>[Aa]ssertion failed)",
        rf"^terminate called after throwing an instance of '(?P<crash>std::(?:{THROWN}))'",
        rf"^(?P<crash>{NAMES})\b",
        rf"^Fatal Python error: (?P<crash>{CRASHES})",
    )
)
"""The clearer ones first."""


def crash_line(stderr: str) -> str:
    """Return the line, of a known form, by which a worker that has seen no text says why it crashed; else nothing."""
    lines = stderr.splitlines()
    for form in CRASH_FORMS:
        if matches := [match for match in map(form.search, lines) if match]:
            return matches[-1]["crash"]
    return ""


def without_texts(stderr: str, is_file: Callable[[str], bool]) -> str:
    """Return the parts of a worker's output that may be logged, and how many other lines it has.

    Args:
        stderr: the output.
        is_file: returns whether a path is a file on this machine.
    """
    lines, hidden = [], 0
    for line in stderr.splitlines():
        match = next(filter(None, (form.match(line) for form in FORMS)), None)
        parts = match.groupdict() if match else {}
        if parts and ("path" not in parts or is_file(parts["path"])):
            lines.append(" ".join(part for name, part in parts.items() if name != "path"))
        else:
            hidden += bool(line.strip())
    lines = lines[-LINES_MAX:]
    return "\n".join([*lines, f"({hidden} other lines)"] if hidden else lines)
