"""From what a client sent to rows that the model takes: prompts, tokenizing, policies, limits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Literal, NamedTuple, cast

import numpy as np

from embeddings_gateway.backends.base import Batch, ModelInfo, TokenIds
from embeddings_gateway.batching.queue import max_tokens_of
from embeddings_gateway.config import ServingConfig, Truncate
from embeddings_gateway.errors import (
    ContextLengthExceeded,
    GatewayError,
    InvalidRequest,
    InvalidTokenIds,
    TooManyTokens,
)
from embeddings_gateway.serving.assemble import Windows
from embeddings_gateway.serving.prepare.cl100k import REMEDY, Cl100k
from embeddings_gateway.serving.prepare.policies import (
    NO_PROMPT,
    Prompt,
    choose_prompt,
    native,
    prompt_tokens,
    tokens_left,
    truncate,
)
from embeddings_gateway.serving.prepare.slices import SlicedTexts, needed
from embeddings_gateway.serving.prepare.tally import Tally, least_tokens, too_many
from embeddings_gateway.serving.prepare.tokenize import Hold, TokenizeCoalescer
from embeddings_gateway.serving.prepare.tokenizer_call import Tokenized
from embeddings_gateway.serving.served import Call, IdLists, Inputs, Texts, are_pairs, are_texts
from embeddings_gateway.serving.yield_to_loop import ONE_INPUT, LoopYielder

LONG_CHARS = 4096
"""Shorter texts are tokenized without a look at their length: that takes little time."""

CHARS_OF_A_NUMBER = 16
"""Characters that are counted in the time that one number takes; :class:`LoopYielder` counts in numbers."""


class Prepared(NamedTuple):
    """The rows of a call, ready to be computed.

    Attributes:
        batch: the token ids of each row. A row is an input, in order, or a window of one.
        errors: row -> why it has no ids; empty unless the call is ``partial``.
        truncated: inputs that were cut.
        windows: which rows are windows of which input; ``None`` where each row is an input.
    """

    batch: Batch
    errors: Mapping[int, GatewayError]
    truncated: Sequence[int]
    windows: Windows | None


class Preparer:
    """Prepares calls for one model.

    Args:
        serving: the model's policies.
        max_tokens: the most tokens of one call.
        tokenizer: of the model.
        cl100k: the vocabulary of OpenAI's clients.
    """

    def __init__(
        self, serving: ServingConfig, max_tokens: int, tokenizer: TokenizeCoalescer, cl100k: Cl100k
    ) -> None:
        self._serving = serving
        self._max_tokens = max_tokens
        self._tokenizer = tokenizer
        self._cl100k = cl100k

    def prompt(self, call: Call, info: ModelInfo) -> Prompt:
        """Return the prompt that goes before the inputs. Native token ids and pairs have none.

        Raises:
            InvalidRequest: the model has no prompt for this input type, or the inputs cannot have one.
        """
        if are_pairs(call.inputs):
            return NO_PROMPT
        prompt = choose_prompt(call.options.input_type, info)
        if are_texts(call.inputs) or self._serving.token_ids != "native":
            return prompt
        if call.options.input_type is not None and prompt.text:
            raise InvalidRequest("No prompt can go before token ids: send texts.", "input_type")
        return NO_PROMPT

    def max_tokens(self, call: Call) -> int:
        """Return how many tokens a call may have: as many as a request may, and as may wait of its traffic class.

        Ids of OpenAI's vocabulary are counted against the limit of a request as they are sent: clients fill requests
        by their own count, and cannot know that the model's is higher. Only the queue limits what they become.
        """
        max_waiting = max_tokens_of(call.caller.traffic, self._serving.max_queue_tokens)
        were_counted = isinstance(call.inputs[0], list) and self._serving.token_ids != "native"
        return max_waiting if were_counted else min(max_waiting, self._max_tokens)

    async def prepare(
        self, call: Call, info: ModelInfo, prompt: Prompt, hold: Hold | None = None
    ) -> Prepared:
        """Return the rows of a call, with a prompt before each text.

        Args:
            call: the call.
            info: the model's facts.
            prompt: what :meth:`prompt` returned.
            hold: is told of work that may go on for a moment after this is cancelled.

        Raises:
            GatewayError: the call is refused.
        """
        policy = self._policy(call)
        tally = self._tally(call, policy, info)
        tally.refuse(call.refused)
        sliced = SlicedTexts(self._tokenizer, info, needed(policy, info, self.max_tokens(call)), hold)
        batch = await self._tokenized(call, prompt.text, info, tally, sliced)
        prepared = Prepared(_without(batch, tally.errors), tally.errors, (), None)
        if policy != "error" and tally.any_too_long and (prepared.batch.lengths > info.max_tokens).any():
            prompt_ids = await self._prompt_ids(prompt, hold) if prompt.text else None
            prepared = await self._truncated(prepared, call, policy, prompt_ids, info)
        return prepared

    async def refuse_certainly_too_long(self, call: Call, info: ModelInfo) -> Call:
        """Return the call, with an error for each input that is certainly too long. Nothing is tokenized.

        Raises:
            GatewayError: the call is refused as a whole.
        """
        if are_texts(call.inputs):
            if sum(map(len, call.inputs)) <= LONG_CHARS:
                return call
            tally = self._tally(call, self._policy(call), info)
            await self._judge_length(tally, range(len(call.inputs)), call.inputs, call, info)
        elif are_pairs(call.inputs):
            tally = self._tally(call, "error", info)
            joined = [f"{first} {second}" for first, second in call.inputs]
            await self._judge_length(tally, range(len(joined)), joined, call, info)
        else:
            if sum(map(len, call.inputs)) > self._max_tokens:
                raise TooManyTokens(f"A request has at most {self._max_tokens} token ids.", "input")
            return call
        return replace(call, refused={**call.refused, **tally.errors}) if tally.errors else call

    async def _judge_length(
        self, tally: Tally, indices: Sequence[int], texts: Texts, call: Call, info: ModelInfo
    ) -> None:
        """Judge texts by their length. Those of ordinary length are not looked at."""
        all_count = sum(map(len, texts)) > self.max_tokens(call)
        special = len(info.prefix) + len(info.suffix)
        yielder = LoopYielder()
        for index, text in zip(indices, texts, strict=True):
            if index not in call.refused and (all_count or len(text) > LONG_CHARS):
                tally.add_least(index, least_tokens(text, info.token_span) + special)
                await yielder.yield_to_loop(ONE_INPUT + len(text) // CHARS_OF_A_NUMBER)

    def _tally(self, call: Call, policy: Truncate, info: ModelInfo) -> Tally:
        return Tally(info, policy, self.max_tokens(call), partial=call.options.partial)

    def _policy(self, call: Call) -> Truncate:
        """Return what happens to an input that is too long; only dense vectors of windows can be averaged."""
        policy = call.options.truncate or self._serving.truncate
        if are_pairs(call.inputs) or (policy == "mean" and set(call.outputs) - {"dense"}):
            return "error"
        return policy

    async def _tokenized(
        self, call: Call, prompt: str, info: ModelInfo, tally: Tally, sliced: SlicedTexts
    ) -> Batch:
        """Return the ids of each input; none of one that the tally has an error of."""
        indices: Sequence[int] = range(len(call.inputs))
        inputs = call.inputs
        if tally.errors:
            indices = [index for index in indices if index not in tally.errors]
            inputs = cast(Inputs, [call.inputs[index] for index in indices])
        pairs = None
        if not inputs:
            return _spread(Batch.of([]), indices, len(call.inputs))
        if are_pairs(inputs):
            if not info.takes_pairs:
                raise InvalidRequest("The model takes no pairs of texts.", "input")
            texts, pairs = [first for first, _ in inputs], [second for _, second in inputs]
        elif are_texts(inputs):
            texts = inputs
        elif self._serving.token_ids == "native":
            tokenized = await _native(inputs, info)
            tally.add(indices, tokenized)
            return _spread(tokenized.batch, indices, len(call.inputs))
        else:
            indices, texts = await self._decoded(call, inputs, indices, info, tally)
        if not texts:
            return _spread(Batch.of([]), indices, len(call.inputs))

        def judge(rows: range, tokenized: Tokenized) -> None:
            tally.add(indices[rows.start : rows.stop], tokenized)

        return _spread(await sliced.tokenize(judge, prompt, texts, pairs), indices, len(call.inputs))

    async def _decoded(
        self, call: Call, inputs: IdLists, indices: Sequence[int], info: ModelInfo, tally: Tally
    ) -> tuple[Sequence[int], Texts]:
        """Return the texts of ids of OpenAI's vocabulary, and which inputs these are."""
        if self._serving.token_ids == "reject":
            raise InvalidTokenIds(REMEDY, "input")
        decoded = dict(zip(indices, await self._cl100k.texts(inputs), strict=True))
        tally.refuse({index: error for index, error in decoded.items() if isinstance(error, GatewayError)})
        texts = {index: text for index, text in decoded.items() if isinstance(text, str)}
        by_length = self._tally(call, self._policy(call), info)
        await self._judge_length(by_length, list(texts), list(texts.values()), call, info)
        tally.refuse(by_length.errors)
        left = [index for index in texts if index not in by_length.errors]
        return left, [texts[index] for index in left]

    async def _truncated(
        self,
        prepared: Prepared,
        call: Call,
        policy: Literal["right", "left", "mean"],
        prompt_ids: TokenIds | None,
        info: ModelInfo,
    ) -> Prepared:
        """Cut the inputs that are too long, or divide them into windows.

        Raises:
            GatewayError: the prompt leaves no room for a text, or the windows together have too many tokens.
        """
        tokens, most = 0, self.max_tokens(call)
        rows = _Rows()
        truncated: list[int] = []
        yielder = LoopYielder()
        for index, ids in enumerate(prepared.batch.split()):
            await yielder.yield_to_loop(ONE_INPUT)
            if index in prepared.errors:
                rows.add_failed(index, prepared.errors[index])
                continue
            if len(ids) <= info.max_tokens:
                tokens += len(ids)
                rows.add(index, [ids], [len(ids)])
                continue
            leading = 0 if prompt_ids is None else prompt_tokens(ids, prompt_ids, info)
            tokens += tokens_left(ids, info, policy, leading)
            if tokens > most:  # before the windows are made
                raise too_many(most, tokens)
            try:
                windows, text_tokens, was_cut = truncate(ids, info, policy, f"input[{index}]", leading)
            except ContextLengthExceeded as error:
                if not call.options.partial:
                    raise
                rows.add_failed(index, error)
                continue
            rows.add(index, windows, text_tokens)
            if was_cut:
                truncated.append(index)
        return rows.prepared(truncated, inputs=len(prepared.batch))

    async def _prompt_ids(self, prompt: Prompt, hold: Hold | None) -> TokenIds:
        """Return the ids of a prompt alone."""
        tokenized = await self._tokenizer.tokenize([prompt.text], hold=hold)
        for error in tokenized.errors.values():
            raise error
        return tokenized.batch.ids


class _Rows:
    """The rows of a call, as they are added in the order of its inputs."""

    def __init__(self) -> None:
        self._ids: list[TokenIds] = []
        self._inputs: list[int] = []
        self._weights: list[int] = []
        self._errors: dict[int, GatewayError] = {}

    def add(self, index: int, windows: Sequence[TokenIds], text_tokens: Sequence[int]) -> None:
        """Add an input: its ids, or those of its windows, and how many tokens of text each has."""
        self._ids += windows
        self._inputs += [index] * len(windows)
        self._weights += text_tokens

    def add_failed(self, index: int, error: GatewayError) -> None:
        """Add an input that has an error and no ids."""
        self._errors[len(self._ids)] = error
        self.add(index, [np.empty(0, np.int32)], [0])

    def prepared(self, truncated: Sequence[int], inputs: int) -> Prepared:
        """Return all rows.

        Args:
            truncated: inputs that were cut.
            inputs: how many inputs there are.
        """
        windows = (
            Windows(np.array(self._inputs), np.array(self._weights)) if len(self._ids) > inputs else None
        )
        return Prepared(Batch.of(self._ids), self._errors, truncated, windows)


async def _native(inputs: IdLists, info: ModelInfo) -> Tokenized:
    rows: list[TokenIds] = []
    errors: dict[int, GatewayError] = {}
    yielder = LoopYielder()
    for index, ids in enumerate(inputs):
        row = native(ids, info)
        if isinstance(row, InvalidTokenIds):
            errors[index] = row
            row = np.empty(0, np.int32)
        rows.append(row)
        await yielder.yield_to_loop(max(ONE_INPUT, len(ids)))
    return Tokenized(Batch.of(rows), errors)


def _spread(batch: Batch, indices: Sequence[int], inputs: int) -> Batch:
    """Return a batch of some inputs of a call as one of all of them; the others have no ids.

    Args:
        batch: the ids.
        indices: which inputs these are, ascending.
        inputs: the number of all inputs.
    """
    if len(indices) == inputs:
        return batch
    lengths = np.zeros(inputs, np.int32)
    lengths[np.array(indices, np.int64)] = batch.lengths
    return Batch(batch.ids, lengths, batch.segments)


def _without(batch: Batch, errors: Mapping[int, GatewayError]) -> Batch:
    """Return the batch without the tokens of inputs that have errors."""
    if not errors:
        return batch
    lengths = batch.lengths.copy()
    lengths[list(errors)] = 0
    is_left = np.repeat(lengths > 0, batch.lengths)
    segments = None if batch.segments is None else batch.segments[is_left]
    return Batch(batch.ids[is_left], lengths, segments)
