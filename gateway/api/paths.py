"""From the path of a request to the path that is meant: some clients put other things before it than ``/v1``.

Only what can mean nothing else is translated. Any other path stays as it is, and is unknown.
"""

from __future__ import annotations

import re
from typing import NamedTuple

EMBEDDINGS = "/v1/embeddings"

# Each alternative begins in its own way, so that matching takes linear time.
_PREFIXES = re.compile(r"(?:/v1|/openai)*(?=/(?:embeddings|models)(?:/|$))")
_MODEL_IN_PATH = re.compile(r"(?:/v1|/openai)*/(?:deployments|engines)/(?P<model>.+)/embeddings")
_SLASHES = re.compile("//+")


class Target(NamedTuple):
    """What a request is for.

    Attributes:
        path: without a slash at the end.
        model: the name of the model, if the path has it: Azure's clients and OpenAI's old ones write it there.
    """

    path: str
    model: str | None = None


_EMBEDDINGS = Target(EMBEDDINGS)


def target_of(path: str, root_path: str = "") -> Target:
    """Return what a request for a decoded path is for.

    Args:
        path: as the client or its proxy sent it.
        root_path: what the proxy leaves in front of each path.
    """
    if path == EMBEDDINGS:
        return _EMBEDDINGS
    path = _SLASHES.sub("/", path).rstrip("/")
    if root_path and path.startswith(f"{root_path}/"):
        path = path.removeprefix(root_path)
    if match := _MODEL_IN_PATH.fullmatch(path):
        return Target(EMBEDDINGS, match["model"])
    return Target(_PREFIXES.sub("/v1", path, count=1) if _PREFIXES.match(path) else path)
