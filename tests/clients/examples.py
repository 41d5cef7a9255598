"""The examples as their readers run them: processes of this environment's Python, and what they print."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.server import WAIT_S

FOLDER = Path(__file__).parent.parent.parent / "examples"
HUT = FOLDER / "data" / "hut"

QUESTIONS = {
    "Can I bring my pet?": ("arrival.txt", "Dogs are welcome"),
    "When do we eat in the evening?": ("kitchen.txt", "Supper is served"),
    "Somebody broke a leg, what now?": ("safety.txt", "mountain rescue"),
    "How do I charge my phone?": ("energy.txt", "telephones cannot be charged"),
}
"""Questions about :data:`HUT`, and the file and words that answer each."""


def run(script: str, *arguments: str | Path, status: int = 0) -> tuple[str, str]:
    """Return what an example writes to standard output and standard error.

    Args:
        status: with which it has to end.
    """
    command = [sys.executable, FOLDER / script, *arguments]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=WAIT_S, check=False)
    assert ended.returncode == status, ended.stderr
    return ended.stdout, ended.stderr


def a_long_paragraph(folder: Path) -> Path:
    """Write a text file that is longer than the model takes; returns the folder."""
    (folder / "long.txt").write_text("They counted the sheep again and found one more. " * 60)
    return folder
