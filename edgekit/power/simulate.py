"""Plays jobs on a simulated device under a policy: one machine, first come first served, what runs is not interrupted."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from edgekit.power.device import METER_NOISE, THROTTLES_C, Device
from edgekit.power.instance import Floats, Jobs

LOOK_S = 1.0  # how often meter, temperature and battery are read
DROPPED = -1


class Chooses(Protocol):
    """What a policy is: edgekit.runner.power.policy.Policy, or a baseline."""

    def arrived(self, now_s: float) -> None:
        """An inference came."""

    def choose(self, now_s: float, deadlines: Sequence[float]) -> int | None:
        """The point for the first of those that wait; None leaves it out."""

    def finished(self, now_s: float, index: int, latency_s: float) -> None:
        """It took so long."""

    def metered(self, seconds: float, energy_j: float | None) -> None:
        """What the machine used."""

    def temperature(self, now_s: float, celsius: float | None) -> None:
        """The hottest sensor."""

    def battery(self, left_j: float | None) -> None:
        """What is left."""


@dataclass
class Played:
    """What became of each job, and of the machine. Times in s, energies in J, idling included where it says machine."""

    jobs: Jobs
    point: np.ndarray  # index of the operating point, DROPPED if it was left out
    start_s: Floats
    latency_s: Floats  # 0 if left out
    energy_j: Floats  # above idle
    edge_s: Floats  # machine: at these times
    used_j: Floats  # machine: so much had been used
    celsius: Floats  # machine: the die
    idle_w: float
    horizon_s: float
    died_s: float | None = None  # the battery was empty then

    @property
    def on_time(self) -> np.ndarray:
        """Of each job, whether it was answered in time."""
        in_time = self.start_s + self.latency_s <= self.jobs.deadline_s + 1e-9
        return np.asarray((self.point != DROPPED) & in_time)


def play(
    device: Device,
    jobs: Jobs,
    policy: Chooses,
    *,
    horizon_s: float,
    seed: int = 0,
    battery_j: float | None = None,
    holds: bool = False,
    sensors: bool = True,
    settled_w: float | None = None,
) -> Played:
    """Every job of `jobs` under `policy`. `holds`: the policy keeps the clock up while idle. `sensors`: False is a board
    without meter, gauge and thermometer. `settled_w`: the board starts as warm as that power makes it (default: idling).
    """
    rng = np.random.default_rng(seed)
    world = _World(device, settled_w, device.idle_w + (device.holds_w if holds else 0.0), battery_j)
    count = len(jobs)
    release, deadline = jobs.release_s.tolist(), jobs.deadline_s.tolist()
    slow = jobs.slowdown.tolist()
    latencies, powers = device.points.latency_s.tolist(), device.power_w.tolist()
    clocks = [mhz for _, _, mhz in device.names]
    point = np.full(count, DROPPED, dtype=np.int32)
    start, taken = np.zeros(count), np.zeros(count)
    waiting: deque[int] = deque()
    due: deque[float] = deque()
    now, following = 0.0, 0
    while (following < count or waiting) and world.died is None:
        if not waiting and release[following] > now:
            world.go(release[following], world.idle_w)
            now = release[following]
            if world.died is not None:
                break
        while following < count and release[following] <= now:
            policy.arrived(release[following])
            waiting.append(following)
            due.append(deadline[following])
            following += 1
        if now - world.looked >= LOOK_S:
            world.look(policy, now, rng if sensors else None)
        while waiting and due[0] <= now:  # whoever is late already is left out by every policy
            waiting.popleft()
            due.popleft()
        if not waiting:
            continue
        chosen = policy.choose(now, due)
        job = waiting.popleft()
        due.popleft()
        if chosen is None:
            continue
        allowed = next((mhz for limit, mhz in reversed(THROTTLES_C) if world.die > limit), 1 << 30)
        really = chosen if clocks[chosen] <= allowed else _capped(device, chosen, allowed)
        seconds = latencies[really] * slow[job]
        world.go(now + seconds, powers[really])
        if world.died is not None:  # before the answer
            break
        point[job], start[job], taken[job] = really, now, seconds
        now += seconds
        policy.finished(now, chosen, seconds)
    world.go(max(horizon_s, now), world.idle_w)
    above = np.where(point == DROPPED, 0.0, (device.power_w[point] - device.idle_w) * taken)
    edges, used, celsius = (np.array(column) for column in zip(*world.edges, strict=True))
    return Played(jobs, point, start, taken, above, edges, used, celsius, device.idle_w, horizon_s, world.died)


def _capped(device: Device, chosen: int, mhz: int) -> int:
    """What really runs when the firmware has lowered the clock."""
    variant, threads, _ = device.names[chosen]
    clocks = [clock for v, t, clock in device.names if (v, t) == (variant, threads)]
    return device.named(variant, threads, max((c for c in clocks if c <= mhz), default=min(clocks)))


class _World:
    """Time, energy, heat and battery; each stretch at one power."""

    def __init__(self, device: Device, settled_w: float | None, idle_w: float, battery_j: float | None) -> None:
        self.device, self.idle_w = device, idle_w
        self.die, self.board = device.heat.settled(device.idle_w if settled_w is None else settled_w)
        self.now = self.used = self._used_then = 0.0
        self.looked = -LOOK_S  # the first thing that happens
        self.battery, self.died = battery_j, None if battery_j is None or battery_j > 0 else 0.0
        self.edges: list[tuple[float, float, float]] = [(0.0, 0.0, self.die)]

    def go(self, until: float, power_w: float) -> None:
        """On to that time."""
        seconds = until - self.now
        if seconds <= 0 or self.died is not None:
            return
        if self.battery is not None and self.used + power_w * seconds > self.battery:
            seconds = (self.battery - self.used) / power_w
            self.died = self.now + seconds
        heat = self.device.heat
        self.die, self.board = heat.after(self.die, self.board, power_w, seconds)
        self.used += power_w * seconds
        self.now += seconds
        self.edges.append((self.now, self.used, self.die))

    def look(self, policy: Chooses, now: float, rng: np.random.Generator | None) -> None:
        """Tells the policy what its sensors say."""
        seconds, energy = now - max(self.looked, 0.0), self.used - self._used_then
        self.looked, self._used_then = now, self.used
        policy.metered(seconds, None if rng is None else energy * float(rng.lognormal(0, METER_NOISE)))
        policy.temperature(now, None if rng is None else float(np.round(self.die / 0.55) * 0.55))  # a Pi's steps
        if self.battery is not None:
            policy.battery(None if rng is None else max(self.battery - self.used, 0.0))
