"""Opens the vocabulary of a model directory as a private ``tokenizers.Tokenizer``.

``tokenizer.json`` is taken as it stands, because it is what the model was trained with; transformers 5
builds many tokenizers anew from their vocabulary, with the normalizer and the splitting that it holds to
be their family's. Only where the file is missing does transformers convert one.
"""

from __future__ import annotations

from pathlib import Path

import msgspec
from tokenizers import Tokenizer
from tokenizers.normalizers import Lowercase, Normalizer, Sequence

from embeddings_gateway.backends.base import LoadError
from embeddings_gateway.backends.hf.files import json_file


class _Token(msgspec.Struct):
    content: str


class _TokenizerFile(msgspec.Struct):
    add_bos_token: bool | None = None
    add_eos_token: bool | None = None
    bos_token: str | _Token | None = None
    eos_token: str | _Token | None = None


class EndTokens(msgspec.Struct, frozen=True):
    """Ids that ``tokenizer_config.json`` wants before and after every text, whatever ``tokenizer.json`` says.

    Some decoders (those derived from Mistral) were saved with a ``tokenizer.json`` that lacks the end token
    that transformers adds because of ``add_eos_token``. A ``false`` there is not heeded: others (Qwen's)
    say so while their ``tokenizer.json`` rightly adds the token.
    """

    first: int | None = None
    last: int | None = None


FILE = "tokenizer.json"


def open_vocabulary(folder: Path, lower_case: bool, kept: Path | None = None) -> Tokenizer:
    """Return a tokenizer that neither pads nor cuts, shared with nobody.

    transformers, which takes seconds to import, is imported only where there is no ``tokenizer.json``.

    Args:
        folder: the transformer's directory.
        lower_case: whether text is lower-cased first.
        kept: where :func:`keep` has kept the converted vocabulary, if it has.

    Text that looks like a special token (``[SEP]``) becomes that token, as in sentence-transformers:
    otherwise the same text would have another vector here.

    Raises:
        LoadError: there is no vocabulary, or it cannot be read.
    """
    file = folder / FILE
    if not file.is_file() and kept is not None:
        file = kept / FILE
    try:
        tokenizer = Tokenizer.from_file(str(file)) if file.is_file() else _legacy(folder)
    except LoadError:
        raise
    except Exception as error:  # the tokenizers library raises Exception itself
        raise LoadError(f"{file} cannot be read: {error}") from error
    tokenizer.no_padding()
    tokenizer.no_truncation()
    if lower_case:
        tokenizer.normalizer = _lower_casing(tokenizer.normalizer)
    return tokenizer


def keep(folder: Path, into: Path) -> None:
    """Write the vocabulary of a directory that has no ``tokenizer.json`` as one.

    Raises:
        LoadError: as :func:`open_vocabulary`.
    """
    if not (folder / FILE).is_file():
        _legacy(folder).save(str(into / FILE))


def end_tokens(folder: Path, tokenizer: Tokenizer) -> EndTokens:
    """Return the ids that ``tokenizer_config.json`` explicitly wants around every text.

    Raises:
        LoadError: the file is damaged or wants a token that is not in the vocabulary.
    """
    path = folder / "tokenizer_config.json"
    file = json_file.read_if_present(path, _TokenizerFile) or _TokenizerFile()

    def resolve(wanted: bool | None, token: str | _Token | None) -> int | None:
        if not wanted or token is None:
            return None
        content = token if isinstance(token, str) else token.content
        found = tokenizer.token_to_id(content)
        if found is None:
            raise LoadError(f"{path} adds the token {content!r}, which is not in the vocabulary")
        return found

    return EndTokens(
        first=resolve(file.add_bos_token, file.bos_token),
        last=resolve(file.add_eos_token, file.eos_token),
    )


def _lower_casing(normalizer: Normalizer | None) -> Normalizer:
    """Put lower-casing first, as sentence-transformers does for ``do_lower_case``."""
    return Sequence([Lowercase()] if normalizer is None else [Lowercase(), normalizer])


def _legacy(folder: Path) -> Tokenizer:
    from embeddings_gateway.backends.hf.text import legacy

    return legacy.convert(folder)
