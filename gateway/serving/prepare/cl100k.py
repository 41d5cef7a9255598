"""Token ids of OpenAI's vocabulary cl100k_base, which clients such as LangChain send, back to text.

Needs tiktoken, which is optional. It fetches the vocabulary once, or takes it from ``TIKTOKEN_CACHE_DIR``.
"""

from __future__ import annotations

import asyncio
import math
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Protocol

import msgspec

from embeddings_gateway.backends.redact import without_secrets
from embeddings_gateway.errors import InvalidTokenIds, ModelUnavailable, RetryAfter, TooManyTokens
from embeddings_gateway.log import get_logger
from embeddings_gateway.serving.yield_to_loop import ONE_INPUT, LoopYielder

RETRY_S = 60.0
"""How long after a failure the vocabulary is loaded again, if it is needed."""
MAX_WAIT_S = 30.0
"""How long requests wait for the vocabulary before they are refused."""
MAX_LOAD_S = 60.0
"""How long the process may take that fetches the vocabulary."""
PROGRAM = """
import os, sys
from embeddings_gateway.backends.own_process import end_with_parent
end_with_parent(int(sys.argv[1]))
import msgspec
from tiktoken_ext.openai_public import cl100k_base
sys.stdout.buffer.write(msgspec.msgpack.encode(cl100k_base()))
"""

MAX_CHARS = 8 << 20
"""The most characters that the ids of a request stand for: as many as a body has, if texts are sent."""

REMEDY = (
    "This model does not take token ids. Send texts (in LangChain: check_embedding_ctx_length=False), or "
    "have the operator install the extra cl100k or set token_ids for the model."
)

log = get_logger()


class Encoding(Protocol):
    """The part of ``tiktoken.Encoding`` that is used."""

    def decode_bytes(self, tokens: Sequence[int]) -> bytes:
        """Return the bytes that the tokens stand for. Raises KeyError on an unknown one."""


class Vocabulary(msgspec.Struct):
    """What tiktoken makes an encoding of."""

    name: str
    pat_str: str
    mergeable_ranks: dict[bytes, int]
    special_tokens: dict[str, int]


def load_encoding() -> Encoding:
    """Return cl100k_base; may fetch it, and may raise anything.

    A process fetches it, which is ended after a minute: tiktoken waits for ever for a server that does not answer.
    """
    import tiktoken  # noqa: PLC0415 - optional, and slow to import

    command = [sys.executable, "-P", "-c", PROGRAM, str(os.getpid())]
    try:
        done = subprocess.run(  # noqa: S603 - our own program
            command, stdin=subprocess.DEVNULL, capture_output=True, timeout=MAX_LOAD_S, check=False
        )
    except subprocess.TimeoutExpired:
        raise TimeoutError(f"it was not fetched within {MAX_LOAD_S:g} s") from None
    if done.returncode:
        last = done.stderr.decode(errors="replace").strip().rpartition("\n")[2]
        raise OSError(without_secrets(last))
    vocabulary = msgspec.msgpack.decode(done.stdout, type=Vocabulary)
    return tiktoken.Encoding(**msgspec.structs.asdict(vocabulary))


class Cl100k:
    """The vocabulary, loaded when it is first needed. After a failure loading is tried again a minute later.

    Loading goes on when the request that started it ends. It has a daemon thread of its own: a download may
    hang, and a gateway that stops must not wait for it.
    """

    def __init__(self, load: Callable[[], Encoding] = load_encoding) -> None:
        self._load = load
        self._encoding: Encoding | None = None
        self._loading: asyncio.Future[None] | None = None
        self._began = self._failed_at = -math.inf

    async def texts(self, inputs: Sequence[Sequence[int]]) -> list[str | InvalidTokenIds]:
        """Return the text of each input, or an error for one with an id that is not in the vocabulary.

        Bytes that are not UTF-8, such as a part of a character, become U+FFFD.

        Raises:
            InvalidTokenIds: the vocabulary cannot be loaded.
            TooManyTokens: the texts are too long together: a single id may stand for a hundred characters.
            ModelUnavailable: it is still being loaded.
        """
        encoding = await self._get()
        texts: list[str | InvalidTokenIds] = []
        chars = 0
        yielder = LoopYielder()  # a thread would go on when the request ends
        for ids in inputs:
            text = _decode(encoding, ids)
            texts.append(text)
            chars += len(text) if isinstance(text, str) else 0
            if chars > MAX_CHARS:
                raise TooManyTokens(
                    f"The token ids of a request stand for {MAX_CHARS} characters at most.", "input"
                )
            await yielder.yield_to_loop(ONE_INPUT + len(ids))
        return texts

    async def _get(self) -> Encoding:
        if self._encoding is None and time.monotonic() - self._failed_at >= RETRY_S:
            if self._loading is None:
                self._loading = self._start()
            await asyncio.wait([self._loading], timeout=self._began + MAX_WAIT_S - time.monotonic())
            if self._loading is not None:
                raise ModelUnavailable(
                    "OpenAI's vocabulary is still being loaded.", "input", RetryAfter.VOCABULARY
                )
        if self._encoding is None:
            raise InvalidTokenIds(REMEDY, "input")
        return self._encoding

    def _start(self) -> asyncio.Future[None]:
        loop = asyncio.get_running_loop()
        loading = loop.create_future()
        self._began = time.monotonic()

        def work() -> None:
            try:
                result: Encoding | Exception = self._load()
            except Exception as error:
                result = error
            with suppress(RuntimeError):  # the loop has ended
                loop.call_soon_threadsafe(self._loaded, result)

        threading.Thread(target=work, name="cl100k", daemon=True).start()
        return loading

    def _loaded(self, result: Encoding | Exception) -> None:
        if isinstance(result, Exception):
            self._failed_at = time.monotonic()
            log.warning("cl100k_base cannot be loaded", reason=f"{type(result).__name__}: {result}")
        else:
            self._encoding = result
        if self._loading is not None:
            self._loading.set_result(None)
            self._loading = None


def _decode(encoding: Encoding, ids: Sequence[int]) -> str | InvalidTokenIds:
    try:
        return encoding.decode_bytes(ids).decode(errors="replace")
    except (KeyError, OverflowError):
        return InvalidTokenIds("A token id is not in cl100k_base.")
