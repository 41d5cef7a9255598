"""What a dying worker says is logged as far as no text of a user can be in it."""

from __future__ import annotations

import sys

import pytest

from gateway.workers.last_words import without_texts

SAFE = [
    "/src/vendor/llama.cpp/ggml/src/ggml.c:3021: GGML_ASSERT",
    "free(): invalid pointer",
    f'  File "{sys.prefix}/lib/python3.11/site-packages/torch/nn/functional.py", line 12 in linear',
    f'  File "{sys.prefix}/lib/python3.11/site-packages/torch/nn/functional.py", line 12, in linear',
    "Fatal Python error: Segmentation fault",
    "Current thread 0x00007f3a",
    "terminate called after throwing an instance of 'std::bad_alloc'",
    "thread '<unnamed>' panicked at src/tokenizer/mod.rs:12:5",
    "MemoryError",
]
UNSAFE = [
    "assertion failed on marmalade",
    "byte index 5 is not a char boundary; it is inside 'é' (bytes 4..6) of `marmalade`",
    '  File "/home/marmalade/notes.py", line 3, in jam',
    "marmalade: RuntimeError",
    "free() my heart of the secret marmalade",
    "thread 'main' panicked at my.secret.project/acquire-marmalade",
    "",
]


@pytest.mark.parametrize("line", SAFE)
def test_kept(line):
    """Lines that tell what happened are kept."""
    assert without_texts(line) == line


def test_cut():
    """Of these, what may quote somebody is cut off."""
    assert without_texts("RuntimeError: cannot compute marmalade") == "RuntimeError"
    for line in (
        "thread '<unnamed>' panicked at src/a.rs:1:2: marmalade",
        "a.c:1: GGML_ASSERT(marmalade) failed",
    ):
        assert without_texts(line)
        assert "marmalade" not in without_texts(line)


def test_hidden():
    """All others are only counted."""
    assert without_texts("\n".join(UNSAFE)) == "(6 other lines)"
    assert without_texts("") == ""


def test_bounded():
    """Of many lines the last ones are kept."""
    assert without_texts("MemoryError\n" * 1000).count("MemoryError") <= 40
