"""The words that go before a text: those of the model's own files, or of the configuration instead."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from embeddings_gateway.backends.base import LoadError
from embeddings_gateway.backends.spec import BackendSpec


class Prompts(NamedTuple):
    """What ``ModelInfo`` says of prompts.

    Attributes:
        words: name -> what goes before a text of that kind.
        default: the name that is used where a request names none.
    """

    words: Mapping[str, str]
    default: str | None


NONE = Prompts({}, None)


def choose(spec: BackendSpec, own: Prompts = NONE) -> Prompts:
    """Return the prompts that are used.

    Args:
        spec: how the model is configured.
        own: what the model's files say.

    Raises:
        LoadError: the configured default is none of them.
    """
    words = own.words if spec.prompts is None else spec.prompts
    if spec.default_prompt is None:
        return Prompts(words, own.default if own.default in words else None)
    if spec.default_prompt == "":
        return Prompts(words, None)
    if spec.default_prompt not in words:
        known = ", ".join(sorted(words)) or "none"
        raise LoadError(
            f"default_prompt is {spec.default_prompt!r}, the model's prompts are: {known}: set prompts, "
            'or default_prompt to one of these or to ""'
        )
    return Prompts(words, spec.default_prompt)
