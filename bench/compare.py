"""Sides beside one another: in every round each takes its turn on the same texts, so that drift hits all."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec
import numpy as np

from bench.answers import Vectors, cosines
from bench.figures import inputs_per_s, percentile
from bench.models import TokenCounter
from bench.plan import Load, Plan
from bench.process_tree import MemorySampler, ProcessTree
from bench.results import Cell, Turn
from bench.shape import Shape
from bench.side import Side, SideError
from bench.texts import make_texts

SAMPLE_REQUESTS = 2

Reference = Callable[[list[str]], Vectors]
Say = Callable[[str], None]


class Comparer:
    """Takes the turns. Text numbers only go up, so no text is used twice."""

    def __init__(
        self, sides: Sequence[Side], counter: TokenCounter, reference: Reference | None, say: Say
    ) -> None:
        """Remember who takes part.

        Args:
            sides: all sides.
            counter: of the model's tokens.
            reference: gives the right vectors of texts; ``None`` where there is none.
            say: is told of each turn.
        """
        self._sides = sides
        self._counter = counter
        self._reference = reference
        self._say = say
        self._next_text = 0

    def cell(self, shape: Shape, rounds: int, seconds: float) -> Cell:
        """Measure one load on all sides that take part in it."""
        sides = [side for side in self._sides if side.facts.kind in shape.sides]
        cell = Cell(kind=shape.kind, clients=shape.clients, inputs=shape.inputs, turns=[], cosines={})
        for number in range(rounds):
            used = 0
            for side in sides:
                plan = side.plan(shape, self._next_text, seconds, 0 if number else SAMPLE_REQUESTS)
                used = max(used, plan.texts)
                turn, load = self._turn(side, plan, number)
                cell.turns.append(turn)
                self._say(f"{cell.name}, round {number + 1}: {described(turn)}")
                if load is not None and load.samples and self._reference is not None:
                    cell.cosines[side.facts.name] = least_cosine(plan, load, self._reference)
            self._next_text += used
        return cell

    def _turn(self, side: Side, plan: Plan, number: int) -> tuple[Turn, Load | None]:
        others = [ProcessTree(other.pid) for other in self._sides if other is not side and other.pid]
        before = sum(tree.cpu_s() for tree in others)
        tree = None if side.pid is None else ProcessTree(side.pid)
        try:
            with MemorySampler(tree) as sampler:
                load = side.run(plan)
        except SideError as error:
            return lost_turn(side.facts.name, number, str(error)), None
        idle = sum(tree.cpu_s() for tree in others) - before
        tokens = sum(self._counter.count(plan.kind, numbers) for numbers in joined(plan, load.answered))
        turn = judged(side.facts.name, number, plan, load, tokens)
        return msgspec.structs.replace(turn, rss_peak_mb=sampler.rss_peak_mb, idle_cpu_s=idle), load


def judged(side: str, number: int, plan: Plan, load: Load, tokens: int) -> Turn:
    """Turn what came of a plan into figures."""
    return Turn(
        side=side,
        round=number,
        elapsed_s=load.elapsed_s,
        requests=len(load.answered),
        inputs=len(load.answered) * plan.inputs,
        tokens=tokens,
        failed=load.failed,
        wrong=load.wrong,
        p50_ms=percentile(load.latencies_ms, 0.50),
        p95_ms=percentile(load.latencies_ms, 0.95),
        p99_ms=percentile(load.latencies_ms, 0.99),
        cpu_s=load.cpu_s,
        client_cpu_s=load.client_cpu_s,
        errors=tuple(load.errors),
    )


def lost_turn(side: str, number: int, reason: str) -> Turn:
    """Say that nothing came of a turn."""
    return Turn(
        side=side, round=number, elapsed_s=0.0, requests=0, inputs=0, tokens=0, failed=1, errors=(reason,)
    )


def joined(plan: Plan, answered: Sequence[int]) -> list[range]:
    """Return the numbers of the texts of all answered requests, neighbours as one range."""
    ranges: list[range] = []
    for request in answered:
        numbers = plan.texts_of(request)
        if ranges and ranges[-1].stop == numbers.start:
            ranges[-1] = range(ranges[-1].start, numbers.stop)
        else:
            ranges.append(numbers)
    return ranges


def least_cosine(plan: Plan, load: Load, reference: Reference) -> float:
    """Return the least cosine of a few of a side's vectors to the reference's."""
    least = 1.0
    for request, rows in load.samples.items():
        numbers = plan.texts_of(request)
        right = reference(make_texts(plan.kind, numbers.start, len(rows)))
        least = min(least, float(cosines(np.array(rows, dtype=np.float32), right).diagonal().min()))
    return least


def described(turn: Turn) -> str:
    """Say in a line how a turn went."""
    rate = inputs_per_s(turn)
    words = [turn.side, "nothing was answered" if rate is None else f"{rate:.0f} inputs/s"]
    if turn.p50_ms is not None:
        words.append(f"p50 {turn.p50_ms:.1f} ms")
    if turn.failed or turn.wrong:
        words.append(f"{turn.failed} failed, {turn.wrong} wrong {' | '.join(turn.errors)}"[:300])
    return ", ".join(words)
