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
        errors = {**errors, **_model_errors(batch, errors, info)}
        is_too_long = batch.lengths > info.max_tokens
        if policy == "error" and is_too_long.any():
            errors = {**_too_long(batch, is_too_long, info), **errors}
        fatal = [row for row, error in errors.items() if not (call.options.partial and error.of_the_input)]
        if fatal:
            raise errors[min(fatal)]
        prepared = Prepared(_without(batch, errors), errors, (), None)
        if policy != "error" and is_too_long.any():
            prepared = await self._truncated(prepared, call, policy, prompt, info)
        self._check_total(prepared.batch.tokens, call)
        return prepared

    def _policy(self, call: Call) -> Truncate:
        """Return what happens to an input that is too long; only dense vectors of windows can be averaged."""
        policy = call.options.truncate or self._serving.truncate
        if are_pairs(call.inputs) or (policy == "mean" and set(call.outputs) - {"dense"}):
            return "error"
        return policy

    async def _tokenized(self, call: Call, prompt: str, info: ModelInfo) -> Tokenized:
        """Return the ids of each input, of any length, or its error."""
        if not call.refused:
            tokenized = await self._tokenize(call.inputs, prompt, info)
        else:
            indices = [index for index in range(len(call.inputs)) if index not in call.refused]
            inputs = cast(Inputs, [call.inputs[index] for index in indices])
            tokenized = await self._tokenize(inputs, prompt, info) if inputs else NOTHING
            tokenized = _with_refused(tokenized, indices, call.refused, len(call.inputs))
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
        tokenized = await self._tokenizer.tokenize(_prefixed(prompt, texts)) if texts else NOTHING
        return _with_refused(tokenized, indices, errors, len(ids)) if errors else tokenized

    async def _tokenize_pairs(self, pairs: Pairs, info: ModelInfo) -> Tokenized:
        if not info.takes_pairs:
            raise InvalidRequest("The model takes no pairs of texts.", "input")
        return await self._tokenizer.tokenize([first for first, _ in pairs], [second for _, second in pairs])

    async def _truncated(
        self,
        prepared: Prepared,
        call: Call,
        policy: Literal["right", "left", "mean"],
        prompt: Prompt,
        info: ModelInfo,
    ) -> Prepared:
        """Cut the inputs that are too long, or divide them into windows."""
        prompt_ids = await self._prompt_ids(prompt) if prompt.text else None
        rows: list[TokenIds] = []
        errors: dict[int, GatewayError] = {}
        truncated: list[int] = []
        row_inputs: list[int] = []
        weights: list[int] = []
        yielder = LoopYielder()
        for index, ids in enumerate(prepared.batch.split()):
            await yielder.yield_to_loop(ONE_INPUT)
            windows: Sequence[TokenIds] = (ids,)
            text_tokens: Sequence[int] = (len(ids),)
            if index in prepared.errors:
                errors[len(rows)] = prepared.errors[index]
            elif len(ids) > info.max_tokens:
                try:
                    leading = 0 if prompt_ids is None else prompt_tokens(ids, prompt_ids, info)
                    windows, text_tokens, was_cut = truncate(ids, info, policy, f"input[{index}]", leading)
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
        """Refuse a call with more tokens than it may have."""
        most = self.max_tokens(call)
        if tokens > most:
            raise TooManyTokens(f"A request has at most {most} tokens, this one {tokens}.", "input")


NOTHING = Tokenized(Batch.of([]), {})


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


def _prefixed(prompt: str, texts: Texts) -> Texts:
    return [prompt + text for text in texts] if prompt else texts


def _with_refused(
    tokenized: Tokenized, indices: Sequence[int], refused: Mapping[int, GatewayError], inputs: int
) -> Tokenized:
    """Return the inputs of a call of which only some were tokenized.

    Args:
        tokenized: the inputs that were tokenized.
        indices: which inputs these are, ascending.
        refused: the error of each other input.
        inputs: the number of all inputs.
    """
    lengths = np.zeros(inputs, np.int32)
    lengths[np.array(indices, np.int64)] = tokenized.batch.lengths
    errors = {indices[index]: error for index, error in tokenized.errors.items()}
    batch = tokenized.batch
    return Tokenized(Batch(batch.ids, lengths, batch.segments), {**refused, **errors})


def _model_errors(
    batch: Batch, errors: Mapping[int, GatewayError], info: ModelInfo
) -> dict[int, GatewayError]:
    """Return the errors of inputs that the tokenizer accepted, but the model cannot take.

    A vocabulary may have no token for a blank, and a model fewer tokens than its tokenizer.
    """
    model_errors: dict[int, GatewayError] = {}
    if not batch.lengths.all():
        for index in np.flatnonzero(batch.lengths == 0).tolist():
            if index not in errors:
                model_errors[index] = InvalidRequest(
                    "The model has no token for this input.", f"input[{index}]"
                )
    if batch.tokens and int(batch.ids.max()) >= info.vocabulary_size:
        input_indices = np.repeat(np.arange(len(batch)), batch.lengths)
        for index in sorted(set(input_indices[batch.ids >= info.vocabulary_size].tolist())):
            message = "The model has no vector for a token of this input."
            model_errors[index] = InvalidRequest(message, f"input[{index}]")
    return model_errors


def _too_long(
    batch: Batch, is_too_long: NDArray[np.bool_], info: ModelInfo
) -> dict[int, ContextLengthExceeded]:
    return {
        index: too_long(int(batch.lengths[index]), info, f"input[{index}]")
        for index in np.flatnonzero(is_too_long).tolist()
    }


def _without(batch: Batch, errors: Mapping[int, GatewayError]) -> Batch:
    """Return the batch without the tokens of inputs that have errors."""
    if not errors:
        return batch
    lengths = batch.lengths.copy()
    lengths[list(errors)] = 0
    is_left = np.repeat(lengths > 0, batch.lengths)
    segments = None if batch.segments is None else batch.segments[is_left]
    return Batch(batch.ids[is_left], lengths, segments)
