"""LiteRT on a GPU beside the processor: absolute times, largest differences, energy of an inference by NVML's counter.

    python scripts/benches/gpu.py prepare build/gpu      where TensorFlow is: networks without their weights, 0.3 MB
    python scripts/benches/gpu.py run build/gpu --wheels DIR --json gpu.json      where the GPU is: no TensorFlow, no network

Wheels that it wants in DIR, where they are not installed: ai-edge-litert, numpy, ml_dtypes, flatbuffers. Also libvulkan.so.1
and the GPU's Vulkan driver (a list in /usr/share/vulkan/icd.d or VK_DRIVER_FILES). Weights are drawn from a fixed seed with the
standard deviations that the networks had, so nothing has to be carried there; MLPerf Tiny's own files are run as they are.
"""

import argparse
import gzip
import importlib.util
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TINY = ROOT.parent / "shared" / "data" / "mlperf-tiny"
TINY_FILES = ("kws_ref_model", "pretrainedResnet", "pretrainedResnet_quant", "ad01_int8")
NEEDED = ("numpy", "ai_edge_litert", "ml_dtypes", "flatbuffers")
NETWORKS = ("MobileNetV2", "EfficientNetB0", "ResNet50")
BATCHES = (1, 32)
SEED = 20261122
KEPT = 4096  # constants with fewer values are kept as they are


def add_options(parser):
    parser.add_argument("verb", choices=["prepare", "run"], nargs="?", default="run")
    parser.add_argument("folder", type=Path, nargs="?", default=ROOT / "build" / "gpu", help="default build/gpu")
    parser.add_argument("--wheels", type=Path, help="a folder of wheels for what is not installed")
    parser.add_argument("--json", type=Path, help="write all figures here")
    parser.add_argument("--seconds", type=float, default=3.0, help="of each measurement (default 3)")
    parser.add_argument("--only", default="", help="networks whose name has this in it")
    parser.add_argument("--batches", type=int, nargs="+", default=list(BATCHES))
    parser.add_argument("--tiny", type=Path, default=TINY, help="MLPerf Tiny's .tflite files")


def measure(options):
    """Rows for scripts/bench: the processor, the GPU, and how many times faster it is."""
    from benches import Row

    if options.verb == "prepare":
        prepare(options.folder)
        return
    for found in run(options):
        for unit in ("gpu f32", "gpu f16"):
            ours = found["units"].get(unit, {})
            if "median_us" in ours:
                cpu = found["units"]["cpu"]["median_us"]
                name = f"{found['network']} {found['type']} batch {found['batch']}, {unit}"
                shown = f"{ours['median_us']:.0f} us", f"{cpu / ours['median_us']:.2f} x faster"
                yield Row(name, f"{cpu:.0f} us", shown[0], shown[1], "any", True)


# --- where TensorFlow is ----------------------------------------------------------------------------------------------


def prepare(folder):
    """The float networks for each batch as .tflite files without weights, gzip-ed: structure, names and deviations."""
    import numpy as np
    import tensorflow as tf
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2 as constant

    folder.mkdir(parents=True, exist_ok=True)
    for name in NETWORKS:
        tf.keras.utils.set_random_seed(SEED)
        model = getattr(tf.keras.applications, name)(weights=None, input_shape=(224, 224, 3))
        _settle_normalization(model, np.random.default_rng(SEED).normal(0, 1, (8, 224, 224, 3)).astype(np.float32))
        for batch in BATCHES:
            shape = tf.TensorSpec((batch, 224, 224, 3), tf.float32)
            function = tf.function(lambda x, model=model: model(x, training=False)).get_concrete_function(shape)
            content = tf.lite.TFLiteConverter.from_concrete_functions([constant(function)]).convert()
            place = folder / f"{name}.batch{batch}.tflite.gz"
            place.write_bytes(gzip.compress(without_weights(content), 9, mtime=0))
            print(f"{place}: {len(content) / 1e6:.1f} MB without its weights is {place.stat().st_size / 1e3:.0f} kB")


def _settle_normalization(model, x):
    """Batch normalization with the statistics of a forward pass: with random weights alone activations would explode."""
    layers = [layer for layer in model.layers if type(layer).__name__ == "BatchNormalization"]
    for layer in layers:
        layer.momentum = 0.0
    model(x, training=True)


def without_weights(content):
    """A .tflite whose large float constants are zeros; each one's name ends in its mean and standard deviation."""
    import numpy as np

    sys.path[:0] = [str(ROOT)]
    from edgekit.convert.rewrite import packed, unpacked

    model = unpacked(content)
    for tensor in model.subgraphs[0].tensors:
        data = model.buffers[tensor.buffer].data
        if tensor.type == 0 and data is not None and len(data) >= 4 * KEPT:
            values = np.frombuffer(bytes(data), np.float32)
            tensor.name = bytes(tensor.name) + f"|{values.mean():.6g}|{values.std():.6g}".encode()
            model.buffers[tensor.buffer].data = np.zeros(len(data), np.uint8)
    return packed(model)


def with_weights(content):
    """The same with weights drawn from a fixed seed."""
    import numpy as np

    from edgekit.convert.rewrite import packed, unpacked

    model = unpacked(content)
    random = np.random.default_rng(SEED)
    for tensor in model.subgraphs[0].tensors:
        name = bytes(tensor.name).split(b"|")
        if len(name) == 3:
            count = len(model.buffers[tensor.buffer].data) // 4
            values = random.normal(float(name[1]), float(name[2]), count).astype(np.float32)
            model.buffers[tensor.buffer].data = np.frombuffer(values.tobytes(), np.uint8)
    return packed(model)


# --- where the GPU is -------------------------------------------------------------------------------------------------


def run(options):
    """Figures of each network, type and batch; written as JSON too."""
    _install(options.wheels)
    sys.path[:0] = [str(ROOT)]
    found = []
    about = {
        "machine": platform.node(),
        "processor": _processor(),
        "date": time.strftime("%Y-%m-%d"),
        "vulkan": _vulkan(),
    }
    with tempfile.TemporaryDirectory() as scratch:
        for network, kind, batch, path in models(options, Path(scratch)):
            row = {"network": network, "type": kind, "batch": batch, "units": _apart(path, options.seconds)}
            found.append(row)
            for unit, each in row["units"].items():
                print(f"{network:28} {kind:6} batch {batch:2}  {unit:12} {_words(each)}", flush=True)
            path.unlink()
            if options.json:
                options.json.write_text(json.dumps({**about, "results": found}, indent=1))
    return found


def _install(wheels):
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if not missing:
        return
    if wheels is None:
        sys.exit(f"gpu: {', '.join(missing)} is missing\n  wheels for Python {platform.python_version()}: --wheels DIR")
    target = tempfile.mkdtemp(prefix="edgekit-gpu-")
    command = [sys.executable, "-m", "pip", "install", "-q", "--no-index", "--no-deps", "--find-links", str(wheels)]
    done = subprocess.run([*command, "--target", target, *(name.replace("_", "-") for name in missing)])
    if done.returncode:
        sys.exit(f"gpu: pip could not install {', '.join(missing)} from {wheels}")
    sys.path[:0] = [target]
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [target, os.environ.get("PYTHONPATH")]))
    importlib.invalidate_caches()


def models(options, scratch):
    """(network, type, batch, file), one after the other."""
    for name in TINY_FILES:
        path = options.tiny / f"{name}.tflite"
        if path.is_file() and options.only.lower() in name.lower():
            place = scratch / path.name
            place.write_bytes(path.read_bytes())
            yield name, "int8" if name != "pretrainedResnet" else "float", 1, place
    for name in NETWORKS:
        for batch in options.batches:
            packed = options.folder / f"{name}.batch{batch}.tflite.gz"
            if options.only.lower() not in name.lower():
                continue
            if not packed.is_file():
                sys.exit(f"gpu: {packed} is missing\n  python scripts/benches/gpu.py prepare {options.folder}")
            path = scratch / f"{name}.{batch}.float.tflite"
            path.write_bytes(with_weights(gzip.decompress(packed.read_bytes())))
            copy = scratch / f"{name}.{batch}.tflite"
            copy.write_bytes(path.read_bytes())
            yield name, "float", batch, copy
            yield name, "int8", batch, _quantized(path, scratch / f"q{name}{batch}")


def _quantized(path, folder):
    """Full int8, its ranges measured on noise."""
    import numpy as np

    from edgekit.convert.calibrate import measure_extremes
    from edgekit.convert.flatbuffer import read_model
    from edgekit.convert.quantize import quantize

    graph = read_model(path).subgraphs[0]
    tensor = graph.tensors[graph.inputs[0]]
    count = 1 if tensor.shape[0] > 1 else 8
    feeds = {tensor.name: np.random.default_rng(1).normal(0, 1, (count, *tensor.shape)).astype(np.float32)}
    extremes = measure_extremes(path, feeds)
    ranges = {
        name: (float(low), float(high))
        for name, low, high in zip(extremes.names, extremes.low.min(0), extremes.high.max(0), strict=True)
    }
    return quantize(path, "int8", [ranges], folder, back_ends=["litert"]).paths[0]


def _apart(path, seconds):
    """Each unit in a process of its own: a driver may crash."""
    answers = path.with_suffix(".npz")
    found = {}
    for unit in ("cpu", "gpu f32", "gpu f16", "gpu f32 partial"):
        if unit.endswith("partial") and "median_us" in found["gpu f32"]:
            continue
        command = [sys.executable, str(Path(__file__).resolve()), "--one", str(path), unit, str(seconds), str(answers)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=560)
        except subprocess.TimeoutExpired:
            found[unit] = {"failed": "no end within 560 s"}
            continue
        lines = done.stdout.splitlines()
        if done.returncode == 0 and lines:
            found[unit] = json.loads(lines[-1])
        else:
            said = [line for line in done.stderr.splitlines() if line.strip()]
            found[unit] = {"failed": f"exit code {done.returncode}: {said[-1] if said else ''}"}
    answers.unlink(missing_ok=True)
    return found


def one(path, unit, seconds, answers):
    """In the child: one unit. The processor's answers are kept for the others."""
    import numpy as np

    sys.path[:0] = [str(ROOT)]
    from edgekit.errors import EdgekitError
    from edgekit.runner.compiled import open_compiled
    from edgekit.runner.interpreter import open_interpreter
    from edgekit.runner.model import describe_variant

    cores = len(os.sched_getaffinity(0))
    plain = open_interpreter(path, cores)
    variant = describe_variant(plain, path, quantization="")
    started = time.perf_counter()
    if unit == "cpu":
        model = plain
    else:
        _, precision, *partial = unit.split()
        try:
            model = open_compiled(path, variant, gpu=True, precision=precision, partial=bool(partial), threads=cores)
        except EdgekitError as error:
            print(json.dumps({"failed": str(error)}))
            return
    opened = time.perf_counter() - started
    given = variant.inputs[0]
    random = np.random.default_rng(2)
    # what makes a network's activations: noise in float, the same noise in the steps of an int8 input
    samples = [random.normal(0, 1, given.shape).astype(np.float32) for _ in range(4)]
    if given.dtype == "int8":
        samples = [np.clip(np.rint(x / given.scale) + given.zero_point, -128, 127).astype(np.int8) for x in samples]
    into, out = model.get_input_details()[0]["index"], model.get_output_details()[0]["index"]
    found = []
    for sample in samples:
        model.set_tensor(into, sample)
        model.invoke()
        found.append(np.array(model.get_tensor(out), np.float64))
    facts = {"open_ms": round(1000 * opened, 1), "threads": cores if unit == "cpu" else None}
    facts |= {"device": getattr(model, "device", ""), "software": getattr(model, "software", False)}
    if unit == "cpu":
        np.savez(answers, *found)
    else:
        wanted = list(np.load(answers).values())
        facts["max_difference"] = float(max(np.abs(a - b).max() for a, b in zip(found, wanted, strict=True)))
        same = [a.argmax(-1) == b.argmax(-1) for a, b in zip(found, wanted, strict=True)]
        facts["same_class"] = float(np.mean(same))
        facts["unit"] = "steps" if variant.outputs[0].scale is not None else "absolute"
        facts["whole_model"] = model.is_whole
    facts |= _timed(model, into, out, samples, seconds)
    print(json.dumps(facts))


def _timed(model, into, out, samples, seconds):
    """Steady state: input written, run, output read. Energy by the counter of each card, and of the processor."""
    import numpy as np

    from edgekit.runner.conditions import watch_conditions
    from edgekit.runner.power.board import Board
    from edgekit.runner.power.energy import Energies

    until = time.perf_counter() + min(1.0, seconds)
    while time.perf_counter() < until:
        model.set_tensor(into, samples[0])
        model.invoke()
        model.get_tensor(out)
    board, energies, taken = Board(), Energies(100), []
    with watch_conditions(board) as watch:
        energies.add(board.look(), board.clock())
        begin = last = time.perf_counter()
        while last - begin < seconds or len(taken) < 20:
            start = time.perf_counter()
            model.set_tensor(into, samples[len(taken) % len(samples)])
            model.invoke()
            model.get_tensor(out)
            taken.append(time.perf_counter() - start)
            if time.perf_counter() - last > 0.1:
                watch.look()
                energies.add(board.look(), board.clock())
            last = time.perf_counter() if time.perf_counter() - last > 0.1 else last
        whole = time.perf_counter() - begin
        watch.look()
        energies.add(board.look(), board.clock())
    conditions = watch.result(sum(taken) * 1e9, len(taken))
    microseconds = np.array(taken) * 1e6
    meters = {}
    for energy in energies.results():
        if energy.energy_uj is not None and energy.covered_ms > 500:
            each = energy.energy_uj / energy.covered_ms * 1000 * whole / len(taken)
            meters[f"{energy.name} {energy.covers}".strip()] = round(each, 1)
    return {
        "runs": len(taken),
        "median_us": round(float(np.median(microseconds)), 1),
        "p90_us": round(float(np.percentile(microseconds, 90)), 1),
        "p99_us": round(float(np.percentile(microseconds, 99)), 1),
        "energy_uj_per_run": meters,
        "temperature_mc": conditions.temperature_mc,
    }


def _words(each):
    if "failed" in each:
        return f"failed: {each['failed'][:120]}"
    energy = ", ".join(f"{name} {value / 1000:.3g} mJ" for name, value in each["energy_uj_per_run"].items())
    off = f", differs by {each['max_difference']:.3g} {each['unit']}" if "max_difference" in each else ""
    kind = " SOFTWARE GPU: the time means nothing" if each["software"] else ""
    return f"median {each['median_us'] / 1000:8.3f} ms, p99 {each['p99_us'] / 1000:8.3f} ms{off} {energy}{kind}"


def _processor():
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    name = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())
    return f"{name}, {len(os.sched_getaffinity(0))} cores"


def _vulkan():
    """What is there of Vulkan: for who wonders why there is no adapter."""
    import ctypes.util

    lists = [
        str(path) for folder in ("/etc/vulkan/icd.d", "/usr/share/vulkan/icd.d") for path in Path(folder).glob("*.json")
    ]
    return {
        "loader": ctypes.util.find_library("vulkan"),
        "drivers": lists,
        "VK_DRIVER_FILES": os.environ.get("VK_DRIVER_FILES"),
    }


if __name__ == "__main__":
    if sys.argv[1:2] == ["--one"]:
        one(sys.argv[2], sys.argv[3], float(sys.argv[4]), sys.argv[5])
        sys.exit(0)
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_options(parser)
    options = parser.parse_args()
    if options.verb == "prepare":
        prepare(options.folder)
    else:
        run(options)
