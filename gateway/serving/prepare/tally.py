"""PURE: judges the inputs of a call slice by slice, so that a call is refused as soon as that is known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from embeddings_gateway.backends.base import Batch, ModelInfo, TokenSpan
from embeddings_gateway.config import Truncate
from embeddings_gateway.errors import ContextLengthExceeded, GatewayError, InvalidRequest, TooManyTokens
from embeddings_gateway.serving.prepare.tokenizer_call import Tokenized

LETTER, SIGN, BLANK = b"x", b"!", b" "
VISIBLE = bytes(range(ord("!"), ord("~") + 1))
CLASSES = bytes(
    LETTER[0] if chr(byte).isalnum() else SIGN[0] if byte in VISIBLE else BLANK[0] for byte in range(128)
) + bytes(128)
"""For ``bytes.translate``: the class of each character of ASCII; digits are letters here."""
NOT_COUNTED = bytes(byte for byte in range(128) if byte not in VISIBLE and byte != BLANK[0])


class Tally:
    """The errors of a call's inputs, and the number of its tokens so far.

    Args:
        info: the model's facts.
        policy: what happens to inputs that are too long.
        max_tokens: the most tokens of the call.
        partial: whether an input may fail without failing the others.

    Attributes:
        errors: input -> its error. An error that fails the call is raised.
        any_too_long: whether there may be an input that has to be cut or divided.
    """

    def __init__(self, info: ModelInfo, policy: Truncate, max_tokens: int, *, partial: bool) -> None:
        self.errors: dict[int, GatewayError] = {}
        self.any_too_long = False
        self._info = info
        self._policy = policy
        self._max_tokens = max_tokens
        self._partial = partial
        self._tokens = 0

    def refuse(self, errors: Mapping[int, GatewayError]) -> None:
        """Add errors of inputs.

        Raises:
            GatewayError: the first of them that fails the call.
        """
        errors = {index: error.about(f"input[{index}]") for index, error in errors.items()}
        fatal = [index for index, error in errors.items() if not (self._partial and error.of_the_input)]
        if fatal:
            raise errors[min(fatal)]
        self.errors |= errors

    def add(self, indices: Sequence[int], tokenized: Tokenized) -> None:
        """Judge some inputs by their ids.

        Args:
            indices: which inputs these are, ascending.
            tokenized: their ids, or their errors.

        Raises:
            GatewayError: an input's error fails the call, or the call has too many tokens.
        """
        batch, info = tokenized.batch, self._info
        if not tokenized.errors and _is_ordinary(batch, info):
            self._count(batch.tokens)
            return
        errors = {**_model_errors(batch, info), **tokenized.errors}
        if self._policy == "error":
            for row in np.flatnonzero(batch.lengths > info.max_tokens).tolist():
                is_part = tokenized.certain is not None
                errors[row] = too_long(int(batch.lengths[row]), info, at_least=is_part)
        if errors:
            self.refuse({indices[row]: error for row, error in errors.items()})
        lengths = batch.lengths.copy()
        lengths[list(errors)] = 0
        self.any_too_long = True
        self._count(int((np.minimum(lengths, info.max_tokens) if self._cuts else lengths).sum()))

    def add_least(self, index: int, tokens: int) -> None:
        """Judge an input by the tokens that it has at least, special tokens included.

        Raises:
            GatewayError: as :meth:`add`.
        """
        if self._policy == "error" and tokens > self._info.max_tokens:
            self.refuse({index: too_long(tokens, self._info, at_least=True)})
        else:
            self._count(min(tokens, self._info.max_tokens) if self._cuts else tokens)

    @property
    def _cuts(self) -> bool:
        return self._policy in ("right", "left")

    def _count(self, tokens: int) -> None:
        self._tokens += tokens
        if self._tokens > self._max_tokens:
            raise too_many(self._max_tokens, self._tokens)


def too_many(most: int, tokens: int) -> TooManyTokens:
    """Return the error of a call with so many tokens, or more."""
    return TooManyTokens(f"A request has at most {most} tokens, this one has at least {tokens}.", "input")


def too_long(tokens: int, info: ModelInfo, *, at_least: bool = False) -> ContextLengthExceeded:
    """Return the error of an input of so many tokens that must not be cut."""
    # LiteLLM and others recognise this error by OpenAI's words at its beginning.
    return ContextLengthExceeded(
        f"This model's maximum context length is {info.max_tokens} tokens, "
        f"this input has {'at least ' if at_least else ''}{tokens}. "
        "Send a shorter one, or set truncate to right, left or mean."
    )


def least_tokens(text: str, span: TokenSpan) -> int:
    """Return how many tokens a text has at least, special ones not counted.

    Only what certainly counts is counted, since tokenizers drop characters and join others: a megabyte of blanks
    may be no token at all.
    """
    classes = text.encode("ascii", "ignore").translate(CLASSES, NOT_COUNTED)
    blanks, signs = classes.count(BLANK), classes.count(SIGN)
    begins_with_word = classes[:1] in (LETTER, SIGN)
    words = classes.count(BLANK + LETTER) + classes.count(BLANK + SIGN) + begins_with_word
    counts = ((words, span.words), (signs, span.signs), (len(classes) - blanks, span.chars))
    return max((-(-count // most) for count, most in counts if most), default=0)


def _is_ordinary(batch: Batch, info: ModelInfo) -> bool:
    """Return whether the model takes all inputs as they are."""
    lengths = batch.lengths
    is_short = bool(lengths.min(initial=1) > 0 and lengths.max(initial=0) <= info.max_tokens)
    return is_short and bool(batch.ids.max(initial=0) < info.vocabulary_size)


def _model_errors(batch: Batch, info: ModelInfo) -> dict[int, GatewayError]:
    """Return the errors of inputs that the tokenizer accepted, but the model cannot take.

    A vocabulary may have no token for a blank, and a model fewer tokens than its tokenizer.
    """
    errors: dict[int, GatewayError] = {}
    if not batch.lengths.all():
        for row in np.flatnonzero(batch.lengths == 0).tolist():
            errors[row] = InvalidRequest("The model has no token for this input.")
    if batch.tokens and int(batch.ids.max()) >= info.vocabulary_size:
        rows = np.repeat(np.arange(len(batch)), batch.lengths)
        for row in sorted(set(rows[batch.ids >= info.vocabulary_size].tolist())):
            errors[row] = InvalidRequest("The model has no vector for a token of this input.")
    return errors
