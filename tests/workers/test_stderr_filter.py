"""Of what a crashing worker writes only lines that cannot contain a user's text are logged."""

from __future__ import annotations

import os
import sys

import pytest

from embeddings_gateway.workers.local.stderr_filter import crash_line, without_texts

STACK = f'  File "{sys.prefix}/pyvenv.cfg", line 12'
SAFE = {
    "/src/llama.cpp/ggml/src/ggml.c:3021: GGML_ASSERT(marmalade) failed": "ggml.c:3021: GGML_ASSERT",
    "llama-context.cpp:12: GGML_ASSERT": "llama-context.cpp:12: GGML_ASSERT",
    "free(): invalid pointer": "free(): invalid pointer",
    f"{STACK} in marmalade": STACK.strip(),
    f"{STACK}, in marmalade": STACK.strip(),
    "Fatal Python error: Segmentation fault": "Fatal Python error: Segmentation fault",
    "Current thread 0x00007f3a (most recent call first):": "Current thread",
    "terminate called after throwing an instance of 'std::bad_alloc'": (
        "terminate called after throwing an instance of 'std::bad_alloc'"
    ),
    "thread '<unnamed>' panicked at src/marmalade.rs:12:5: marmalade": "thread '<unnamed>' panicked",
    "thread 'main' (4711) panicked at src/mod.rs:12:5": "thread 'main' panicked",
    "RuntimeError: cannot compute marmalade": "RuntimeError",
    "MemoryError": "MemoryError",
}
UNSAFE = [
    "assertion failed on marmalade",
    "byte index 5 is not a char boundary; it is inside 'é' (bytes 4..6) of `marmalade`",
    '  File "/home/marmalade/notes.py", line 3, in jam',
    f'  File "{sys.prefix}/marmalade/notes.py", line 3, in jam',
    f"{STACK}3456789",
    "marmalade: RuntimeError",
    "free() my heart of the secret marmalade",
    "project-bluebird/marmalade.cpp:12: GGML_ASSERT",
    "marmalade-llama.cpp:12: GGML_ASSERT",
    "llama.cpp:123456: GGML_ASSERT",
    "terminate called after throwing an instance of 'std::marmalade'",
    "",
]


@pytest.mark.parametrize("line", SAFE)
def test_kept(line):
    """Of lines with a known form the fixed words are kept."""
    assert without_texts(line, os.path.isfile) == SAFE[line]


def test_hidden():
    """All other lines are only counted."""
    assert without_texts("\n".join(UNSAFE), os.path.isfile) == "(11 other lines)"
    assert without_texts("", os.path.isfile) == ""


def test_bounded():
    """Of many lines the last ones are kept."""
    assert without_texts("MemoryError\n" * 1000, os.path.isfile).count("MemoryError") <= 40


@pytest.mark.parametrize(
    ("stderr", "line"),
    [
        (
            "loading\n/build/ggml.c:3028: GGML_ASSERT(ggml_can_mul_mat(a, b)) failed\n"
            "Fatal Python error: Aborted\n\nCurrent thread 0x1",
            "GGML_ASSERT(ggml_can_mul_mat(a, b))",
        ),
        (
            "terminate called after throwing an instance of 'std::out_of_range'\n  what(): at",
            "std::out_of_range",
        ),
        (f'Traceback (most recent call last):\n{STACK}\nKeyError: "name"', "KeyError"),
        ("Fatal Python error: Segmentation fault\n", "Segmentation fault"),
        ("model.c:1: main: Assertion failed", "Assertion failed"),
        ("https://user:password@host says no", ""),
        ("", ""),
    ],
)
def test_crash_line(stderr, line):
    """Of a worker that ended while it loaded, the clearest known line says why."""
    assert crash_line(stderr) == line
