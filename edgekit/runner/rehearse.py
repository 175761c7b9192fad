"""Plays a release's golden inputs at a rate, under a goal: real inference with real deadlines, and what came of it."""

from __future__ import annotations

import statistics
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

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
    table = usable(table, sets_clock=set_clock is not None)
    check_goal(goal, table, rate_hz=rate_hz)
    bundle = read_bundle(release)
    known = {variant.name for variant in bundle.manifest.variants}
    unknown = sorted({row.point.variant for row in table.rows} - known)
    if unknown:
        raise InputError(f"the release has no variant {unknown[0]!r}", hint=f"it has: {', '.join(sorted(known))}")
    level = best_level(goal, table, rate_hz=rate_hz)
    rows = rows_at(table, level)
    table = replace(table, rows=tuple(table.rows[i] for i in rows))
    variants = Variants(release, (row.point for row in table.rows))
    samples = golden_inputs(variants.model(table.rows[0].point), read_golden(bundle))
    for row in table.rows:
        for _ in range(WARM):
            variants.answer(row.point, samples[0])
    looks = Looks(board if board is not None else Board(), covers=table.covers)
    policy = Policy(goal, table, rate_hz=rate_hz)
    began = clock()
    looks.tell(policy, 0.0, trace)
    looks.check(goal)
    waiting: deque[tuple[float, int]] = deque()
    taken: list[float] = []
    decided: list[float] = []
    points: dict[str, int] = {}
    count, job, late, left_out, last_clock = int(seconds * rate_hz), 0, 0, 0, None
    while job < count or waiting:
        now = clock() - began
        while job < count and job / rate_hz <= now:
            policy.arrived(job / rate_hz)
            waiting.append((job / rate_hz, job))
            job += 1
        while waiting and waiting[0][0] + goal.deadline_s <= now:
            left_out += _left_out(trace, waiting.popleft()[0], now)
        if not waiting:
            if now - looks.at_s >= LOOK_S and job < count:  # while nobody waits
                looks.tell(policy, now, trace)
                if set_clock is not None and last_clock is not None:
                    set_clock(last_clock)  # the helper wants to hear from us
            sleep(max(0.0, min(job / rate_hz - (clock() - began), 0.05)))
            continue
        started = time.perf_counter_ns()
        chosen = policy.choose(now, [arrived + goal.deadline_s for arrived, _ in waiting])
        decision = time.perf_counter_ns() - started
        arrived, number = waiting.popleft()
        if chosen is None:
            left_out += _left_out(trace, arrived, now)
            continue
        point = table.rows[chosen].point
        if set_clock is not None and point.clock_khz not in (None, last_clock):
            set_clock(point.clock_khz or 0)
            last_clock = point.clock_khz
        variants.answer(point, samples[number % len(samples)])
        ended = clock() - began
        started = time.perf_counter_ns()
        policy.finished(ended, chosen, ended - now)
        decided.append((decision + time.perf_counter_ns() - started) / 1e3)
        if trace is not None:
            trace.job(arrived, now, ended, chosen)
        late += ended > arrived + goal.deadline_s
        taken.append((ended - now) * 1e3)
        points[point.words] = points.get(point.words, 0) + 1
    looks.tell(policy, clock() - began, trace)
    return Rehearsed(
        goal_text(goal),
        count,
        late + left_out,
        left_out,
        None if policy.mean_accuracy is None else round(policy.mean_accuracy, 4),
        round(statistics.median(taken), 3) if taken and not variants.is_fake else None,
        round(_p99(taken), 3) if taken and not variants.is_fake else None,
        round(policy.used_j, 4),
        "measured" if looks.has_meter else "estimated",
        looks.hottest_c,
        round(statistics.median(decided), 1) if decided else None,
        round(_p99(decided), 1) if decided else None,
        dict(sorted(points.items(), key=lambda item: -item[1])),
        variants.is_fake,
    )


def _left_out(trace: TraceWriter | None, arrived: float, now: float) -> int:
    if trace is not None:
        trace.job(arrived, max(now, arrived), max(now, arrived), None)
    return 1


def _p99(values: list[float]) -> float:
    return sorted(values)[min(len(values) - 1, int(0.99 * len(values)))]
