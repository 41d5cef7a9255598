"""The header of a GGUF file, read without the engine, which ends the process on some headers.

Every length is checked against the file: what leads beyond its end is refused. So is what the engine asserts.
"""

from __future__ import annotations

import math
import mmap
import struct
from collections.abc import Mapping
from pathlib import Path

import msgspec

from embeddings_gateway.backends.base import LoadError
from embeddings_gateway.backends.gguf.bindings import llama

MAGIC = b"GGUF"
VERSIONS = (2, 3)
START = struct.Struct("<4sIQQ")  # magic, version, tensors, metadata entries
U32, U64 = struct.Struct("<I"), struct.Struct("<Q")
SCALARS = {
    number: struct.Struct(f"<{code}")
    for number, code in {
        0: "B",
        1: "b",
        2: "H",
        3: "h",
        4: "I",
        5: "i",
        6: "f",
        7: "?",
        10: "Q",
        11: "q",
        12: "d",
    }.items()
}
STRING, ARRAY = 8, 9
ENTRY_BYTES_MIN = 12  # the shortest metadata entry: an empty key, its type, nothing else
AXES_MAX = 4  # GGML_MAX_DIMS
# What the engine asserts while it loads, by the end of a key: the least and the greatest value.
BOUNDS = {
    ".block_count": (1, 512),  # LLAMA_MAX_LAYERS
    ".expert_count": (0, 1024),  # LLAMA_MAX_EXPERTS
}
FLOATS = ("f32", "f16", "bf16")
TENSOR_TYPES = {
    value: name.removeprefix("GGML_TYPE_").lower()
    for name, value in vars(llama).items()
    if name.startswith("GGML_TYPE_") and isinstance(value, int)
} | {30: "bf16", 34: "tq1_0", 35: "tq2_0"}  # the binding has no names for these
# Tensors of two axes that are not multiplied by tokens on the way to a vector.
TABLES = ("token_embd.", "position_embd.", "token_types.", "output.")


class GgufHeader(msgspec.Struct, frozen=True):
    """What a header says.

    Attributes:
        numbers: metadata key -> value, for the keys whose value is one number.
        matrices: tensor type -> elements, of the weights that tokens are multiplied by.
    """

    numbers: dict[str, int | float]
    matrices: dict[str, int]

    @property
    def quantised(self) -> bool:
        """Whether any matrix has weights of fewer than 16 bits."""
        return any(kind not in FLOATS for kind in self.matrices)


def read_header(path: Path) -> GgufHeader:
    """Read the header of a file.

    Raises:
        LoadError: it is no GGUF file, is cut short or damaged, or would end the process that loads it.
    """
    with path.open("rb") as file:
        if file.read(len(MAGIC)) != MAGIC:
            raise LoadError(f"path: {path} is not a GGUF file")
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            try:
                return _Reader(data).read()
            except LoadError as error:
                raise LoadError(f"{path}: {error}") from None


def weights_dtype(stated: str, matrices: Mapping[str, int]) -> str:
    """Return the dtype of a model's weights.

    That is what the file states, such as ``q4_k_m`` for a mixture. But where its matrices say otherwise, it is the
    type of most of their elements.
    """
    if not matrices:
        return stated
    commonest = max(matrices, key=matrices.__getitem__)
    if commonest == stated:
        return stated
    is_mixture = any(stated.startswith(kind) for kind in matrices if kind not in FLOATS)
    return stated if is_mixture else commonest


class _Reader:
    """Reads values one after the other."""

    def __init__(self, data: mmap.mmap) -> None:
        self._data = data
        self._at = 0

    def read(self) -> GgufHeader:
        tensors, entries = self._start()
        numbers: dict[str, int | float] = {}
        for _ in range(entries):
            key = self._string().decode("utf-8", "replace")
            value = self._value(key, self._number(U32))
            if value is not None:
                numbers[key] = value
        check_numbers(numbers)
        return GgufHeader(numbers, self._matrices(tensors))

    def _start(self) -> tuple[int, int]:
        _magic, version, tensors, entries = self._take(START)
        if version not in VERSIONS:
            raise LoadError(f"GGUF version {version}, but only {VERSIONS} are known; convert it again")
        if tensors == 0:
            raise LoadError("holds no tensors (a vocabulary, or the index of a split model)")
        if (tensors + entries) * ENTRY_BYTES_MIN > len(self._data):
            raise LoadError("cut short or damaged: it is too small for what its header announces")
        return int(tensors), int(entries)

    def _value(self, key: str, kind: int) -> int | float | None:
        """Read a value, and return it if it is a number."""
        if kind == STRING:
            self._string()
        elif kind == ARRAY:
            self._array(key)
        elif kind in SCALARS:
            return self._number(SCALARS[kind])
        else:
            raise LoadError(f"damaged: {key} has the unknown type {kind}")
        return None

    def _array(self, key: str) -> None:
        kind, count = self._number(U32), self._number(U64)
        if kind in SCALARS:
            self._skip(count * SCALARS[kind].size)
        elif kind != STRING:
            raise LoadError(f"damaged: {key} is an array of the unknown type {kind}")
        elif key == "tokenizer.ggml.tokens":
            self._tokens(count)
        else:
            for _ in range(self._countable(count)):
                self._string()

    def _tokens(self, count: int) -> None:
        """Read the vocabulary, in which no token may stand twice; the engine cuts them at a NUL."""
        seen = set[bytes]()
        for i in range(self._countable(count)):
            token = self._string().partition(b"\0")[0] or b"[EMPTY_%d]" % i
            if token in seen:
                raise LoadError(f"the vocabulary has token {i} twice: convert the model again")
            seen.add(token)

    def _matrices(self, tensors: int) -> dict[str, int]:
        elements: dict[str, int] = {}
        for _ in range(tensors):
            name = self._string()
            axes = self._number(U32)
            if axes > AXES_MAX:
                raise LoadError(f"damaged: a tensor of {axes} axes")
            shape = [self._number(U64) for _ in range(axes)]
            kind = self._number(U32)
            self._skip(U64.size)  # where its data begin
            if axes > 1 and not name.decode("utf-8", "replace").startswith(TABLES):
                dtype = TENSOR_TYPES.get(kind, f"type {kind}")
                elements[dtype] = elements.get(dtype, 0) + math.prod(shape)
        return elements

    def _string(self) -> bytes:
        start = self._at + U64.size
        self._skip(U64.size + self._peek_length())
        return self._data[start : self._at]

    def _peek_length(self) -> int:
        if self._at + U64.size > len(self._data):
            raise self._cut_short()
        return int(U64.unpack_from(self._data, self._at)[0])

    def _number(self, form: struct.Struct) -> int:
        return self._take(form)[0]

    def _take(self, form: struct.Struct) -> tuple[int, ...]:
        start = self._at
        self._skip(form.size)
        return form.unpack_from(self._data, start)

    def _skip(self, size: int) -> None:
        if self._at + size > len(self._data):
            raise self._cut_short()
        self._at += size

    def _countable(self, strings: int) -> int:
        if strings * U64.size > len(self._data):
            raise self._cut_short()
        return strings

    def _cut_short(self) -> LoadError:
        return LoadError(f"cut short or damaged: its header goes on after {len(self._data)} bytes")


def check_numbers(numbers: Mapping[str, int | float]) -> None:
    """Refuse what the engine answers by ending the process, and parts of a model whose rest nobody has summed."""
    if numbers.get("split.count", 1) > 1:
        raise LoadError(f"one part of {numbers['split.count']}; merge them with llama-gguf-split --merge")
    for key, value in numbers.items():
        for end, (least, greatest) in BOUNDS.items():
            if key.endswith(end) and not least <= value <= greatest:
                raise LoadError(f"{key} is {value}; llama.cpp takes from {least} to {greatest}")
