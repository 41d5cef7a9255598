"""From what a client sent to rows that the model takes: prompts, tokenizing, policies, limits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

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
    too_long,
    truncate,
)
from embeddings_gateway.serving.prepare.tokenize import TokenizeCoalescer, Tokenized
from embeddings_gateway.serving.served import Call, IdLists, Inputs, Pairs, Texts, are_pairs, are_texts
from embeddings_gateway.serving.yield_to_loop import ONE_INPUT, LoopYielder


class Prepared(NamedTuple):
    """The rows that a call has the model compute.

    Attributes:
        batch: the token ids of each: one row for each input, in order, unless there are windows.
        errors: row -> why it has no ids, where partial results were asked for.
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
        max_tokens: tokens of one call.
        tokenizer: the model's.
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
        """Return the prompt that goes before the inputs; none can go before native token ids, or pairs.

        Raises:
            InvalidRequest: the model has none for this input type, or it is asked for before token ids.
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
        """Return how many tokens a call may have: no more than a request may, and than may wait of its class.

        Ids of OpenAI's vocabulary are held to the bound of a request as such: clients that send them fill requests
        up to it by their own count, and cannot know that the model's is higher. The queue bounds what they become.
        """
        max_waiting = max_tokens_of(call.caller.traffic, self._serving.max_queue_tokens)
        were_counted = isinstance(call.inputs[0], list) and self._serving.token_ids != "native"
        return max_waiting if were_counted else min(max_waiting, self._max_tokens)

    async def prepare(self, call: Call, info: ModelInfo, prompt: Prompt) -> Prepared:
        """Return the rows of a call, with a prompt before each text.

        Raises:
            GatewayError: the call is refused.
        """
        policy = self._policy(call)
        batch, errors = await self._tokenized(call, prompt.text, info)
        faults = _faults(batch, errors, info)
        errors = {**errors, **faults}
        is_too_long = batch.lengths > info.max_tokens
        if policy == "error" and is_too_long.any():
            too_many = _too_long(batch, is_too_long, info)
            faults = {**too_many, **faults}
            errors = {**too_many, **errors}
        fatal = [row for row, error in errors.items() if not (call.options.partial and error.of_the_input)]
        if fatal:
            raise errors[min(fatal)]
        prepared = Prepared(_without(batch, faults), errors, (), None)
        if policy != "error" and is_too_long.any():
            prepared = await self._fit(prepared, call, policy, prompt, info)
        self._check_total(prepared.batch.tokens, call)
        return prepared

    def _policy(self, call: Call) -> Truncate:
        """Return what happens to an input that is too long; only dense vectors of windows can be averaged."""
        policy = call.options.truncate or self._serving.truncate
        if are_pairs(call.inputs) or (policy == "mean" and set(call.outputs) - {"dense"}):
            return "error"
        return policy

    async def _tokenized(self, call: Call, prompt: str, info: ModelInfo) -> Tokenized:
        """Return the ids of each input, of whatever length, or why it has none."""
        if not call.refused:
            tokenized = await self._tokenize(call.inputs, prompt, info)
        else:
            indices = [index for index in range(len(call.inputs)) if index not in call.refused]
            inputs = cast(Inputs, [call.inputs[index] for index in indices])
            found = await self._tokenize(inputs, prompt, info) if inputs else NOTHING
            tokenized = _spread(found, indices, call.refused, len(call.inputs))
        if not tokenized.errors:
            return tokenized
        errors = {index: error.about(f"input[{index}]") for index, error in tokenized.errors.items()}
        return Tokenized(tokenized.batch, errors)

    async def _tokenize(self, inputs: Inputs, prompt: str, info: ModelInfo) -> Tokenized:
        if are_texts(inputs):
            return await self._tokenizer.tokenize(_prefixed(prompt, inputs))
        if are_pairs(inputs):
            return await self._tokenize_pairs(inputs, info)
        ids = inputs
        if sum(map(len, ids)) > self._max_tokens:  # before any work on each of them
            raise TooManyTokens(f"A request has at most {self._max_tokens} token ids.", "input")
        match self._serving.token_ids:
            case "native":
                return await _native(ids, info)
            case "reject":
                raise InvalidTokenIds(REMEDY, "input")
            case "cl100k" | "auto":
                decoded = await self._cl100k.texts(ids)
        errors = {index: text for index, text in enumerate(decoded) if isinstance(text, GatewayError)}
        indices = [index for index, text in enumerate(decoded) if isinstance(text, str)]
        texts = [text for text in decoded if isinstance(text, str)]
        found = await self._tokenizer.tokenize(_prefixed(prompt, texts)) if texts else NOTHING
        return found if not errors else _spread(found, indices, errors, len(ids))

    async def _tokenize_pairs(self, pairs: Pairs, info: ModelInfo) -> Tokenized:
        if not info.takes_pairs:
            raise InvalidRequest("The model takes no pairs of texts.", "input")
        return await self._tokenizer.tokenize([first for first, _ in pairs], [second for _, second in pairs])

    async def _fit(
        self,
        prepared: Prepared,
        call: Call,
        policy: Literal["right", "left", "mean"],
        prompt: Prompt,
        info: ModelInfo,
    ) -> Prepared:
        """Cut the inputs that are too long, or spread them over windows."""
        prompt_ids = await self._prompt_ids(prompt) if prompt.text else None
        rows: list[TokenIds] = []
        errors: dict[int, GatewayError] = {}
        truncated: list[int] = []
        row_inputs: list[int] = []
        weights: list[int] = []
        turns = LoopYielder()
        for index, ids in enumerate(prepared.batch.split()):
            await turns.yield_to_loop(ONE_INPUT)
            windows: Sequence[TokenIds] = (ids,)
            text_tokens: Sequence[int] = (len(ids),)
            if index in prepared.errors:
                errors[len(rows)] = prepared.errors[index]
            elif len(ids) > info.max_tokens:
                try:
                    kept = 0 if prompt_ids is None else prompt_tokens(ids, prompt_ids, info)
                    windows, text_tokens, was_cut = truncate(ids, info, policy, f"input[{index}]", kept)
                    if was_cut:
                        truncated.append(index)
                except ContextLengthExceeded as error:
                    if not call.options.partial:
                        raise
                    errors[len(rows)] = error
                    windows = (ids[:0],)
            rows += windows
            row_inputs += [index] * len(windows)
            weights += text_tokens
        has_windows = len(rows) > len(prepared.batch)
        return Prepared(
            batch=Batch.of(rows),
            errors=errors,
            truncated=truncated,
            windows=Windows(np.array(row_inputs), np.array(weights)) if has_windows else None,
        )

    async def _prompt_ids(self, prompt: Prompt) -> TokenIds:
        """Return the ids of a prompt alone."""
        tokenized = await self._tokenizer.tokenize([prompt.text])
        for error in tokenized.errors.values():
            raise error
        return tokenized.batch.ids

    def _check_total(self, tokens: int, call: Call) -> None:
        most = self.max_tokens(call)
        if tokens > most:
            raise TooManyTokens(f"A request has at most {most} tokens, this one {tokens}.", "input")


NOTHING = Tokenized(Batch.of([]), {})


async def _native(inputs: IdLists, info: ModelInfo) -> Tokenized:
    rows: list[TokenIds] = []
    errors: dict[int, GatewayError] = {}
    turns = LoopYielder()
    for index, ids in enumerate(inputs):
        row = native(ids, info)
        if isinstance(row, InvalidTokenIds):
            errors[index] = row
            row = np.empty(0, np.int32)
        rows.append(row)
        await turns.yield_to_loop(max(ONE_INPUT, len(ids)))
    return Tokenized(Batch.of(rows), errors)


def _prefixed(prompt: str, texts: Texts) -> Texts:
    return [prompt + text for text in texts] if prompt else texts


def _spread(
    tokenized: Tokenized, indices: Sequence[int], others: Mapping[int, GatewayError], inputs: int
) -> Tokenized:
    """Return what was tokenized as some of the inputs of a call, of which the others have errors already.

    Args:
        tokenized: of the inputs that have none.
        indices: which inputs these are, ascending.
        others: input -> its error.
        inputs: how many there are.
    """
    lengths = np.zeros(inputs, np.int32)
    lengths[np.array(indices, np.int64)] = tokenized.batch.lengths
    errors = {indices[index]: error for index, error in tokenized.errors.items()}
    batch = tokenized.batch
    return Tokenized(Batch(batch.ids, lengths, batch.segments), {**others, **errors})


def _faults(batch: Batch, errors: Mapping[int, GatewayError], info: ModelInfo) -> dict[int, GatewayError]:
    """Return the errors of inputs that the tokenizer took, but the model cannot.

    A vocabulary may have no token for a blank, and a model fewer tokens than its tokenizer.
    """
    faults: dict[int, GatewayError] = {}
    if not batch.lengths.all():
        for index in np.flatnonzero(batch.lengths == 0).tolist():
            if index not in errors:
                faults[index] = InvalidRequest("The model has no token for this input.", f"input[{index}]")
    if batch.tokens and int(batch.ids.max()) >= info.vocabulary_size:
        owners = np.repeat(np.arange(len(batch)), batch.lengths)
        for index in np.unique(owners[batch.ids >= info.vocabulary_size]).tolist():
            message = "The model has no vector for a token of this input."
            faults[index] = InvalidRequest(message, f"input[{index}]")
    return faults


def _too_long(
    batch: Batch, is_too_long: NDArray[np.bool_], info: ModelInfo
) -> dict[int, ContextLengthExceeded]:
    """Return the error of each input that is too long and not to be cut."""
    return {
        index: too_long(int(batch.lengths[index]), info, f"input[{index}]")
        for index in np.flatnonzero(is_too_long).tolist()
    }


def _without(batch: Batch, faults: Mapping[int, GatewayError]) -> Batch:
    """Return the batch with nothing in the place of the inputs that have errors."""
    if not faults:
        return batch
    lengths = batch.lengths.copy()
    lengths[list(faults)] = 0
    is_left = np.repeat(lengths > 0, batch.lengths)
    segments = None if batch.segments is None else batch.segments[is_left]
    return Batch(batch.ids[is_left], lengths, segments)
