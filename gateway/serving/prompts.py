"""PURE: which of a model's prompts goes before texts: that for queries, for documents, or its default."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from embeddings_gateway.backends.base import ModelInfo, TokenIds
from embeddings_gateway.config import InputType
from embeddings_gateway.errors import InvalidRequest

NAMES: Mapping[InputType, Sequence[str]] = {
    "query": ("query",),
    "document": ("document", "passage", "corpus"),
}
"""Where models keep their words for a role: the names that sentence-transformers looks for, in its order."""


class Prompt(NamedTuple):
    """Words that go before each text, and their name; ``None`` where there are none."""

    name: str | None
    words: str


NO_PROMPT = Prompt(None, "")


def prompt_for(role: InputType | None, info: ModelInfo) -> Prompt:
    """Return the prompt that is used.

    A model that has words for one of the roles wants none for the other; to a model without any prompts a
    role means nothing.

    Raises:
        InvalidRequest: the model has prompts, but none for any role.
    """
    name = info.default_prompt
    if role is not None and info.prompts:
        name = next((name for name in NAMES[role] if name in info.prompts), None)
        if name is None and not any(name in info.prompts for names in NAMES.values() for name in names):
            known = ", ".join(sorted(info.prompts))
            raise InvalidRequest(
                f"The model has no prompt for queries or documents; it has: {known}.", "input_type"
            )
    return NO_PROMPT if name is None else Prompt(name, info.prompts[name])


def ids_kept(ids: TokenIds, prompt: TokenIds, info: ModelInfo) -> int:
    """Return how many ids at the beginning of an input are no text of a user's.

    Args:
        ids: of the words of a prompt and a text together.
        prompt: of the same words alone, whose last token may have become part of the text's first.
        info: the model's facts.
    """
    alone = prompt[: len(prompt) - len(info.suffix)]
    same = 0
    while same < min(len(alone), len(ids)) and alone[same] == ids[same]:
        same += 1
    return max(same, len(info.prefix))
