"""Texts that a conversion is calibrated with and judged by: of the kinds people embed, in many languages."""

from __future__ import annotations

from pathlib import Path

CORPUS = Path(__file__).parent / "corpus"
"""Of text files in UTF-8, one text a line, shuffled over kinds and languages: neighbours get joined."""

CALIBRATION: tuple[str, ...] = tuple((CORPUS / "calibration.txt").read_text("utf-8").splitlines())
"""What int8 is calibrated with."""

PROBES: tuple[str, ...] = tuple((CORPUS / "probes.txt").read_text("utf-8").splitlines())
"""What a conversion is judged by; none of them is among those it is calibrated with."""
