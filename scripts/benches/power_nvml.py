"""A goal kept on a real NVIDIA GPU: the server's own code under load, energy by NVML's counter, beside every fixed point.

    python scripts/benches/gpu.py prepare build/gpu             where TensorFlow is: networks without their weights, 0.3 MB
    python scripts/benches/power_nvml.py build/gpu --json power_nvml.json      where the GPU is

Needs there: numpy, and on PYTHONPATH ai-edge-litert, flatbuffers and ml_dtypes; NVIDIA's driver with NVML and Vulkan, and its
loader. The networks are Keras's MobileNetV2 and EfficientNetB0 (224 x 224, a batch of 1) with random weights: their work is real,
their answers mean nothing, and their accuracy is what Keras publishes for trained ones (71.3 and 77.1 % top-1 on ImageNet). Each
on the GPU in f32 and in f16. Energy is what the counter says of the whole card while the load runs: in all, and above what it
draws just before and after with the same models open. The load is the same for all: arrivals at random at a mean rate (Poisson).
"""

import argparse
import gzip
import io
import json
import os
import queue
import sys
import tempfile
import threading
import time
from dataclasses import replace
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PUBLISHED = {"MobileNetV2": 71.3, "EfficientNetB0": 77.1}  # top-1, keras.io/api/applications
DELEGATES = (
    "gpu:precision=f32,tolerance=1.0",
    "gpu:precision=f16,tolerance=1.0",
)  # random weights: softmax may saturate
MEANS = ("median_ms", "p99_ms", "watts", "total_mj", "above_idle_mj")
CLIENTS = 12  # that wait at the same time, at most
SEED = 20261123


def add_options(parser):
    parser.add_argument("folder", type=Path, nargs="?", default=ROOT / "build" / "gpu", help="default build/gpu")
    parser.add_argument("--json", type=Path, help="write all figures here")
    parser.add_argument("--seconds", type=float, default=10.0, help="of each run (default 10)")
    parser.add_argument("--rounds", type=int, default=2, help="turns of each (default 2)")
    parser.add_argument("--rate", type=float, default=250.0, metavar="HZ", help="inferences a second (default 250)")
    parser.add_argument("--deadline", type=float, default=25.0, metavar="MS", help="of each (default 25)")
    parser.add_argument("--accuracy", type=float, default=75.0, help="wanted, percent (default 75)")
    parser.add_argument("--delegate", action="append", help=f"default {' and '.join(DELEGATES)}")


def measure(options):
    """Rows for scripts/bench."""
    from benches import Row

    found = run(options)
    ours, best = found["edgekit"], found["best_fixed"]
    ratio = ours["above_idle_mj"] / best["above_idle_mj"]
    shown = f"{best['above_idle_mj']:.1f} ({best['name']})", f"{ours['above_idle_mj']:.1f}"
    yield Row("GPU above idle, mJ", *shown, f"{ratio:.2f} x", "1 x", ratio <= 1)
    yield Row("missed %", f"{best['missed']:.2f}", f"{ours['missed']:.2f}", "", "", True)


def run(options):
    """All figures. Exits where there is no NVML counter."""
    sys.path[:0] = [str(ROOT)]
    from edgekit.power.calibration import calibrate, points_of
    from edgekit.runner.point import idle_power, measure_point
    from edgekit.runner.power.actuators import OperatingPoint
    from edgekit.runner.power.goal import Goal, goal_text

    with tempfile.TemporaryDirectory() as scratch:
        os.environ.setdefault("XDG_CACHE_HOME", scratch)  # what trials of the GPU find is kept for this run
        bundle = make_bundle(options.folder, Path(scratch) / "bundle", options.delegate or DELEGATES)
        meter = "gpu"
        if not idle_power(1.0, covers=meter).power_uw:
            sys.exit("power_nvml: no energy counter of a GPU\n  is there libnvidia-ml.so.1, and a card from Volta on?")

        def ask(seconds, variant=None, threads=None, delegate=None, **more):
            if variant is None:
                return vars(idle_power(seconds, covers=meter))
            return vars(
                measure_point(bundle.path, OperatingPoint(variant, threads, delegate=delegate), seconds, covers=meter)
            )

        delegates = options.delegate or DELEGATES
        points = points_of(bundle.manifest, [1], delegates=delegates)
        table = calibrate(
            bundle.manifest, points, ask, Path(scratch) / "t.json", board="here", digest="", seconds=3.0, meter=meter,
            clock=Hurried(), progress=lambda done, total, what: print(f"table {done}/{total}: {what}", flush=True),
        )  # fmt: skip
        if any(row.fake for row in table.rows):
            sys.exit("power_nvml: this GPU is a program, its times mean nothing")
        goal = Goal("min_energy", options.deadline / 1e3, accuracy=options.accuracy)
        any_ = Goal("max_accuracy", options.deadline / 1e3)
        policies = {"edgekit": (goal, table)}
        for row in table.rows:
            policies[row.point.words] = any_, replace(table, rows=(row,))
        runs = {name: [] for name in policies}
        for number in range(options.rounds):
            for name, (wanted, rows) in policies.items():
                runs[name].append(one_run(bundle, wanted, rows, options))
                print(f"round {number}, {name}: {json.dumps(runs[name][-1])}", flush=True)
    return report(goal_text(goal), table, runs, options)


class Hurried:
    """A clock by which a card has cooled at once: calibrate's pauses are for boards that get hot."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        self.now += 100.0
        return self.now


def make_bundle(folder, path, delegates):
    """Both networks with weights from a fixed seed, and two golden inputs of noise that the processor answered."""
    import numpy as np

    from benches.gpu import with_weights
    from edgekit.bundle import write_bundle
    from edgekit.delegates import parse_delegate
    from edgekit.manifest import Manifest, Quality
    from edgekit.preprocess import Generic, spec_digest, spec_fields
    from edgekit.runner.interpreter import open_interpreter
    from edgekit.runner.model import Model, describe_variant

    contents, variants, arrays = {}, [], {}
    raw = np.random.default_rng(SEED).normal(0, 1, (2, 224, 224, 3)).astype(np.float32)
    for name, accuracy in PUBLISHED.items():
        packed = folder / f"{name}.batch1.tflite.gz"
        if not packed.is_file():
            sys.exit(f"power_nvml: {packed} is missing\n  python scripts/benches/gpu.py prepare {folder}")
        file = f"models/{name.lower()}.tflite"
        contents[file] = with_weights(gzip.decompress(packed.read_bytes()))
        scratch = path.with_suffix(f".{name}.tflite")
        scratch.write_bytes(contents[file])
        interpreter = open_interpreter(scratch, len(os.sched_getaffinity(0)))
        variant = describe_variant(interpreter, file, quantization="float32")
        source = "published by Keras for the trained network; this one has random weights"
        variant = replace(
            variant,
            name=name.lower(),
            inputs=tuple(replace(tensor, name="image") for tensor in variant.inputs),
            outputs=tuple(replace(tensor, name="scores") for tensor in variant.outputs),
            delegates=tuple(parse_delegate(text) for text in delegates),
            qualities=(Quality("top-1", accuracy / 100, accuracy / 100, 50_000, source),),
            golden_tolerance=1e-3,
        )
        model = Model(variant, [interpreter], {"image": Generic()})
        arrays[f"output/{variant.name}/scores"] = model(raw, raw_out=True)
        variants.append(variant)
    golden = io.BytesIO()
    np.savez(golden, **{"input/image": raw, **arrays})
    manifest = Manifest(
        name="imagenet", target=None, arch=None, variants=tuple(variants), preprocess={"image": spec_fields(Generic())},
        preprocess_sha256={"image": spec_digest(Generic())}, labels=None, golden="golden.npz", files={}, made_by={},
        made_from={}, commits={}, command=(),
    )  # fmt: skip
    return write_bundle(path, manifest, {**contents, "golden.npz": golden.getvalue()})


def one_run(bundle, goal, table, options):
    """The server's own Governed under the load: what was missed, and what the counter said meanwhile, before and after."""
    import numpy as np

    from edgekit.errors import EdgekitError
    from edgekit.runner.check import golden_inputs, read_golden
    from edgekit.runner.power.board import Board
    from edgekit.runner.power.looks import Looks
    from edgekit.runner.power.policy import Policy
    from edgekit.runner.serve.governed import Governed
    from edgekit.runner.serve.wire import Refusal
    from edgekit.runner.variants import Variants

    board, variants = Board(), Variants(bundle.path, [row.point for row in table.rows])
    model = variants.model(table.rows[0].point)
    samples = golden_inputs(model, read_golden(bundle))
    for row in table.rows:
        for _ in range(50):
            variants.answer(row.point, samples[0])
    before_w = idle_w(board)
    policy, looks = Policy(goal, table), Looks(board, covers=table.covers)
    looks.tell(policy, 0.0)
    governed = Governed(model, variants, policy, looks)
    random = np.random.default_rng(SEED)
    arrivals = np.cumsum(random.exponential(1 / options.rate, round(options.rate * options.seconds)))
    waiting, late, refused, failed, taken = queue.SimpleQueue(), [], [], [], []
    ended = threading.Event()
    watching = threading.Thread(target=governed.watch, args=(ended,), daemon=True)

    def client():
        while (number := waiting.get()) is not None:
            try:
                governed(samples[number % len(samples)])
                taken.append(time.perf_counter() - began - arrivals[number])
                if taken[-1] > goal.deadline_s:
                    late.append(number)
            except Refusal:
                refused.append(number)
            except EdgekitError as error:
                failed.append(str(error))

    clients = [threading.Thread(target=client, daemon=True) for _ in range(CLIENTS)]
    start_uj, started = energy_uj(board), time.perf_counter()
    began = time.perf_counter()
    watching.start()
    for thread in clients:
        thread.start()
    for number, arrival in enumerate(arrivals):
        left = arrival - (time.perf_counter() - began)
        if left > 0:
            time.sleep(left)
        waiting.put(number)
    for _ in clients:
        waiting.put(None)
    for thread in clients:
        thread.join()
    end_uj, seconds = energy_uj(board), time.perf_counter() - started
    ended.set()
    watching.join()
    if failed:
        sys.exit(f"power_nvml: {failed[0]}")
    after_w = idle_w(board)
    count, answered = len(arrivals), len(taken)
    joules = (end_uj - start_uj) / 1e6
    idle = min(
        before_w, after_w
    )  # right after calls without a pause a card keeps its clocks up for seconds: 128 W, not 82
    return {
        "inferences": count,
        "late": len(late),
        "refused": len(refused),
        "accuracy": policy.mean_accuracy,
        "median_ms": round(1e3 * float(np.median(taken)), 3),
        "p99_ms": round(1e3 * float(np.percentile(taken, 99)), 3),
        "watts": round(joules / seconds, 2),
        "idle_before_w": round(before_w, 2),
        "idle_after_w": round(after_w, 2),
        "total_mj": round(1e3 * joules / answered, 2),
        "above_idle_mj": round(1e3 * (joules - idle * seconds) / answered, 2),
        "believed_mj": round(1e3 * policy.used_j / answered, 2),
        "seconds": round(seconds, 2),
    }


def energy_uj(board):
    """The first card's counter, just after it moved: it does so every 20 to 100 ms."""
    first = last = counter(board)
    until = time.perf_counter() + 1.0
    while last == first and time.perf_counter() < until:
        time.sleep(0.002)
        last = counter(board)
    return last


def counter(board):
    from edgekit.runner.power.nvml import load_nvml, read_gpus

    board.library = getattr(board, "library", None) or load_nvml()
    return next(r.value for r in read_gpus(board.library, 0) if r.quantity == "energy" and r.value is not None)


def idle_w(board, seconds=1.5):
    time.sleep(0.5)  # what just ran is over
    first, began = energy_uj(board), time.perf_counter()
    time.sleep(seconds)
    last = energy_uj(board)
    return (last - first) / 1e6 / (time.perf_counter() - began)


def report(goal, table, runs, options):
    """The table for a person, and all of it as JSON."""
    from edgekit.runner.power.hull import least_energy, lower_hull

    rows = {}
    for name, each in runs.items():
        count, answered = sum(r["inferences"] for r in each), sum(r["inferences"] - r["refused"] for r in each)
        rows[name] = {
            "name": name,
            "missed": 100 * sum(r["late"] + r["refused"] for r in each) / count,
            "accuracy": sum((r["accuracy"] or 0) * (r["inferences"] - r["refused"]) for r in each) / max(answered, 1),
            **{key: sum(r[key] for r in each) / len(each) for key in MEANS},
        }
    ours = rows.pop("edgekit")
    fits = [row for row in rows.values() if row["accuracy"] >= options.accuracy]
    best = min(fits, key=lambda row: row["above_idle_mj"])
    costs, gains = [row["above_idle_mj"] for row in rows.values()], [row["accuracy"] for row in rows.values()]
    optimum = least_energy(lower_hull(costs, gains), costs, gains, options.accuracy)[0]
    print(f"\n{goal} at {options.rate:g} a second; energy of the whole card by NVML's counter")
    print(f"{'':44}{'missed %':>9}{'accuracy':>9}{'median ms':>10}{'p99 ms':>8}{'W':>8}{'mJ':>8}{'above idle':>11}")
    for row in [*rows.values(), ours]:
        cells = (f"{row['missed']:9.3f}{row['accuracy']:9.3f}{row['median_ms']:10.3f}{row['p99_ms']:8.2f}"
                 f"{row['watts']:8.1f}{row['total_mj']:8.1f}{row['above_idle_mj']:11.2f}")  # fmt: skip
        print(f"{row['name']:44}{cells}")
    above, whole = ours["above_idle_mj"] / best["above_idle_mj"], ours["total_mj"] / best["total_mj"]
    print(
        f"best fixed point with that accuracy: {best['name']}; edgekit above idle {above:.3f} x, in all {whole:.3f} x"
    )
    print(f"best mix of the fixed points: {optimum:.2f} mJ; edgekit {ours['above_idle_mj'] / optimum:.3f} x")
    found = {"goal": goal, "date": time.strftime("%Y-%m-%d"), "rate_hz": options.rate, "edgekit": ours, "best_fixed": best,
             "fixed": rows, "best_mix_mj": optimum, "runs": runs, "table": [
                 {"point": row.point.words, "latency_us": row.latency_us, "power_uw": row.power_uw} for row in table.rows
             ], "idle_uw": table.idle_uw}  # fmt: skip
    if options.json:
        options.json.write_text(json.dumps(found, indent=1))
    return found


if __name__ == "__main__":
    sys.path[:0] = [str(ROOT / "scripts")]
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_options(parser)
    run(parser.parse_args())
