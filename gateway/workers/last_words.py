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

SHAPES = tuple(
    re.compile(shape)
    for shape in (
        rf'^ *File "(?:{ROOTS})/[\w./-]+", line \d+,? in [\w<>.]+',  # of a Python stack
        r"^Traceback \(most recent call last\)",
        r"^(?:Current thread|Thread) 0x[0-9a-f]+",
        rf"^(?:{NAMES})\b",
        rf"^Fatal Python error: (?:{CRASHES})",
        r"^thread '<?[a-z]+>?' (?:\(\d+\) )?panicked at [\w./@:+-]+",  # Rust; its words are on the next line
        r"^[\w./+-]+\.c\w*:\d+: GGML_ASSERT\([^\n]*?\) failed",  # an expression of ggml's own source
        r"^terminate called (?:after throwing an instance of 'std::\w+'|without an active exception)",
        r"^(?:double free or corruption|malloc\(\)|free\(\)|corrupted size)[a-z ():!-]*$",
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
