"""Requests under a goal: each waits for its turn, and runs on the variant, threads and clock that the policy chooses then."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import ExitStack, closing
from typing import TYPE_CHECKING, Any, NamedTuple

from edgekit.errors import EdgekitError, InputError
from edgekit.runner.model import Model
from edgekit.runner.power.actuators import OperatingPoint
from edgekit.runner.power.board import Board
from edgekit.runner.power.caps import Caps
from edgekit.runner.power.feasible import check_goal
from edgekit.runner.power.goal import Goal, parse_goal
from edgekit.runner.power.levels import best_level, rows_at
from edgekit.runner.power.looks import Looks
from edgekit.runner.power.points import Table, read_table
from edgekit.runner.power.policy import Policy
from edgekit.runner.power.powerd import SOCKET
from edgekit.runner.power.trace import TraceWriter
from edgekit.runner.rehearse import usable
from edgekit.runner.serve.wire import Refusal
from edgekit.runner.variants import Variants

if TYPE_CHECKING:
    from edgekit.bundle import Bundle
    from edgekit.runner.serve.process import Settings

KEPT = "points.json"  # in ROOT: edgekit power use puts it there
LOOK_S = 1.0
LEVEL_S = 30.0  # for which a clock level of an Edge TPU stays at least: a change stops everything for a moment


class Governed:
    """A model whose calls are answered one at a time, first come first served, by whatever the goal makes of them.

    Raises Refusal (503) for a call that would be late, or over a limit. What the server asks of a model beside calling it
    is the given model's.
    """

    def __init__(
        self,
        model: Model,
        variants: Variants,
        policy: Policy,
        looks: Looks,
        *,
        set_clock: Callable[[int], None] | None = None,
        trace: TraceWriter | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.inputs, self.outputs, self.specs = model.inputs, model.outputs, model.specs
        self.samples = model.samples
        self._variants, self._policy, self._looks = variants, policy, looks
        self._set_clock, self._trace, self._clock = set_clock, trace, clock
        self._began = self._chosen_at = clock()
        self._level = best_level(policy.goal, policy.table)
        policy.restrict(rows_at(policy.table, self._level))
        variants.hold(self._points())
        self._turn = threading.Condition()
        self._waiting: deque[tuple[object, float]] = deque()  # (whose, deadline)
        self._busy = False
        self._last_clock: int | None = None

    def __call__(self, sample: Any) -> Any:
        """The answer to one sample, when it is its turn."""
        mine = object()
        with self._turn:
            arrived = self._now()
            self._policy.arrived(arrived)
            self._waiting.append((mine, arrived + self._policy.goal.deadline_s))
            self._turn.wait_for(lambda: not self._busy and self._waiting[0][0] is mine)
            started = self._now()
            chosen = self._policy.choose(started, [deadline for _, deadline in self._waiting])
            self._waiting.popleft()
            self._busy = chosen is not None
            self._turn.notify_all()
            if chosen is None:
                if self._trace is not None:
                    self._trace.job(arrived, started, started, None)
                raise Refusal(503, "left out: it would have been late, or over a limit of power", ("Retry-After", "1"))
        point = self._policy.table.rows[chosen].point
        try:
            self._cap(point.clock_khz)
            return self._variants.answer(point, sample)
        finally:
            with self._turn:
                ended = self._now()
                self._busy = False
                self._turn.notify_all()
                self._policy.finished(ended, chosen, ended - started)
                if self._trace is not None:
                    self._trace.job(arrived, started, ended, chosen)

    def watch(self, ended: threading.Event) -> None:
        """Looks at the sensors, and says to the helper that we are there, until `ended`."""
        while True:
            with self._turn:
                self._looks.tell(self._policy, self._now(), self._trace)
            if self._last_clock is not None:
                self._cap(self._last_clock, again=True)
            self._choose_level()
            if ended.wait(LOOK_S):
                return

    def _choose_level(self) -> None:
        """Another clock level of an Edge TPU, if what comes by now wants it: it is opened anew, and who asks meanwhile waits."""
        if not self._level or self._clock() - self._chosen_at < LEVEL_S:
            return
        with self._turn:
            self._turn.wait_for(lambda: not self._busy)
            self._chosen_at = self._clock()
            best = best_level(self._policy.goal, self._policy.table, rate_hz=self._policy.rate_hz, now=self._level)
            if best == self._level:
                return
            before, self._level = self._level, best
            try:
                self._variants.hold(self._points())
            except EdgekitError as error:
                print(f"edgekit.runner: {error}; going on at {before}", file=sys.stderr, flush=True)
                self._level = before
                self._variants.hold(self._points())
            self._policy.restrict(rows_at(self._policy.table, self._level))

    def _points(self) -> list[OperatingPoint]:
        return [self._policy.table.rows[i].point for i in rows_at(self._policy.table, self._level)]

    def _now(self) -> float:
        return self._clock() - self._began

    def _cap(self, khz: int | None, *, again: bool = False) -> None:
        """The clock, where it is ours to set. Without the helper answers go on, at the governor's clock."""
        if self._set_clock is None or khz is None or (khz == self._last_clock and not again):
            return
        try:
            self._set_clock(khz)
            self._last_clock = khz
        except EdgekitError as error:
            print(f"edgekit.runner: {error}; going on at the governor's clock", file=sys.stderr, flush=True)
            self._set_clock = None


class Plan(NamedTuple):
    """What a server is to keep: the goal, also as its text, with the points of this board, and whether clocks are set."""

    text: str
    goal: Goal
    table: Table
    clocks: bool
    kept: bool  # nobody said so when it was started: a server without a goal is then better than none

    @property
    def has_levels(self) -> bool:
        """True if an Edge TPU is opened at one clock level or another."""
        return any(row.point.level for row in self.table.rows)


def find_plan(settings: Settings, bundle: Bundle) -> Plan | None:
    """What was said, or else the bundle's own goal with the table that `edgekit power use` put beside the releases.

    None where that table is not there or cannot be used, which is printed: a server without a goal is better than none.
    Raises InputError for what was said and cannot be.
    """
    wanted = settings.goal or bundle.manifest.goal
    place = settings.table or _kept_table(settings.release)
    if wanted is None or (place is None and settings.goal is None):
        return None
    if place is None:
        raise InputError("a goal needs a table of this board", hint="--table FILE: edgekit power calibrate writes one")
    try:
        table = _read(place)
        if settings.table is None and table.bundle != bundle.digest:
            raise InputError(
                f"{place} was measured with another bundle", hint="edgekit power calibrate, then power use"
            )
        has_clocks = any(row.point.clock_khz for row in table.rows)
        clocks = settings.clocks or (settings.table is None and has_clocks and os.path.exists(SOCKET))
        table = usable(table, sets_clock=clocks)
        goal = parse_goal(wanted)
        check_goal(goal, table)
    except InputError as error:
        if settings.goal is not None or settings.table is not None:
            raise
        print(f"edgekit.runner: the goal is not kept: {error}\n  {error.hint}", file=sys.stderr, flush=True)
        return None
    return Plan(wanted, goal, table, clocks, settings.goal is None and settings.table is None)


def _kept_table(release: str) -> str | None:
    """ROOT/points.json, if the release lies in a ROOT that has one."""
    above, folder = os.path.split(os.path.dirname(os.path.realpath(release)))
    place = os.path.join(above, KEPT)
    return place if folder == "releases" and os.path.exists(place) else None


def govern(plan: Plan, settings: Settings, model: Model, stack: ExitStack) -> Governed:
    """The model under a goal. Raises EdgekitError if that cannot be here: no sensor for it, a delegate that does not serve."""
    goal, table = plan.goal, plan.table
    caps = stack.enter_context(closing(Caps())) if plan.clocks else None
    trace = None
    if settings.trace is not None:
        try:
            # line by line: a service that is killed leaves what it did
            stream = stack.enter_context(open(settings.trace, "w", encoding="utf-8", buffering=1))  # noqa: SIM115
        except OSError as error:
            raise InputError(f"cannot write {settings.trace}: {error.strerror}", hint="name another file") from None
        trace = TraceWriter(stream, goal, table)
    variants = Variants(settings.release)
    policy, looks = Policy(goal, table), Looks(Board(), covers=table.covers)
    looks.tell(policy, 0.0)
    looks.check(goal)
    governed = Governed(
        model,
        variants,
        policy,
        looks,
        set_clock=None if caps is None else caps.cap_cpus,
        trace=trace,
    )
    ended = threading.Event()
    watching = threading.Thread(target=governed.watch, args=(ended,), name="power", daemon=True)
    watching.start()

    def stop() -> None:
        ended.set()
        watching.join(5)

    stack.callback(stop)
    return governed


def _read(path: str) -> Table:
    try:
        with open(path, "rb") as stream:
            return read_table(stream.read(1 << 22))
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}", hint="edgekit power calibrate writes one") from None
