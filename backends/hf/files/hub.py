"""Downloads a model of the Hugging Face hub into the library's own cache.

``HF_ENDPOINT``, ``HF_HOME``, ``HF_TOKEN`` and ``HF_HUB_OFFLINE`` mean what they mean to huggingface_hub. It
also continues a file where a connection broke, and after a restart fetches only the files that are missing.
Progress is written to standard error, whatever that is: the gateway passes it on to a terminal.
"""

from __future__ import annotations

from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from embeddings_gateway.backends.base import LoadError

# Weights as safetensors, settings and vocabularies. Never .bin or .pt (pickles run code) and never .py.
WANTED = ["*.safetensors", "*.json", "*.txt", "*.model"]
# Settings of other runtimes, which nothing here reads.
UNWANTED = ["onnx/*", "openvino/*"]


def download(repository: str, revision: str | None) -> Path:
    """Return the directory of one commit of ``repository``, complete.

    A branch or tag is resolved to the commit it stands for now. What the cache has is not fetched again.

    Raises:
        LoadError: no such repository or revision, no access, no connection, or no room on the disk.
    """
    named = f"hub model {repository!r}"
    try:
        return Path(
            snapshot_download(
                repository,
                revision=revision,
                allow_patterns=WANTED,
                ignore_patterns=UNWANTED,
            )
        )
    except HFValidationError as error:
        raise LoadError(
            f"path {repository!r} is no absolute directory, no package:module/directory and no hub id"
        ) from error
    except GatedRepoError as error:
        raise LoadError(f"{named} is gated: accept its terms on the hub and set HF_TOKEN") from error
    except RepositoryNotFoundError as error:
        raise LoadError(
            f"{named} does not exist or is private: check path (a local directory must be absolute) "
            "or set HF_TOKEN"
        ) from error
    except RevisionNotFoundError as error:
        raise LoadError(f"{named} has no revision {revision!r}: check revision") from error
    except LocalEntryNotFoundError as error:
        raise LoadError(
            f"{named} is not complete in the local cache and the hub cannot be reached: "
            "check the connection, HF_ENDPOINT and HF_HUB_OFFLINE"
        ) from error
    except Exception as error:  # the HTTP library's and the disk's own errors
        raise LoadError(f"{named} could not be downloaded: {type(error).__name__}: {error}") from error
