"""From what a client sent to token ids that the model takes: prompts, tokenizing, policies, limits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from backends.base import ModelInfo, TokenIds
from gateway.config import ServingConfig, Truncate
from gateway.errors import GatewayError, InvalidRequest, InvalidTokenIds, TooManyTokens
from gateway.serving import tokens
from gateway.serving.ask import Ask, IdLists, Role, are_texts
from gateway.serving.cl100k import REMEDY, Cl100k
from gateway.serving.gathering import Tokenize
from gateway.serving.pace import ONE, Pace
from gateway.serving.tokens import Fitted


class Prepared(NamedTuple):
    """Inputs that the model takes.

    Attributes:
        inputs: the ids of each input, or why it has none, where partial results were asked for.
        truncated: inputs that were cut.
    """

    inputs: list[TokenIds | GatewayError]
    truncated: list[int]


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

    async def prepare(self, ask: Ask, info: ModelInfo) -> Prepared:
        """Return the ids of each input.

        Raises:
            GatewayError: the request is refused.
        """
        truncate = ask.truncate or self._serving.truncate
        inputs: list[TokenIds | GatewayError] = []
        truncated: list[int] = []
        pace = Pace()
        for index, ids in enumerate(await self._ids(ask, info)):
            await pace.after(ONE)
            try:
                fitted = _fitted(ids, info, truncate, f"input[{index}]")
            except GatewayError as error:
                if not ask.partial:
                    raise
                inputs.append(error)
                continue
            inputs.append(fitted.ids)
            if fitted.truncated:
                truncated.append(index)
        self._check_total(inputs)
        return Prepared(inputs, truncated)

    async def _ids(self, ask: Ask, info: ModelInfo) -> Sequence[TokenIds | GatewayError]:
        if are_texts(ask.inputs):
            return await self._tokenize(prompted(ask.inputs, info, ask.role))
        if sum(map(len, ask.inputs)) > self._tokens_max:  # before any work on each of them
            raise TooManyTokens(f"A request has at most {self._tokens_max} token ids.", "input")
        match self._serving.token_ids:
            case "native":
                return await _native(ask.inputs, info)
            case "reject":
                raise InvalidTokenIds(REMEDY, "input")
            case "cl100k" | "auto":
                decoded = await self._cl100k.texts(ask.inputs)
        known = [text for text in decoded if isinstance(text, str)]
        ids = iter(await self._tokenize(prompted(known, info, ask.role)))
        return [next(ids) if isinstance(text, str) else text for text in decoded]

    def _check_total(self, inputs: Sequence[TokenIds | GatewayError]) -> None:
        total = sum(len(ids) for ids in inputs if not isinstance(ids, GatewayError))
        if total > self._tokens_max:
            raise TooManyTokens(
                f"A request has at most {self._tokens_max} tokens, this one {total}.", "input"
            )


async def _native(inputs: IdLists, info: ModelInfo) -> Sequence[TokenIds | GatewayError]:
    pace = Pace()
    found = []
    for ids in inputs:
        found.append(tokens.native(ids, info))
        await pace.after(len(ids))
    return found


def _fitted(ids: TokenIds | GatewayError, info: ModelInfo, truncate: Truncate, where: str) -> Fitted:
    if isinstance(ids, GatewayError):
        raise ids.about(where)
    return tokens.fit(ids, info, truncate, where)


def prompted(texts: Sequence[str], info: ModelInfo, role: Role | None) -> Sequence[str]:
    """Return the texts with the model's words for this role before each; without a role, its default ones.

    Raises:
        InvalidRequest: the model has prompts, but none for this role.
    """
    name = role or info.default_prompt
    if name is None or not info.prompts:
        return texts
    if name not in info.prompts:
        known = ", ".join(sorted(info.prompts))
        raise InvalidRequest(f"The model has no prompt of that name; it has: {known}.", "input_type")
    words = info.prompts[name]
    return [words + text for text in texts] if words else texts
