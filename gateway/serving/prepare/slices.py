"""Tokenizes the texts of one call in slices of bounded size, and of long texts only what is needed.

So a worker holds little at once, other calls have their turn between two slices, and a call that has to be refused
is refused after the slice that shows it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from embeddings_gateway.backends.base import PART_CONTEXT, Batch, ModelInfo, Part, TokenIds
from embeddings_gateway.config import Truncate
from embeddings_gateway.serving.prepare.tokenize import SLICE_CHARS, Hold, TokenizeCoalescer
from embeddings_gateway.serving.prepare.tokenizer_call import Tokenized

CHARS_OF_A_TOKEN = 8
"""Parts of long texts are chosen for so many characters a token: more than most texts have."""

MIN_PART_CHARS = 4096
GROWTH = 4
"""By how much a part grows that was too short."""


class Need(NamedTuple):
    """Which tokens of a long text are needed, special tokens not counted.

    Attributes:
        first: so many at its beginning.
        last: so many at its end; 0: those at its beginning are enough.
    """

    first: int
    last: int

    @property
    def part_chars(self) -> int:
        """How many characters probably have these tokens."""
        tokens = self.last or self.first
        return max(MIN_PART_CHARS, min(SLICE_CHARS // 2, CHARS_OF_A_TOKEN * tokens))


def needed(policy: Truncate, info: ModelInfo, max_tokens: int) -> Need:
    """Return which tokens a policy needs of a text that may be too long; a call has ``max_tokens`` at most."""
    enough = info.max_tokens + 1  # then it is too long
    match policy:
        case "mean":
            return Need(max_tokens + 1, 0)
        case "left":
            return Need(0, enough)
        case "right" | "error":
            return Need(enough, 0)


class SlicedTexts:
    """Tokenizes texts of one call.

    Args:
        tokenizer: of the model.
        info: the model's facts.
        need: which tokens of a long text are needed.
        hold: is told of each call to a worker.
    """

    def __init__(
        self,
        tokenizer: TokenizeCoalescer,
        info: ModelInfo,
        need: Need,
        hold: Hold | None,
    ) -> None:
        self._tokenizer = tokenizer
        self._info = info
        self._need = need
        self._hold = hold

    async def tokenize(
        self,
        judge: Callable[[range, Tokenized], None],
        prompt: str,
        texts: Sequence[str],
        text_pairs: Sequence[str] | None = None,
    ) -> Batch:
        """Return the ids of each text with the prompt before it; of a text with an error none.

        Of a long text, ids that are not needed may be missing.

        Args:
            judge: is given the indices of each slice's texts, and their ids. What it raises ends the work.
            prompt: goes before each text.
            texts: at least one.
            text_pairs: the second text of each pair, if they are pairs.
        """
        batches = []
        for indices in self._slices(texts, text_pairs, len(prompt)):
            part = (
                [prompt + texts[index] for index in indices]
                if prompt
                else texts[indices.start : indices.stop]
            )
            pairs = None if text_pairs is None else text_pairs[indices.start : indices.stop]
            if pairs is None and len(part[0]) > self._max_whole:
                tokenized = await self._long(part[0], len(prompt))
            else:
                tokenized = await self._tokenizer.tokenize(part, pairs, hold=self._hold)
            judge(indices, tokenized)
            batches.append(tokenized.batch)
        return batches[0] if len(batches) == 1 else Batch.concat(batches)

    @property
    def _max_whole(self) -> int:
        """The longest text that is tokenized as a whole, where there is a choice."""
        return 2 * self._need.part_chars

    def _slices(
        self, texts: Sequence[str], text_pairs: Sequence[str] | None, prompt_chars: int
    ) -> Iterator[range]:
        """Yield the indices of each slice: as many texts as fit, or one that is long."""
        if text_pairs is None and len(texts) * prompt_chars + sum(map(len, texts)) <= MIN_PART_CHARS:
            yield range(len(texts))
            return
        begin = chars = 0
        for index, text in enumerate(texts):
            length = prompt_chars + len(text) + (len(text_pairs[index]) if text_pairs else 0)
            if index > begin and (chars + length > SLICE_CHARS or length > self._max_whole):
                yield range(begin, index)
                begin, chars = index, 0
            chars += length
            if length > self._max_whole:
                yield range(index, index + 1)
                begin, chars = index + 1, 0
        if begin < len(texts):
            yield range(begin, len(texts))

    async def _long(self, text: str, prompt_chars: int) -> Tokenized:
        """Return the ids of a long text, so far as they are needed."""
        tokenized = None
        if self._info.divides_texts and self._need.last:
            tokenized = await self._ends(text, prompt_chars)
        elif self._info.divides_texts:
            tokenized = await self._beginning(text)
        return tokenized or await self._tokenizer.tokenize([text], hold=self._hold)

    async def _beginning(self, text: str) -> Tokenized | None:
        """Return the ids at the beginning of a text, in parts; ``None`` if it cannot be divided."""
        ids: list[TokenIds] = []
        tokens = end = 0
        chars = self._need.part_chars
        while end < len(text) and tokens < self._need.first:
            part_end = min(len(text), end + chars)
            part = await self._part(text, end, part_end)
            # 1. The part would be the whole text, or the tokenizer declines it.
            if part is None or part.errors or part.certain is None:
                return part
            # 2. The text cannot be divided where the part before ended, or nowhere in its rest.
            is_stuck = part.certain[1] <= end and part_end == len(text)
            if part.certain[0] != end or is_stuck:
                return None
            # 3. The ids are certain up to a place behind that one.
            if part.certain[1] > end:
                ids.append(part.batch.ids)
                tokens, end, chars = tokens + part.batch.tokens, part.certain[1], SLICE_CHARS
            # 4. There is no place in this part where the text could be divided: take a longer one.
            else:
                chars *= GROWTH
        return self._joined(ids, end if end < len(text) else None)

    async def _ends(self, text: str, prompt_chars: int) -> Tokenized | None:
        """Return the ids of a text's prompt, and at its end; ``None`` if it is not long enough, or not divisible."""
        ids: list[TokenIds] = []
        chars = max(MIN_PART_CHARS, 2 * prompt_chars)
        end = 0
        while end < prompt_chars:
            part = await self._part(text, 0, chars)
            if part is None or part.errors or part.certain is None:
                return part
            ids, end, chars = [part.batch.ids], part.certain[1], GROWTH * chars
        chars = self._need.part_chars
        while len(text) - chars > end:
            part = await self._part(text, len(text) - chars, len(text))
            if part is None or part.errors or part.certain is None:
                return part
            if part.batch.tokens >= self._need.last:
                return self._joined([*ids, part.batch.ids], end)
            chars *= GROWTH
        return None

    async def _part(self, text: str, begin: int, end: int) -> Tokenized | None:
        """Return the certain ids of a text between two places; ``None`` if that takes the whole text."""
        first = max(0, begin - PART_CONTEXT)
        if first == 0 and end >= len(text):
            return None
        part = Part(begin - first, end >= len(text))
        tokenized = await self._tokenizer.tokenize([text[first:end]], part=part, hold=self._hold)
        if tokenized.certain is None:
            return tokenized
        return tokenized._replace(certain=(first + tokenized.certain[0], first + tokenized.certain[1]))

    def _joined(self, ids: Sequence[TokenIds], end: int | None) -> Tokenized:
        """Return the ids of one text with the special tokens.

        Args:
            ids: of its parts.
            end: where the certain characters end; ``None`` if the ids are those of the whole text.
        """
        prefix, suffix = (np.array(special, np.int32) for special in (self._info.prefix, self._info.suffix))
        batch = Batch.of([np.concatenate([prefix, *ids, suffix])])
        return Tokenized(batch, {}, None if end is None else (0, end))
