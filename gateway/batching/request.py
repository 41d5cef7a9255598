"""The rows of one call: their token ids, and their results as they arrive."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from embeddings_gateway.backends.base import Batch, Column, Output
from embeddings_gateway.errors import GatewayError

Rows = NDArray[np.int64]
"""Row numbers of a request, or numbers of items of a batch."""

Traffic = Literal["interactive", "bulk"]


class Caller(NamedTuple):
    """Who asks. The queue is fair between callers, by weight, and then between the requests of each.

    Attributes:
        key: identifies the caller; empty if nobody has a key.
        weight: a caller of weight 2 gets twice the tokens of a caller of weight 1, while both wait.
        traffic: ``bulk`` requests get what ``interactive`` ones leave, and at least a small stated share.
    """

    key: str = ""
    weight: float = 1.0
    traffic: Traffic = "interactive"


ANONYMOUS = Caller()


class Request:
    """The rows of a call. A row is an input, or a window of a long one. Belongs to one event loop.

    ``done`` is set exactly once. There are three cases:

    1. The last row is settled.
    2. A row fails, and ``partial`` is false or the row is not at fault.
    3. Nobody waits any more: it is cancelled.

    Args:
        batch: the token ids of each row.
        outputs: what is computed of each row; if empty, the request is finished at once.
        caller: who asks.
        errors: row -> why it has no token ids; such a row is settled from the beginning.
        partial: whether a row may fail by its own fault without failing the others.
        row_inputs: int64 ``[rows]``, the input of each row; ``None`` if each row is an input.

    Attributes:
        errors: row -> why it has no result.
        tokens: of all rows together.
        added: when it was made, in monotonic seconds.
        started: when its first batch left; ``None`` before.
        finished: when its last row was settled; ``None`` before.
    """

    def __init__(
        self,
        batch: Batch,
        outputs: tuple[Output, ...] = ("dense",),
        *,
        caller: Caller = ANONYMOUS,
        errors: Mapping[int, GatewayError] | None = None,
        partial: bool = False,
        row_inputs: NDArray[np.int64] | None = None,
    ) -> None:
        self.batch = batch
        self.outputs = outputs
        self.caller = caller
        self.errors: dict[int, GatewayError] = {}
        self.tokens = batch.tokens
        self.added = time.monotonic()
        self.started: float | None = None
        self.finished: float | None = None
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._partial = partial
        self._row_inputs = row_inputs
        self._is_settled = np.zeros(len(batch), np.bool_)
        self._open = len(batch)
        self._fixed: dict[Output, Column] = {}  # outputs with one value row for each row
        self._pieces: dict[Output, list[tuple[Rows, Column]]] = {}  # outputs with offsets, as they arrive
        for row, error in (errors or {}).items():
            self.fail(row, error)
        if not outputs:
            self._close(self.rows)
            self._finish_if_last()

    def __repr__(self) -> str:
        return f"<Request {len(self.batch)} rows, {self._open} open, {self.tokens} tokens>"

    @property
    def rows(self) -> Rows:
        """The rows that are not settled."""
        return np.flatnonzero(~self._is_settled)

    def input_of(self, row: int) -> int:
        """Return the input that a row belongs to."""
        return row if self._row_inputs is None else int(self._row_inputs[row])

    def settle(self, rows: Rows, columns: Mapping[Output, Column]) -> None:
        """Give rows their results; entry ``i`` of each column belongs to ``rows[i]``.

        Raises:
            ValueError: a row was settled before: a bug.
        """
        self._close(rows)
        if self.done.done():
            return
        for output in self.outputs:
            column = columns[output]
            if column.offsets is not None:
                self._pieces.setdefault(output, []).append((rows, column))
            elif len(rows) == len(self.batch):
                self._fixed[output] = column
            else:
                self._values(output, column.values.shape[1])[rows] = column.values
        self._finish_if_last()

    def fail(self, row: int, error: GatewayError) -> None:
        """Give a row its error."""
        self._close(np.array([row]))
        if self.done.done():
            return
        self.errors[row] = error
        if self._partial and error.of_the_input:
            self._finish_if_last()
        else:
            self.done.set_exception(error)

    def fail_unsettled(self, rows: Rows, make_error: Callable[[], GatewayError]) -> None:
        """Give those of the rows that are not settled an error each."""
        for row in rows[~self._is_settled[rows]].tolist():
            self.fail(row, make_error())

    def columns(self) -> dict[Output, Column]:
        """Return the results of a finished request. An output is missing if every row failed.

        A row that failed is NaN in an output with one value row for each row, and has no values in others.
        """
        columns: dict[Output, Column] = {}
        for output in self.outputs:
            if output in self._pieces:
                columns[output] = self._joined(self._pieces[output])
            elif output in self._fixed:
                columns[output] = self._fixed[output]
                if self.errors:  # so the column was put together here, and can be written
                    columns[output].values[list(self.errors)] = np.nan
        return columns

    def seconds(self) -> tuple[float, float]:
        """Return how long a finished request waited for its first batch, and how long it then ran."""
        finished = self.finished or self.added
        started = self.started or finished
        return started - self.added, finished - started

    def _close(self, rows: Rows) -> None:
        if self._is_settled[rows].any():
            raise ValueError("a row is settled twice")
        self._is_settled[rows] = True
        self._open -= len(rows)

    def _finish_if_last(self) -> None:
        if not self._open and not self.done.done():
            self.finished = time.monotonic()
            self.done.set_result(None)

    def _values(self, output: Output, width: int) -> NDArray[np.float32]:
        if output not in self._fixed:  # not filled: that takes 6 ms for 2048 rows of 4096 numbers
            self._fixed[output] = Column(np.empty((len(self.batch), width), np.float32))
        return self._fixed[output].values

    def _joined(self, pieces: list[tuple[Rows, Column]]) -> Column:
        """Return the entries of several pieces in the order of their rows; a row that failed has no values."""
        missing = np.array(sorted(self.errors), np.int64)
        first = pieces[0][1]
        blank = Column(
            np.empty((0, first.values.shape[1]), np.float32),
            np.zeros(len(missing) + 1, np.int64),
            None if first.indices is None else np.empty(0, np.int32),
        )
        rows = np.concatenate([*(rows for rows, _ in pieces), missing])
        return Column.concat([*(column for _, column in pieces), blank]).select(np.argsort(rows))
