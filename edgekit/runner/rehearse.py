"""Plays a release's golden inputs at a rate, under a goal: real inference with real deadlines, and what came of it."""

from __future__ import annotations

import statistics
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from edgekit.bundle import read_bundle
from edgekit.errors import InputError
from edgekit.runner.check import golden_inputs, read_golden
from edgekit.runner.power.board import Board
from edgekit.runner.power.feasible import check_goal
from edgekit.runner.power.goal import Goal, goal_text
from edgekit.runner.power.levels import best_level, rows_at
from edgekit.runner.power.looks import Looks
from edgekit.runner.power.points import Table
from edgekit.runner.power.policy import Policy
from edgekit.runner.power.trace import TraceWriter
from edgekit.runner.variants import Variants

LOOK_S = 1.0
WARM = 5  # answers of each model before the clock starts
Caps = Callable[[int], None]  # sets the highest clock, kHz


@dataclass(frozen=True)
class Rehearsed:
    """What came of it. Energies are above idle, by the table where the machine has no meter."""

    goal: str
    inferences: int
    missed: int  # late or left out
    left_out: int  # of these: it was too late for them when the machine was free, or over a limit
    accuracy: float | None  # points, mean of those that were answered; None: none was
    median_ms: float | None
    p99_ms: float | None
    energy_j: float  # above idle, as believed in the end
    energy_provenance: str
    hottest_c: float | None
    decision_us: float | None  # median of one decision with what it learns
    decision_p99_us: float | None
    points: dict[str, int]  # what ran, how often
    fake: bool  # a delegate made for tests answered: no time here means anything


def usable(table: Table, *, sets_clock: bool) -> Table:
    """The table with the points that can be set here: without a helper, the highest clock or none is what one gets."""
    if sets_clock:
        return table
    clocks = [row.point.clock_khz for row in table.rows if row.point.clock_khz is not None]
    kept = tuple(row for row in table.rows if row.point.clock_khz in (None, max(clocks, default=None)))
    return replace(table, rows=kept)


def rehearse(
    release: Path | str,
    goal: Goal,
    table: Table,
    *,
    rate_hz: float,
    seconds: float,
    trace: TraceWriter | None = None,
    board: Board | None = None,
    set_clock: Caps | None = None,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> Rehearsed:
    """Golden inputs at `rate_hz` for so long. Raises InputError if the table says that the goal cannot be kept."""
    table, variants, samples = _prepare(release, goal, usable(table, sets_clock=set_clock is not None), rate_hz)
    looks = Looks(board if board is not None else Board(), covers=table.covers)
    policy = Policy(goal, table, rate_hz=rate_hz)
    began = clock()

    def now() -> float:
        return clock() - began

    looks.tell(policy, 0.0, trace)
    looks.check(goal)
    player = _Player(goal, table, policy, variants, samples, set_clock, trace)
    tally, waiting = player.tally, player.waiting
    count, job = int(seconds * rate_hz), 0
    while job < count or waiting:
        at = now()
        while job < count and job / rate_hz <= at:
            policy.arrived(job / rate_hz)
            waiting.append((job / rate_hz, job))
            job += 1
        while waiting and waiting[0][0] + goal.deadline_s <= at:
            tally.left_out += _left_out(trace, waiting.popleft()[0], at)
        if waiting:
            player.answer_one(at, now)
            continue
        if at - looks.at_s >= LOOK_S and job < count:  # while nobody waits
            looks.tell(policy, at, trace)
            player.keep_clock()
        sleep(max(0.0, min(job / rate_hz - now(), 0.05)))
    looks.tell(policy, now(), trace)
    return _report(goal, count, tally, policy, looks, variants.is_fake)


def _prepare(release: Path | str, goal: Goal, table: Table, rate_hz: float) -> tuple[Table, Variants, list[Any]]:
    """The part of the table that is used, its models, warm, and the golden inputs. Raises as `rehearse` does."""
    check_goal(goal, table, rate_hz=rate_hz)
    bundle = read_bundle(release)
    known = {variant.name for variant in bundle.manifest.variants}
    unknown = sorted({row.point.variant for row in table.rows} - known)
    if unknown:
        raise InputError(f"the release has no variant {unknown[0]!r}", hint=f"it has: {', '.join(sorted(known))}")
    rows = rows_at(table, best_level(goal, table, rate_hz=rate_hz))
    table = replace(table, rows=tuple(table.rows[i] for i in rows))
    variants = Variants(release, (row.point for row in table.rows))
    samples = golden_inputs(variants.model(table.rows[0].point), read_golden(bundle))
    for row in table.rows:
        for _ in range(WARM):
            variants.answer(row.point, samples[0])
    return table, variants, samples


@dataclass
class _Tally:
    """What came of it so far."""

    late: int = 0
    left_out: int = 0
    taken: list[float] = field(default_factory=list)  # ms
    decided: list[float] = field(default_factory=list)  # microseconds
    points: dict[str, int] = field(default_factory=dict)


class _Player:
    """Answers what waits, each at the point that the policy chooses for it."""

    def __init__(
        self,
        goal: Goal,
        table: Table,
        policy: Policy,
        variants: Variants,
        samples: list[Any],
        set_clock: Caps | None,
        trace: TraceWriter | None,
    ) -> None:
        self.tally = _Tally()
        self.waiting: deque[tuple[float, int]] = deque()  # when it arrived, which one it is
        self._goal, self._table, self._policy = goal, table, policy
        self._variants, self._samples = variants, samples
        self._set_clock, self._trace = set_clock, trace
        self._last_clock: int | None = None

    def keep_clock(self) -> None:
        """The helper that sets clocks wants to hear from us."""
        if self._set_clock is not None and self._last_clock is not None:
            self._set_clock(self._last_clock)

    def answer_one(self, at: float, now: Callable[[], float]) -> None:
        """The one that has waited longest is answered, or left out."""
        policy, tally = self._policy, self.tally
        started = time.perf_counter_ns()
        chosen = policy.choose(at, [arrived + self._goal.deadline_s for arrived, _ in self.waiting])
        decision = time.perf_counter_ns() - started
        arrived, number = self.waiting.popleft()
        if chosen is None:
            tally.left_out += _left_out(self._trace, arrived, at)
            return
        point = self._table.rows[chosen].point
        if self._set_clock is not None and point.clock_khz not in (None, self._last_clock):
            self._set_clock(point.clock_khz or 0)
            self._last_clock = point.clock_khz
        self._variants.answer(point, self._samples[number % len(self._samples)])
        ended = now()
        started = time.perf_counter_ns()
        policy.finished(ended, chosen, ended - at)
        tally.decided.append((decision + time.perf_counter_ns() - started) / 1e3)
        if self._trace is not None:
            self._trace.job(arrived, at, ended, chosen)
        tally.late += ended > arrived + self._goal.deadline_s
        tally.taken.append((ended - at) * 1e3)
        tally.points[point.words] = tally.points.get(point.words, 0) + 1


def _report(goal: Goal, count: int, tally: _Tally, policy: Policy, looks: Looks, is_fake: bool) -> Rehearsed:
    taken, decided = [] if is_fake else tally.taken, tally.decided
    return Rehearsed(
        goal_text(goal),
        count,
        tally.late + tally.left_out,
        tally.left_out,
        None if policy.mean_accuracy is None else round(policy.mean_accuracy, 4),
        round(statistics.median(taken), 3) if taken else None,
        round(_p99(taken), 3) if taken else None,
        round(policy.used_j, 4),
        "measured" if looks.has_meter else "estimated",
        looks.hottest_c,
        round(statistics.median(decided), 1) if decided else None,
        round(_p99(decided), 1) if decided else None,
        dict(sorted(tally.points.items(), key=lambda item: -item[1])),
        is_fake,
    )


def _left_out(trace: TraceWriter | None, arrived: float, now: float) -> int:
    if trace is not None:
        trace.job(arrived, max(now, arrived), max(now, arrived), None)
    return 1


def _p99(values: list[float]) -> float:
    return sorted(values)[min(len(values) - 1, int(0.99 * len(values)))]
