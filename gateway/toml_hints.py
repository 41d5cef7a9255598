"""Says how to mend what is no TOML, where the parser's own words do not."""

from __future__ import annotations

import re

_LINE = re.compile(r"\(at line (\d+), column \d+\)")
_TWICE = re.compile(r"Cannot declare \((.+)\) twice")
_MODEL = re.compile(r"\s*\[\s*models\s*\.\s*([^\"'\]]+?)\s*\]")
_COLON = re.compile(r"\s*([\w-]+)\s*:")
_BARE_VALUE = re.compile(r"\s*([\w-]+)\s*=\s*([^\s\"'\[{\d+-].*)")


def hint(text: str, problem: str) -> str:
    """Return how to mend a mistake; empty if that is not known.

    Args:
        text: the whole document.
        problem: the parser's message about it.
    """
    if twice := _TWICE.search(problem):
        name = ".".join(part.strip(" '") for part in twice[1].split(","))
        return f"[{name}] stands there twice: join the two, or rename one"
    if "Cannot overwrite a value" in problem:
        return "a key stands there twice: remove one"
    if "Unescaped '\\'" in problem:
        return "put a text with backslashes in 'single quotes'"
    match, lines = _LINE.search(problem), text.splitlines()
    number = int(match[1]) if match else 0
    return _hint_for_line(lines[number - 1]) if 1 <= number <= len(lines) else ""


def _hint_for_line(line: str) -> str:
    if model := _MODEL.match(line):
        return f'put the name in quotes: [models."{model[1]}"]'
    if value := _BARE_VALUE.match(line):
        key, word = value[1], value[2].strip()
        if word.lower() in ("true", "false"):
            return f"write {key} = {word.lower()}"
        return f'put the text in quotes: {key} = "..."'
    if colon := _COLON.match(line):
        return f"write {colon[1]} = ..., with = in place of :"
    return "close the quotes" if line.count('"') % 2 else ""
