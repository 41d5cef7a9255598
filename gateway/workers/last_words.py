"""PURE: what of a worker's standard error may be logged.

Libraries quote what they fail on. Once a worker has been given texts of users, only lines of known shapes are
repeated, and of these only the parts that no text can get into.
"""

from __future__ import annotations

import builtins
import re
import sys
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

SHAPES = tuple(
    re.compile(shape)
    for shape in (
        rf'^ *File "(?:{ROOTS})/[\w./-]+", line \d+,? in [\w<>.]+',  # of a Python stack
        r"^Traceback \(most recent call last\)",
        r"^(?:Current thread|Thread) 0x[0-9a-f]+",
        rf"^(?:{NAMES})\b",
        rf"^Fatal Python error: (?:{CRASHES})",
        r"^thread '(?:main|<unnamed>)' (?:\(\d+\) )?panicked at [\w./@+-]+\.rs:\d+:\d+",  # of Rust
        r"^[\w./+-]+\.(?:c|cpp|cu|h|hpp):\d+: GGML_ASSERT\b",
        r"^terminate called (?:after throwing an instance of 'std::\w+'|without an active exception)",
        rf"^(?:{CORRUPTED})$",
        r"^CUDA (?:error|out of memory)",
    )
)


def without_texts(said: str) -> str:
    """Return the lines that hold no text of a user, and how many others there were."""
    kept, hidden = [], 0
    for line in said.splitlines():
        found = next(filter(None, (shape.match(line) for shape in SHAPES)), None)
        if found:
            kept.append(found[0])
        else:
            hidden += bool(line.strip())
    kept = kept[-LINES_MAX:]
    return "\n".join([*kept, f"({hidden} other lines)"] if hidden else kept)
