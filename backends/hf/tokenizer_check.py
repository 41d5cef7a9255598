"""Compares a directory's tokenizer with the one that transformers builds for it, and finds which settings differ.

``tokenizer_config.json`` may hold settings that ``tokenizer.json`` lacks. A setting is heeded where transformers
heeds it and it changes only a part that both have: the flags of BERT's normalizer, the blank before a text, added
tokens. Where transformers builds another kind of normalizer or splitting, its versions disagree with one another;
then ``tokenizer.json`` counts, and a note says so.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import msgspec
import transformers
from tokenizers import Tokenizer
from transformers import AutoTokenizer

from embeddings_gateway.backends.hf.files.layout import Layout
from embeddings_gateway.backends.hf.files.settings import read_json_if_present
from embeddings_gateway.backends.hf.files.tokenizer_settings import (
    AddedToken,
    BertNormalizer,
    Segments,
    TokenizerSettings,
)
from embeddings_gateway.backends.hf.silence_transformers import silence_transformers
from embeddings_gateway.backends.hf.tokenizer import (
    FILE,
    apply_settings,
    open_vocabulary,
    segments_of,
    unconvertible,
)

TEXTS = (
    "a",
    "The quick brown fox jumps over the lazy dog.",
    "HELLO World, iPhone McDonald",
    "Crème brûlée à l'Élysée, naïve coöperate résumé",
    "Straße Größe ÀÉÎ ΟΔΟΣ ΣΟΦΟΣ İstanbul DİYARBAKIR",
    "  leading and trailing  ",
    " one",
    "one ",
    "line\nbreaks\n\nand\ttabs\r\n",
    "東京は日本の首都です。北京是中国的首都",
    "한국어 문장 하나",
    "نص عربي قصير привет мир",
    "🙂🚀🇫🇷 👩‍👩‍👧",
    "zero\u200bwidth \u00adsoft\u00a0hard \ufeffmark",
    "control\x00\x07 \x1b characters",
    "x" * 250,
    "1234567890 3.14159 1,000,000 v2.0",
    "don't we're it'll he'd",
    "foo_bar(baz); // https://example.com/?q=1&r=[2]",
    "\uff21\uff22\uff23 \ufb01ne \u2460 e\u0301",
)
"""Texts of the kinds in which settings of tokenizers differ."""
TOKENS_TRIED = 64
"""Added tokens that are tried in a text, at most."""


class _InputsFile(msgspec.Struct):
    model_input_names: tuple[str, ...] = ("token_type_ids",)


def check_tokenizer(layout: Layout) -> TokenizerSettings:
    """Return the settings to heed, and in what transformers differs in spite of them."""
    with silence_transformers():
        try:
            theirs = AutoTokenizer.from_pretrained(
                layout.folder, trust_remote_code=False, local_files_only=True
            )
            reference: Tokenizer = theirs.backend_tokenizer
        except Exception as error:  # of transformers and of the libraries that it calls
            if not (layout.folder / FILE).is_file():
                raise unconvertible(layout.folder, error) from error
            reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
            return TokenizerSettings(notes=(f"{FILE} counts, since transformers cannot read it: {reason}",))
    reference.no_padding()
    reference.no_truncation()
    if not (layout.folder / FILE).is_file():
        return TokenizerSettings(
            split_special_tokens=reference.encode_special_tokens, segments=_segments(layout, reference)
        )
    own = open_vocabulary(layout.folder, lower_case=False)
    settings = TokenizerSettings(
        normalizer=_normalizer(own, reference),
        add_prefix_space=_add_prefix_space(own, reference),
        split_special_tokens=reference.encode_special_tokens,
        added_tokens=_added_tokens(own, reference),
        segments=_segments(layout, own),
    )
    settings = _without_misplaced_tokens(layout, settings)
    apply_settings(own, settings)
    notes = _differences(own, reference)
    if settings.segments is not None and "token_type_ids" not in theirs.model_input_names:
        notes += (f"{FILE} counts: it gives texts segments, which this version of transformers leaves out",)
    return msgspec.structs.replace(settings, notes=notes)


def _state(part: Any) -> dict[str, Any]:
    """Return the settings of a normalizer or a pre-tokenizer, among them its ``type``."""
    try:
        state = json.loads(part.__getstate__())
    except Exception:  # there is none, or it is code of Python
        return {}
    return state if isinstance(state, dict) else {}


def _normalizer(own: Tokenizer, reference: Tokenizer) -> BertNormalizer | None:
    here, there = _state(own.normalizer), _state(reference.normalizer)
    if here == there or {here.get("type"), there.get("type")} != {"BertNormalizer"}:
        return None
    return msgspec.convert(there, BertNormalizer)


def _add_prefix_space(own: Tokenizer, reference: Tokenizer) -> bool | None:
    here, there = _state(own.pre_tokenizer), _state(reference.pre_tokenizer)
    if {here.get("type"), there.get("type")} != {"ByteLevel"}:
        return None
    wanted = bool(there["add_prefix_space"])
    return None if here["add_prefix_space"] == wanted else wanted


def _added_tokens(own: Tokenizer, reference: Tokenizer) -> tuple[AddedToken, ...]:
    here, there = _tokens(own), _tokens(reference)
    return tuple(token for token in there if token not in here)


def _tokens(tokenizer: Tokenizer) -> list[AddedToken]:
    return [
        AddedToken(
            id=id,
            content=token.content,
            single_word=token.single_word,
            lstrip=token.lstrip,
            rstrip=token.rstrip,
            normalized=token.normalized,
            special=token.special,
        )
        for id, token in sorted(tokenizer.get_added_tokens_decoder().items())
    ]


def _without_misplaced_tokens(layout: Layout, settings: TokenizerSettings) -> TokenizerSettings:
    """Leave out added tokens that would get other ids here than transformers gives them."""
    if not settings.added_tokens:
        return settings
    trial = open_vocabulary(layout.folder, lower_case=False)
    apply_settings(trial, settings)
    fit = tuple(token for token in settings.added_tokens if trial.token_to_id(token.content) == token.id)
    return msgspec.structs.replace(settings, added_tokens=fit)


def _segments(layout: Layout, own: Tokenizer) -> Segments | None:
    """Return the segments where not all are 0 and the author does not say that the model takes none."""
    file = read_json_if_present(layout.folder / "tokenizer_config.json", _InputsFile) or _InputsFile()
    if "token_type_ids" not in file.model_input_names:
        return None
    segments = segments_of(own)
    return segments if any((*segments.prefix, segments.text, *segments.suffix)) else None


def _differences(own: Tokenizer, reference: Tokenizer) -> tuple[str, ...]:
    texts = [*TEXTS, *_texts_of_tokens(own), *_texts_of_tokens(reference)]
    pairs = list(zip(_encoded(own, texts), _encoded(reference, texts), strict=True))
    differing = [text for text, (ours, theirs) in zip(texts, pairs, strict=True) if ours != theirs]
    if not differing:
        return ()
    return (
        f"{FILE} counts: the tokenizer that transformers {transformers.__version__} builds by its class gives "
        f"other ids for {len(differing)} of {len(texts)} trial texts, such as {differing[0][:40]!r}",
    )


def _texts_of_tokens(tokenizer: Tokenizer) -> list[str]:
    contents = [token.content for token in _tokens(tokenizer)[:TOKENS_TRIED]]
    return [text for content in contents for text in (f"one{content}two", f"one {content} two")]


def _encoded(tokenizer: Tokenizer, texts: Sequence[str]) -> list[list[int]]:
    return [encoding.ids for encoding in tokenizer.encode_batch_fast(list(texts))]
