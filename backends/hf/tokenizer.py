"""Text to token ids, from any thread, and the facts about it that the gateway needs.

``tokenizer.json`` is what the model was trained with, and it is taken with those settings of other files that
``tokenizer_check`` has found to be heeded by transformers. transformers 5 builds many tokenizers anew from their
vocabulary, with the normalizer and the splitting that it takes for their family's. transformers converts a
vocabulary only where that file is missing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import msgspec
import numpy as np
from tokenizers import AddedToken, Tokenizer, normalizers

from embeddings_gateway.backends.base import EmbedError, LoadError, Part, TokenIds, TokenizedPart
from embeddings_gateway.backends.hf.files.layout import Layout
from embeddings_gateway.backends.hf.files.settings import read_json_if_present
from embeddings_gateway.backends.hf.files.tokenizer_settings import Segments, TokenizerSettings
from embeddings_gateway.backends.hf.text_rules import certain_part, read_rules

FILE = "tokenizer.json"
# Any word does: only what stands around its tokens is looked at. Several, as a vocabulary may lack some.
PROBES = ("a", "hello", "1", "the")
# Classes of transformers' that heed add_bos_token and add_eos_token beside a tokenizer.json, and the models whose
# tokenizers they are.
ENDS_CLASSES = (
    "CodeLlamaTokenizer",
    "CohereTokenizer",
    "GPTNeoXTokenizer",
    "GemmaTokenizer",
    "LlamaTokenizer",
)
ENDS_MODELS = (
    "cohere",
    "cohere2",
    "gemma",
    "gemma2",
    "gemma3_text",
    "gpt_neox",
    "llama",
    "mistral",
    "mixtral",
    "phi3",
)


class EndTokens(msgspec.Struct, frozen=True):
    """Ids that ``tokenizer_config.json`` wants before and after every text, whatever ``tokenizer.json`` says.

    Some decoders (those derived from Mistral) were saved with a ``tokenizer.json`` that lacks the end token
    that transformers adds because of ``add_eos_token``. Only classes of Llama's kind and tokenizers with code of
    their own do so. A ``false`` there is ignored: others (Qwen's) say so while their ``tokenizer.json`` rightly
    adds the token.
    """

    first: int | None = None
    last: int | None = None


class _SpecialToken(msgspec.Struct):
    content: str


class _EndTokensFile(msgspec.Struct):
    tokenizer_class: str | None = None
    auto_map: dict[str, object] | list[object] | None = None
    add_bos_token: bool | None = None
    add_eos_token: bool | None = None
    bos_token: str | _SpecialToken | None = None
    eos_token: str | _SpecialToken | None = None


class HfTokenizer:
    """A vocabulary that is never changed after construction, so that threads may share it.

    Attributes:
        prefix, suffix: the special token ids that stand before and after every text.
        size: ids are in ``range(size)``.
        rules: what is known of a text without tokenizing all of it.
    """

    def __init__(self, vocabulary: Tokenizer, ends: EndTokens) -> None:
        self._vocabulary = vocabulary
        before, after = _around(vocabulary)
        self._first = _absent(ends.first, before[:1])
        self._last = _absent(ends.last, after[-1:])
        self.prefix = self._first + before
        self.suffix = after + self._last
        self.size = max(vocabulary.get_vocab(with_added_tokens=True).values(), default=-1) + 1
        self.rules = read_rules(vocabulary)

    def tokenize(self, texts: Sequence[str]) -> list[TokenIds]:
        """Return the ids of each text, special tokens included, never cut. Any thread may call this.

        Raises:
            EmbedError: a text is not valid Unicode (it has an unpaired surrogate).
        """
        with _translated_errors():
            encodings = self._vocabulary.encode_batch_fast(list(texts))
        first, last = list(self._first), list(self._last)
        return [np.array([*first, *encoding.ids, *last], dtype=np.int32) for encoding in encodings]

    def tokenize_part(self, text: str, part: Part) -> TokenizedPart:
        """Return the ids of a part of a text, without special tokens. Any thread may call this.

        Raises:
            EmbedError: the text is not valid Unicode, or no text can be divided.
        """
        if self.rules.places is None:
            raise EmbedError("this tokenizer takes whole texts only")
        with _translated_errors():
            if self.rules.misplaces(text):
                return TokenizedPart(np.empty(0, np.int32), part.begin, part.begin)
            (encoding,) = self._vocabulary.encode_batch([text], add_special_tokens=False)
        return certain_part(encoding, text, part, self.rules.places)


@contextmanager
def _translated_errors() -> Iterator[None]:
    """Raise EmbedError for whatever the library raises; its panics are no ``Exception``."""
    try:
        yield
    except (MemoryError, KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:
        # Without the cause: the library may quote the text.
        raise EmbedError(f"the tokenizer failed: {type(error).__name__}") from None


def open_tokenizer(layout: Layout, settings: TokenizerSettings, converted: Path | None = None) -> HfTokenizer:
    """Return the tokenizer of a model directory; ``converted`` is as in :func:`open_vocabulary`."""
    opened = open_vocabulary(layout.folder, layout.lower_case, converted, settings)
    return HfTokenizer(opened, end_tokens(layout.folder, layout.config, opened))


def open_vocabulary(
    folder: Path,
    lower_case: bool,
    converted: Path | None = None,
    settings: TokenizerSettings = TokenizerSettings(),  # noqa: B008 - it is frozen
) -> Tokenizer:
    """Return a tokenizer that neither pads nor cuts, shared with nobody.

    Where the folder has no ``tokenizer.json``, it is the one in ``converted``, which :func:`save_vocabulary` has
    saved there, or transformers converts the vocabulary now.

    Text that looks like a special token (``[SEP]``) becomes that token unless the settings say otherwise, as in
    sentence-transformers: otherwise the same text would have another vector here.
    """
    file = folder / FILE
    if not file.is_file() and converted is not None:
        file = converted / FILE
    try:
        tokenizer = Tokenizer.from_file(str(file)) if file.is_file() else convert_tokenizer(folder)
    except (LoadError, KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # the library raises Exception itself, and panics, which are none
        raise LoadError(f"{file} cannot be read: {error}") from error
    tokenizer.no_padding()
    tokenizer.no_truncation()
    apply_settings(tokenizer, settings)
    if lower_case:  # first of all, as sentence-transformers does for do_lower_case
        own = [] if tokenizer.normalizer is None else [tokenizer.normalizer]
        tokenizer.normalizer = normalizers.Sequence([normalizers.Lowercase(), *own])
    return tokenizer


def apply_settings(tokenizer: Tokenizer, settings: TokenizerSettings) -> None:
    """Put the settings in the place of what ``tokenizer.json`` says."""
    if (normalizer := settings.normalizer) is not None:
        tokenizer.normalizer = normalizers.BertNormalizer(**msgspec.structs.asdict(normalizer))
    if settings.add_prefix_space is not None:
        # A copy: the library hands out a new object each time, whose changes it does not see.
        byte_level = tokenizer.pre_tokenizer
        byte_level.add_prefix_space = settings.add_prefix_space
        tokenizer.pre_tokenizer = byte_level
    tokenizer.encode_special_tokens = settings.split_special_tokens
    for token in settings.added_tokens:
        flags = {name: value for name, value in msgspec.structs.asdict(token).items() if name != "id"}
        tokenizer.add_tokens([AddedToken(**flags)])


def segments_of(tokenizer: Tokenizer) -> Segments:
    """Return the segments that a tokenizer gives the tokens of a text and those around it."""
    before, after = _around(tokenizer)
    for probe in PROBES:
        segments = tokenizer.encode(probe).type_ids
        text = segments[len(before) : len(segments) - len(after)]
        if text:
            return Segments(
                tuple(segments[: len(before)]), text[0], tuple(segments[len(segments) - len(after) :])
            )
    return Segments((), 0, ())


def save_vocabulary(folder: Path, into: Path) -> None:
    """Write the vocabulary of a directory that has no ``tokenizer.json`` as one."""
    if not (folder / FILE).is_file():
        convert_tokenizer(folder).save(str(into / FILE))


def end_tokens(folder: Path, config: Mapping[str, object], tokenizer: Tokenizer) -> EndTokens:
    """Return the ids that ``tokenizer_config.json`` explicitly wants around every text.

    ``config``: what ``config.json`` holds.
    """
    path = folder / "tokenizer_config.json"
    file = read_json_if_present(path, _EndTokensFile) or _EndTokensFile()
    if not _heeds_ends(file, config):
        return EndTokens()

    def resolve(wanted: bool | None, token: str | _SpecialToken | None) -> int | None:
        if not wanted or token is None:
            return None
        content = token if isinstance(token, str) else token.content
        token_id = tokenizer.token_to_id(content)
        if token_id is None:
            raise LoadError(f"{path} adds the token {content!r}, which is not in the vocabulary")
        return token_id

    return EndTokens(
        first=resolve(file.add_bos_token, file.bos_token), last=resolve(file.add_eos_token, file.eos_token)
    )


def _heeds_ends(file: _EndTokensFile, config: Mapping[str, object]) -> bool:
    if "AutoTokenizer" in (file.auto_map or {}) or isinstance(file.auto_map, list):
        return True
    name = file.tokenizer_class or config.get("tokenizer_class")
    if name is None:
        return config.get("model_type") in ENDS_MODELS
    return str(name).removesuffix("Fast") in ENDS_CLASSES


def _around(vocabulary: Tokenizer) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Find the ids put before and after a text, by looking at one with and without them."""
    for probe in PROBES:
        bare = vocabulary.encode(probe, add_special_tokens=False).ids
        whole = vocabulary.encode(probe).ids
        for start in range(len(whole) - len(bare) + 1):
            if bare and whole[start : start + len(bare)] == bare:
                return tuple(whole[:start]), tuple(whole[start + len(bare) :])
    raise LoadError("the tokenizer makes no tokens of plain words: is it the right one for this model?")


def _absent(wanted: int | None, present: tuple[int, ...]) -> tuple[int, ...]:
    return () if wanted is None or present == (wanted,) else (wanted,)


def convert_tokenizer(folder: Path) -> Tokenizer:
    """Return the vocabulary as transformers, which takes seconds to import, converts it."""
    from transformers import AutoTokenizer

    from embeddings_gateway.backends.hf.silence_transformers import silence_transformers

    try:
        with silence_transformers():
            loaded = AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
        # A copy: the object inside a transformers tokenizer changes state while others use it.
        return Tokenizer.from_str(loaded.backend_tokenizer.to_str())
    except Exception as error:
        raise unconvertible(folder, error) from error


def unconvertible(folder: Path, error: Exception) -> LoadError:
    """Return the error of a directory without ``tokenizer.json`` whose vocabulary transformers does not read."""
    missing = any(word in str(error) for word in ("sentencepiece", "protobuf", "tiktoken", "parsing line"))
    advice = "install the extra 'hf', which has sentencepiece and protobuf, or " if missing else ""
    reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
    return LoadError(
        f"{folder} has no {FILE}, and its vocabulary cannot be converted ({reason}): "
        f"{advice}save one elsewhere with AutoTokenizer's save_pretrained"
    )
