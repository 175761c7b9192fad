"""Supply, heat and clocks: what makes a board slower than it is, or resets it."""

from __future__ import annotations

import re
from collections.abc import Iterator

from edgekit.doctor.finding import CannotTell, Evidence, Found, add_to_group, as_root, check
from edgekit.doctor.snapshot import Snapshot
from edgekit.doctor.text import cited, whole

UNDER_VOLTAGE, THROTTLED = 0x1, 0xE  # bits of get_throttled: now; 16 bits higher: since boot
WORDS = {1: "the clock is capped", 2: "throttled", 3: "at the soft temperature limit"}
POWER_SOCKET = "/run/edgekit-powerd/powerd.sock"
FIXED_LOW = "powersave"
DYNAMIC = ("schedutil", "ondemand", "conservative", "interactive")
FIRMWARE_MC = 80000  # where a Raspberry Pi's firmware begins to throttle: the kernel has no passive trip point there


def throttle_word(board: Snapshot) -> tuple[int, str] | None:
    """The firmware's word, and where it was read."""
    for path in board.paths("/sys/devices/platform/*get_throttled"):
        word = board.text(path)
        if word and re.fullmatch(r"(0x)?[0-9a-fA-F]{1,8}", word.strip()):
            return int(word.strip(), 16), path
    ran = board.ran("get_throttled")
    match = re.fullmatch(r"throttled=(0x[0-9a-fA-F]{1,8})", ran.out.strip()) if ran and ran.code == 0 else None
    return (int(match[1], 16), "vcgencmd get_throttled") if match else None


def _alarm(board: Snapshot) -> str:
    """The under-voltage alarm of the Raspberry Pi's hwmon driver, if it is on: other drivers' alarms mean other things."""
    for path in board.paths("/sys/class/hwmon/hwmon*/name"):
        alarm = path.replace("/name", "/in0_lcrit_alarm")
        if board.text(path) == "rpi_volt" and board.number(alarm) == 1:
            return alarm
    return ""


_SUPPLY = (
    "the supply and its cable made for this board (Pi 4: 5.1 V 3 A, Pi 5: 5.1 V 5 A), USB devices on a powered hub"
)


@check(
    "under-voltage",
    ("error", "warning"),
    "The supply holds its voltage",
    reason="Below 4.63 V the firmware cuts the clock, USB devices drop out and SD cards are damaged in the middle of a write.",
    source="raspberrypi/documentation (get_throttled); raspberrypi-hwmon.c; OpenCCU#3776",
)
def under_voltage(board: Snapshot) -> Iterator[Found | CannotTell]:
    if not board.is_raspberry_pi:
        return
    told, alarm = throttle_word(board), _alarm(board)
    lines = board.kernel_lines(r"[Uu]nder-?voltage detected") or []
    said = () if told is None else (Evidence(told[1], f"{told[0]:#x}"),)
    if alarm or (told and told[0] & UNDER_VOLTAGE):
        yield Found(
            "the voltage is too low now",
            (*said, *((Evidence(alarm, "1"),) if alarm else ())),
            by_hand=_SUPPLY,
        )
    elif lines or (told and told[0] >> 16 & UNDER_VOLTAGE):
        yield Found(
            "the voltage was too low since it booted",
            (*said, *(Evidence("dmesg", cited(line)) for line in lines[-1:])),
            by_hand=_SUPPLY,
            severity="warning",
        )
    elif told is None and not any(board.text(p) == "rpi_volt" for p in board.paths("/sys/class/hwmon/hwmon*/name")):
        yield CannotTell("neither the firmware nor an rpi_volt sensor can be asked (firmware-access)")


@check(
    "throttled",
    ("warning", "note"),
    "The firmware leaves the clock alone",
    reason="A throttled board is slower than it was measured to be: deadlines are missed, and benchmarks there mean nothing.",
    source="raspberrypi/documentation (get_throttled)",
)
def throttled(board: Snapshot) -> Iterator[Found]:
    told = throttle_word(board)
    if told is None:
        return
    word, where = told
    now = [text for bit, text in WORDS.items() if word >> bit & 1]
    before = [text for bit, text in WORDS.items() if word >> 16 >> bit & 1]
    evidence = (Evidence(where, f"{word:#x}"),)
    if now:
        yield Found(f"now: {', '.join(now)}", evidence, by_hand="a heat sink or a fan, a better supply, or less work")
    elif before:
        yield Found(
            f"since it booted: {', '.join(before)}",
            evidence,
            by_hand="a heat sink or a fan if it was heat; edgekit power show DEVICE --seconds 60 while it works",
            severity="note",
        )


@check(
    "firmware-access",
    "note",
    "The login user may ask a Raspberry Pi's firmware",
    reason="Throttling and the supply's voltage are told by the firmware through /dev/vcio, which belongs to the group video.",
    source="raspberrypi/linux#4624; raspberrypi/utils#178",
)
def firmware_access(board: Snapshot) -> Iterator[Found]:
    if not board.is_raspberry_pi or board.uid == 0 or throttle_word(board) is not None:
        return
    for path, node in board.nodes("/dev/vcio*"):
        if node.may_use:
            continue
        evidence = (Evidence(path, str(node)), Evidence(f"groups of {board.user}", " ".join(sorted(board.groups))))
        if "video" in board.member_of:
            yield Found(f"{board.user} is in video from the next login on", evidence, after="log in again")
        elif node.group == "video":
            yield Found(
                f"{board.user} may not ask the firmware", evidence, add_to_group(board, "video"), after="log in again"
            )


@check(
    "too-hot",
    "warning",
    "No thermal zone is at the temperature at which clocks are cut",
    reason="From its passive trip point on the kernel takes clock away, and what was measured when cool no longer holds.",
    source="Documentation/driver-api/thermal/sysfs-api.rst (trip_point_N_type passive)",
)
def too_hot(board: Snapshot) -> Iterator[Found]:
    for path in board.paths("/sys/class/thermal/thermal_zone*/temp"):
        folder = path.rpartition("/")[0]
        temperature = board.number(path)
        kind = board.text(f"{folder}/type") or ""
        if temperature is None or not 0 < temperature < 200_000 or "pmic" in kind.lower():
            continue
        trips = [
            trip
            for trip_path in board.paths(f"{folder}/trip_point_*_type")
            if board.text(trip_path) == "passive"
            and (trip := board.number(trip_path.replace("_type", "_temp"))) is not None
            and trip > 40_000
        ]
        limit = min(trips, default=FIRMWARE_MC if board.is_raspberry_pi else None)
        if limit is not None and temperature >= limit:
            yield Found(
                f"{cited(kind) or 'a thermal zone'} is at {temperature / 1000:.0f} °C, clocks are cut from "
                f"{limit / 1000:.0f} °C on",
                (Evidence(path, str(temperature)),),
                by_hand="a heat sink or a fan, or less work",
            )


@check(
    "governor",
    "warning",
    "The processor's clock may rise",
    reason="The governor powersave of the older cpufreq drivers holds the lowest clock, whatever there is to do: "
    "two to four times slower. (With intel_pstate and amd-pstate the same word means a dynamic clock.)",
    source="Documentation/admin-guide/pm/cpufreq.rst, intel_pstate.rst",
)
def governor(board: Snapshot) -> Iterator[Found]:
    evidence, commands = [], []
    for path in board.paths("/sys/devices/system/cpu/cpufreq/policy*/scaling_governor"):
        folder = path.rpartition("/")[0]
        driver = board.text(f"{folder}/scaling_driver") or ""
        available = (board.text(f"{folder}/scaling_available_governors") or "").split()
        if board.text(path) != FIXED_LOW or "pstate" in driver:
            continue
        evidence.append(Evidence(path, f"{FIXED_LOW}, driver {cited(driver) or 'unknown'}"))
        better = next((name for name in DYNAMIC if name in available), None)
        if better is not None:
            commands.append(as_root(board, "tee", path, stdin=better + "\n"))
    if evidence:
        yield Found(
            "the clock is held at its lowest",
            tuple(evidence),
            tuple(commands),
            by_hand="until the next boot: what sets it there is in /etc/default/cpufrequtils, /etc/rc.local or a unit of "
            "systemd's",
        )


@check(
    "clock-limit",
    "note",
    "The processor may use its highest clock",
    reason="Somebody limited it, perhaps to save power; figures measured with the limit hold only with it.",
    source="Documentation/admin-guide/pm/cpufreq.rst (scaling_max_freq)",
)
def clock_limit(board: Snapshot) -> Iterator[Found]:
    limited: dict[tuple[int, int], list[str]] = {}
    for path in board.paths("/sys/devices/system/cpu/cpufreq/policy*/scaling_max_freq"):
        highest = board.number(path.replace("scaling_max_freq", "cpuinfo_max_freq"))
        limit = board.number(path)
        if highest and limit and 0 < limit < highest:
            limited.setdefault((limit, highest), []).append(path)
    for (limit, highest), paths in limited.items():
        yield Found(
            f"the clock is limited to {limit // 1000} of {highest // 1000} MHz",
            tuple(Evidence(path, str(limit)) for path in paths),
            () if board.is_jetson else tuple(as_root(board, "tee", path, stdin=f"{highest}\n") for path in paths),
            by_hand="sudo nvpmodel -q shows the power mode that sets it" if board.is_jetson else "",
        )


@check(
    "cores-offline",
    "note",
    "All cores are switched on",
    reason="An interpreter with more threads than cores waits for itself: threads of a target count the cores "
    "that the board has.",
    source="Documentation/admin-guide/cputopology.rst (online, present)",
)
def cores_offline(board: Snapshot) -> Iterator[Found]:
    online, present = board.text("/sys/devices/system/cpu/online"), board.text("/sys/devices/system/cpu/present")
    if online and present and online.strip() != present.strip():
        hint = "sudo nvpmodel -q shows the power mode that sets it" if board.is_jetson else "maxcpus= in /proc/cmdline?"
        yield Found(
            f"cores {cited(online)} of {cited(present)} are on",
            (Evidence("/sys/devices/system/cpu/online", cited(online)),),
            by_hand=hint,
        )


@check(
    "jetson-over-current",
    "warning",
    "A Jetson's supply gives what it asks for",
    reason='"System throttled due to over-current": the module cuts its clocks for as long as it draws more than its limit.',
    source="NVIDIA Jetson Linux Developer Guide (soctherm_oc); isaac_ros_object_detection#34; OE4T/meta-tegra#538",
)
def jetson_over_current(board: Snapshot) -> Iterator[Found]:
    for path in board.paths("/sys/class/hwmon/hwmon*/oc*_event_cnt"):
        count = board.number(path)
        if count:
            yield Found(
                f"the module was throttled for over-current {count} times since it booted",
                (Evidence(path, str(count)),),
                by_hand="a stronger supply, or a lower power mode: sudo nvpmodel -q, then -m with a lower one",
            )
    lines = board.kernel_lines("OC ALARM")
    if lines:
        yield Found(
            "the module raised its over-current alarm",
            (Evidence("dmesg", cited(lines[-1])),),
            by_hand="a stronger supply (Jetson Nano: 5 V 4 A at the barrel jack, with its jumper set)",
        )


@check(
    "jetson-power-mode",
    "note",
    "A Jetson's power mode is its fastest",
    reason="Lower modes switch cores off and cap clocks; times measured in one mode do not hold in another.",
    source="NVIDIA Jetson Linux Developer Guide (nvpmodel); modes differ by module, so they are told apart by name",
)
def jetson_power_mode(board: Snapshot) -> Iterator[Found]:
    ran = board.ran("nvpmodel")
    match = re.search(r"NV Power Mode:\s*(\S+)", ran.out) if ran else None
    if match and "MAXN" not in match[1].upper():
        number = whole(ran.out.strip().splitlines()[-1]) if ran else None
        yield Found(
            f"the power mode is {cited(match[1])}",
            (Evidence("nvpmodel -q", f"{cited(match[1])} ({number})"),),
            by_hand="if that is not on purpose: sudo nvpmodel -p --verbose lists the modes, -m chooses one (some need a reboot)",
        )


@check(
    "power-helper",
    "warning",
    "The power helper runs where it is installed",
    reason="Without edgekit-powerd a runner under a goal of power chooses variants and threads, and the clock is the governor's.",
    source="edgekit deploy --power",
)
def power_helper(board: Snapshot) -> Iterator[Found]:
    unit = "/etc/systemd/system/edgekit-powerd.service"
    installed = board.text(unit)
    if installed and not board.named(POWER_SOCKET):
        owner = re.search(r"^X-EdgekitRoot=(.+)$", installed, re.MULTILINE)
        yield Found(
            f"edgekit-powerd is installed{f' for {cited(owner[1])}' if owner else ''}, and does not listen",
            (Evidence(POWER_SOCKET, "not there"),),
            (as_root(board, "systemctl", "restart", "edgekit-powerd.service"),),
            by_hand="journalctl -u edgekit-powerd tells why",
        )


CHECKS = (
    under_voltage,
    throttled,
    firmware_access,
    too_hot,
    governor,
    clock_limit,
    cores_offline,
    jetson_over_current,
    jetson_power_mode,
    power_helper,
)
