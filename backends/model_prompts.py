"""The prompts of a model: those of its own files, or those of the configuration instead."""

from __future__ import annotations

from collections.abc import Mapping

from embeddings_gateway.backends.base import LoadError
from embeddings_gateway.backends.spec import BackendSpec


def resolve_prompts(
    spec: BackendSpec, own: Mapping[str, str] | None = None, own_default: str | None = None
) -> tuple[dict[str, str], str | None]:
    """Return the prompts and the name of the default one; ``own`` are those of the model's files."""
    prompts = dict((own or {}) if spec.prompts is None else spec.prompts)
    if spec.default_prompt == "":
        return prompts, None
    default = own_default if spec.default_prompt is None else spec.default_prompt
    if default in prompts:
        return prompts, default
    if spec.default_prompt is None:
        return prompts, None
    known = ", ".join(sorted(prompts)) or "none"
    raise LoadError(
        f"default_prompt is {spec.default_prompt!r}, the model's prompts are: {known}: set prompts, "
        'or default_prompt to one of these or to ""'
    )
