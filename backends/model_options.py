"""What the configuration may override of a model's own files, for every backend: prompts and dimensions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

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


def offered_dimensions(spec: BackendSpec, full: int, own: Sequence[int] = ()) -> tuple[int, ...]:
    """Return the dimensions that a client may ask for, ascending; ``own`` are those of the model's files."""
    for width in spec.dimensions or ():
        if width > full:
            raise LoadError(f"dimensions has {width}, but the model's vectors have {full}: remove it")
    offered = own if spec.dimensions is None else spec.dimensions
    return (*sorted({width for width in offered if 0 < width < full}), full)
