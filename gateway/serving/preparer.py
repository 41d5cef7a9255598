"""From what a client sent to token ids that the model takes: prompts, tokenizing, policies, limits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, cast

from embeddings_gateway.backends.base import ModelInfo, TokenIds
from embeddings_gateway.config import ServingConfig, Truncate
from embeddings_gateway.errors import GatewayError, InvalidRequest, InvalidTokenIds, TooManyTokens
from embeddings_gateway.serving import tokens
from embeddings_gateway.serving.ask import Ask, IdLists, Texts, are_texts
from embeddings_gateway.serving.averages import Averages
from embeddings_gateway.serving.cl100k import REMEDY, Cl100k
from embeddings_gateway.serving.gathering import Tokenize
from embeddings_gateway.serving.pace import ONE, Pace
from embeddings_gateway.serving.prompts import NO_PROMPT, Prompt, ids_kept, prompt_for
from embeddings_gateway.serving.tokens import Fitted


class Prepared(NamedTuple):
    """Inputs that the model takes.

    Attributes:
        rows: the ids of each vector that is to be computed, or why there is none, where partial results were
            asked for: one for each input, in order, unless there are averages.
        truncated: inputs that were cut.
        averages: which rows are windows of which input; ``None`` where each row is an input.
    """

    rows: list[TokenIds | GatewayError]
    truncated: list[int]
    averages: Averages | None


class Preparer:
    """Prepares requests for one model.

    Args:
        serving: the model's policies.
        tokens_max: tokens of one request.
        tokenize: the model's tokenizer.
        cl100k: the vocabulary of OpenAI's clients.
    """

    def __init__(self, serving: ServingConfig, tokens_max: int, tokenize: Tokenize, cl100k: Cl100k) -> None:
        self._serving = serving
        self._tokens_max = tokens_max
        self._tokenize = tokenize
        self._cl100k = cl100k

    async def prepare(self, ask: Ask, info: ModelInfo, prompt: Prompt) -> Prepared:
        """Return the ids of each input, with a prompt before it.

        Raises:
            GatewayError: the request is refused.
        """
        truncate = ask.truncate or self._serving.truncate
        given = await self._given(ask, prompt.words, info)
        alone = await self._alone(prompt.words, given, info) if truncate != "error" else None
        rows: list[TokenIds | GatewayError] = []
        truncated: list[int] = []
        averages = Averages([], []) if truncate == "mean" else None
        pace = Pace()
        for index, ids in enumerate(given):
            await pace.after(ONE)
            try:
                fitted = _fitted(ids, info, truncate, f"input[{index}]", alone)
            except GatewayError as error:
                if not ask.partial or not error.of_the_input:
                    raise
                fitted = Fitted([error], [0], False)
            rows += fitted.windows
            if averages is not None:
                averages.add(index, fitted.text_tokens)
            if fitted.truncated:
                truncated.append(index)
        self._check_total(rows, ask)
        return Prepared(rows, truncated, averages if len(rows) > len(given) else None)

    def prompt_for(self, ask: Ask, info: ModelInfo) -> Prompt:
        """Return the prompt that goes before the inputs; none can go before native token ids.

        Raises:
            InvalidRequest: the model has none for this role, or it is asked for before native token ids.
        """
        prompt = prompt_for(ask.role, info)
        if are_texts(ask.inputs) or self._serving.token_ids != "native":
            return prompt
        if ask.role is not None and prompt.words:
            raise InvalidRequest("No prompt can go before token ids: send texts.", "input_type")
        return NO_PROMPT

    async def _alone(
        self, words: str, given: Sequence[TokenIds | GatewayError], info: ModelInfo
    ) -> TokenIds | None:
        """Return the ids of the words of a prompt alone, if an input is too long."""
        if not words or all(isinstance(ids, GatewayError) or len(ids) <= info.max_tokens for ids in given):
            return None
        (ids,) = await self._tokenize([words])
        if isinstance(ids, GatewayError):
            raise ids
        return ids

    async def _given(self, ask: Ask, words: str, info: ModelInfo) -> Sequence[TokenIds | GatewayError]:
        """Return the ids of each input, of whatever length, or why it has none."""
        if not ask.refused:
            return await self._ids(ask.inputs, words, info)
        left = [one for index, one in enumerate(ask.inputs) if index not in ask.refused]
        ids = iter(await self._ids(cast(Texts | IdLists, left), words, info) if left else ())
        return [ask.refused.get(index) or next(ids) for index in range(len(ask.inputs))]

    async def _ids(
        self, inputs: Texts | IdLists, words: str, info: ModelInfo
    ) -> Sequence[TokenIds | GatewayError]:
        if are_texts(inputs):
            return await self._tokenize(_after(words, inputs))
        if sum(map(len, inputs)) > self._tokens_max:  # before any work on each of them
            raise TooManyTokens(f"A request has at most {self._tokens_max} token ids.", "input")
        match self._serving.token_ids:
            case "native":
                return await _native(inputs, info)
            case "reject":
                raise InvalidTokenIds(REMEDY, "input")
            case "cl100k" | "auto":
                decoded = await self._cl100k.texts(inputs)
        known = [text for text in decoded if isinstance(text, str)]
        ids = iter(await self._tokenize(_after(words, known)))
        return [next(ids) if isinstance(text, str) else text for text in decoded]

    def _check_total(self, inputs: Sequence[TokenIds | GatewayError], ask: Ask) -> None:
        """Hold a request to its bound in tokens.

        Ids of OpenAI's vocabulary were held to it as such: clients that send them fill requests up to it by
        their own count, and cannot know that the model's is higher. Of those the queue bounds the rest.
        """
        counted = not are_texts(ask.inputs) and self._serving.token_ids != "native"
        most = self._serving.max_queue_tokens if counted else self._tokens_max
        total = sum(len(ids) for ids in inputs if not isinstance(ids, GatewayError))
        if total > most:
            raise TooManyTokens(f"A request has at most {most} tokens, this one {total}.", "input")


async def _native(inputs: IdLists, info: ModelInfo) -> Sequence[TokenIds | GatewayError]:
    pace = Pace()
    found = []
    for ids in inputs:
        found.append(tokens.native(ids, info))
        await pace.after(len(ids))
    return found


def _after(words: str, texts: Sequence[str]) -> Sequence[str]:
    return [words + text for text in texts] if words else texts


def _fitted(
    ids: TokenIds | GatewayError, info: ModelInfo, truncate: Truncate, where: str, prompt: TokenIds | None
) -> Fitted:
    if isinstance(ids, GatewayError):
        raise ids.about(where)
    kept = 0 if prompt is None else ids_kept(ids, prompt, info)
    return tokens.fit(ids, info, truncate, where, kept)
