"""Quantizing beside TFLiteConverter: a float MobileNetV2-224 and 100 samples become int8; time, memory, and whole converts.

Each run is a process of its own. The plain side is what TensorFlow's guide says, from the Keras model, because
TFLiteConverter takes no .tflite; "calibrating and quantizing" leaves out what it needs to load and to make the float model.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benches import Row, child_environment, limit_row, ratio_row

SAMPLES = 100

MAKE = """
import sys, keras, numpy as np
keras.utils.set_random_seed(1)
rng, count = np.random.default_rng(1), int(sys.argv[2])
small = rng.random((count, 28, 28, 3), np.float32) + rng.random((10, 28, 28, 3), np.float32)[np.arange(count) % 10]
x = np.kron(small, np.ones((1, 8, 8, 1), np.float32)) - 1
model = keras.applications.MobileNetV2(weights=None, input_shape=(224, 224, 3))
for layer in model.layers:
    if isinstance(layer, keras.layers.BatchNormalization):
        layer.momentum = 0.7
model.compile("adam", "sparse_categorical_crossentropy")  # untrained, int8 has nothing to keep: 0 dB whatever the ranges
model.fit(x, np.arange(count) % 10, batch_size=25, epochs=2, verbose=0)
model.save(sys.argv[1] + "/model.keras")
np.savez(sys.argv[1] + "/samples.npz", x=x)
"""

PLAIN = """
import json, sys, time
started = time.perf_counter()
import numpy as np, keras, tensorflow as tf
x = np.load(sys.argv[1] + "/samples.npz")["x"]
model = keras.models.load_model(sys.argv[1] + "/model.keras", compile=False)
def converter():
    return tf.lite.TFLiteConverter.from_keras_model(model)
before = time.perf_counter()
converter().convert()
to_float = time.perf_counter() - before
c = converter()
c.optimizations = [tf.lite.Optimize.DEFAULT]
c.representative_dataset = lambda: ([row[None]] for row in x)
c.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
c.inference_input_type = c.inference_output_type = tf.int8
before = time.perf_counter()
c.convert()
to_int8 = time.perf_counter() - before
whole = time.perf_counter() - started - to_float  # a user converts once
print(json.dumps({"quantize": to_int8 - to_float, "whole": whole}))
"""

OURS = """
import json, sys, tempfile, time
started = time.perf_counter()
from pathlib import Path
import numpy as np
from edgekit.convert.samples import read_samples
from edgekit.convert.settle import settle
from edgekit.convert.variants import make_variants
model = Path(sys.argv[1] + "/float.tflite")
raw = read_samples(Path(sys.argv[1] + "/samples.npz"), with_labels=False)
spent = {}
def run(policy):
    with tempfile.TemporaryDirectory() as folder:
        before = time.perf_counter()
        settled = settle(model, raw, {}, np.arange(raw.count), until_settled=True)
        spent["calibration"] = time.perf_counter() - before
        make_variants(model, ["int8"], settled.seen, Path(folder), extremes=settled.extremes, policy=policy)
        return time.perf_counter() - before
fixed = run("min-max")
process = time.perf_counter() - started
chosen = run("auto")
print(json.dumps({"process": process, "quantize": fixed, "chosen": chosen, **spent}))
"""


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rounds", type=int, default=3, help="runs of each side (default 3)")


def measure(options: argparse.Namespace) -> list[Row]:
    with tempfile.TemporaryDirectory(prefix="edgekit-bench-") as folder:
        _run(["-c", MAKE, folder, str(SAMPLES)])
        plain, ours, converts = [], [], []
        for number in range(options.rounds + 1):
            plain.append(_measured(["-c", PLAIN, folder]))
            converts.append(_convert(Path(folder), number))
            ours.append(_measured(["-c", OURS, folder]))
    plain, ours, converts = plain[1:], ours[1:], converts[1:]

    def column(rows: list[dict], key: str) -> list[float]:
        return [row[key] for row in rows]

    choice = [(row["chosen"] - row["quantize"]) / row["calibration"] for row in ours]
    return [
        ratio_row("to int8, the whole process", column(plain, "whole"), column(ours, "process"), "s", at_most=0.1),
        ratio_row("calibrating and quantizing", column(plain, "quantize"), column(ours, "quantize"), "s", at_most=0.3),
        ratio_row("the same, ranges chosen", column(plain, "quantize"), column(ours, "chosen"), "s", at_most=1),
        ratio_row("peak memory", column(plain, "memory"), column(ours, "memory"), "MiB", at_most=0.25),
        ratio_row("edgekit convert from .keras", column(plain, "whole"), converts, "s", at_most=0.7),
        limit_row("choosing ranges, in calibrations", choice, "", at_most=2),
    ]


def _convert(folder: Path, number: int) -> float:
    """Seconds of the whole command; leaves float.tflite in `folder` the first time."""
    words = ["convert", "model.keras", "-o", f"bundle{number}", "--samples", "samples.npz", "--mode", "int8"]
    words += ["--mode", "float32"] if number == 0 else []
    started = time.perf_counter()
    _run(["-m", "edgekit.cli.main", *words], cwd=folder)
    taken = time.perf_counter() - started
    if number == 0:
        (folder / "bundle0" / "models" / "float32.tflite").rename(folder / "float.tflite")
    return taken


def _measured(arguments: list[str]) -> dict:
    """What a process printed, and the most memory (MiB, resident) that it and its children had at a time."""
    process = subprocess.Popen([sys.executable, *arguments], stdout=subprocess.PIPE, env=_environment())
    most = 0
    while process.poll() is None:
        most = max(most, _resident(process.pid))
        time.sleep(0.02)
    if process.returncode != 0:
        sys.exit(f"bench: exit code {process.returncode} of {arguments[:1]}")
    return {**json.loads(process.stdout.read().splitlines()[-1]), "memory": most / 2**20}


def _resident(pid: int) -> int:
    """Bytes of a process and its children, memory that they share (mapped files) as each one's part."""
    total = 0
    for each in [pid, *_children(pid)]:
        try:
            rollup = Path(f"/proc/{each}/smaps_rollup").read_text()
        except OSError:
            continue
        total += sum(int(line.split()[1]) * 1024 for line in rollup.splitlines() if line.startswith("Pss:"))
    return total


def _children(pid: int) -> list[int]:
    """Its children, without those that are about to become another program: until then their memory is the parent's."""
    try:
        found = [
            int(word) for path in Path(f"/proc/{pid}/task").glob("*/children") for word in path.read_text().split()
        ]
        own = Path(f"/proc/{pid}/cmdline").read_bytes()
        return [child for child in found if Path(f"/proc/{child}/cmdline").read_bytes() != own]
    except OSError:
        return []


def _run(arguments: list[str], cwd: Path | None = None) -> None:
    done = subprocess.run([sys.executable, *arguments], cwd=cwd, capture_output=True, text=True, env=_environment())
    if done.returncode != 0:
        sys.exit(f"bench: {done.stderr[-500:]}")


def _environment() -> dict[str, str]:
    quiet = {"TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "-1", "TF_ENABLE_ONEDNN_OPTS": "0"}
    return {**child_environment(), **quiet, "PATH": os.environ["PATH"]}
