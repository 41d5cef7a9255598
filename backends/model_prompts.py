"""The prompts of a model: those of its own files, or those of the configuration instead."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from embeddings_gateway.backends.base import LoadError
from embeddings_gateway.backends.spec import BackendSpec


class ModelPrompts(NamedTuple):
    """Prompts as ``ModelInfo`` states them.

    Attributes:
        prompts: name -> what goes before a text of that kind.
        default_prompt: the name that is used where a request names none.
    """

    prompts: Mapping[str, str]
    default_prompt: str | None


NONE = ModelPrompts({}, None)


def resolve_prompts(spec: BackendSpec, own: ModelPrompts = NONE) -> ModelPrompts:
    """Return the prompts that are used.

    Args:
        spec: how the model is configured.
        own: what the model's files say.

    Raises:
        LoadError: the configured default is not among them.
    """
    prompts = own.prompts if spec.prompts is None else spec.prompts
    if spec.default_prompt is None:
        return ModelPrompts(prompts, own.default_prompt if own.default_prompt in prompts else None)
    if spec.default_prompt == "":
        return ModelPrompts(prompts, None)
    if spec.default_prompt not in prompts:
        known = ", ".join(sorted(prompts)) or "none"
        raise LoadError(
            f"default_prompt is {spec.default_prompt!r}, the model's prompts are: {known}: set prompts, "
            'or default_prompt to one of these or to ""'
        )
    return ModelPrompts(prompts, spec.default_prompt)
