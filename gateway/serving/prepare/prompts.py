"""PURE: which of a model's prompts goes before texts: that for queries, for documents, or its default."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from embeddings_gateway.backends.base import ModelInfo, TokenIds
from embeddings_gateway.config import InputType
from embeddings_gateway.errors import InvalidRequest

NAMES: Mapping[InputType, Sequence[str]] = {
    "query": ("query",),
    "document": ("document", "passage", "corpus"),
}
"""Under which names models keep their prompts: those that sentence-transformers looks for, in its order."""


class Prompt(NamedTuple):
    """What goes before each text, and its name; ``None`` where there is none."""

    name: str | None
    text: str


NO_PROMPT = Prompt(None, "")


def choose_prompt(input_type: InputType | None, info: ModelInfo) -> Prompt:
    """Return the prompt that is used.

    A model that has a prompt for one input type wants none for the other. To a model without any prompts the
    input type means nothing.

    Raises:
        InvalidRequest: the model has prompts, but none for any input type.
    """
    name = info.default_prompt
    if input_type is not None and info.prompts:
        name = next((name for name in NAMES[input_type] if name in info.prompts), None)
        if name is None and not any(name in info.prompts for names in NAMES.values() for name in names):
            known = ", ".join(sorted(info.prompts))
            raise InvalidRequest(
                f"The model has no prompt for queries or documents; it has: {known}.", "input_type"
            )
    return NO_PROMPT if name is None else Prompt(name, info.prompts[name])


def prompt_tokens(ids: TokenIds, prompt: TokenIds, info: ModelInfo) -> int:
    """Return how many ids at the beginning of an input are no text of a user's.

    Args:
        ids: of a prompt and a text together.
        prompt: of the same prompt alone. Its last token may have become part of the text's first.
        info: the model's facts.
    """
    alone = prompt[: len(prompt) - len(info.suffix)]
    common = min(len(alone), len(ids))
    differing = np.flatnonzero(alone[:common] != ids[:common])
    same = int(differing[0]) if len(differing) else common
    return max(same, len(info.prefix))
