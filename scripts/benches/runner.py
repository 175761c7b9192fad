"""The runner beside its interpreter alone: import, one call, and a new process to its first answer.

The plain side is what one would write by hand for the same model, its input already quantized.
"""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from . import added_row, child_environment, in_turns, ratio_row

IMPORT = "import time; start = time.perf_counter(); {}; print(time.perf_counter() - start)"
BY_HAND = """
import sys
import numpy as np
from {module} import Interpreter
interpreter = Interpreter(model_path=sys.argv[1], num_threads={threads})
interpreter.allocate_tensors()
(given,), (wanted,) = interpreter.get_input_details(), interpreter.get_output_details()
interpreter.set_tensor(given["index"], np.load(sys.argv[2]))
interpreter.invoke()
print(interpreter.get_tensor(wanted["index"])[0].argmax())
"""


def add_options(parser):
    parser.add_argument("bundle", type=Path, nargs="?", default=Path("build/demo/bundle"))
    parser.add_argument("--rounds", type=int, default=31, help="new processes of each kind (default 31)")


def measure(options):
    if not (options.bundle / "manifest.json").is_file():
        sys.exit(
            f"bench: {options.bundle} is not a bundle\n  scripts/demo makes build/demo/bundle, or give the path of another"
        )
    with tempfile.TemporaryDirectory() as scratch:
        yield from _rows(options, Path(scratch))


def _rows(options, scratch):
    import numpy as np

    from edgekit.bundle import read_bundle
    from edgekit.runner import Model, load
    from edgekit.runner.check import golden_inputs, read_golden
    from edgekit.runner.interpreter import RUNTIME, open_interpreter

    module = {"ai-edge-litert": "ai_edge_litert.interpreter", "tflite-runtime": "tflite_runtime.interpreter"}[RUNTIME]
    bundle = read_bundle(options.bundle)
    loaded = load(options.bundle)
    variant = loaded.variant
    if len(variant.inputs) > 1:
        sys.exit("bench: this bench wants a model with one input")
    raw = golden_inputs(loaded, read_golden(bundle))[0]
    threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()

    # one interpreter for both sides, so that both find the same caches
    interpreter = open_interpreter(bundle.file(variant.file), 1)
    model = Model(variant, [interpreter], loaded.specs)
    given, wanted = interpreter.get_input_details()[0]["index"], interpreter.get_output_details()[0]["index"]
    model(raw)
    content = interpreter.get_tensor(given).copy()

    def by_hand():
        interpreter.set_tensor(given, content)
        interpreter.invoke()
        return interpreter.get_tensor(wanted)

    yield _import_row(module, options.rounds)
    inputs = {str(raw.dtype): raw, "float32": raw.astype(np.float32)}
    for name, x in inputs.items():
        yield added_row(f"model(x), {name}", *_per_call(by_hand, lambda x=x: model(x)), "us", at_most=15)
    for name, x in inputs.items():
        batch = np.stack([x] * 32)
        found = _per_call(by_hand, lambda batch=batch: model(batch), count=32)
        yield added_row(f"model(32 x), {name}, each", *found, "us", at_most=15)
    np.save(scratch / "raw.npy", raw)
    np.save(scratch / "content.npy", content)
    (scratch / "by_hand.py").write_text(BY_HAND.format(module=module, threads=threads))
    plain = ["-s", scratch / "by_hand.py", bundle.file(variant.file), scratch / "content.npy"]
    ours = ["-s", "-m", "edgekit.runner", "infer", options.bundle, scratch / "raw.npy"]
    found = in_turns(lambda: _first_line_ms(plain), lambda: _first_line_ms(ours), options.rounds)
    yield ratio_row("new process to first answer", *found, "ms", at_most=1.2)


def _import_row(module, rounds):
    def import_ms(statement):
        done = subprocess.run(
            [sys.executable, "-s", "-c", IMPORT.format(statement)],
            env=child_environment(), check=True, capture_output=True, text=True,
        )  # fmt: skip
        return float(done.stdout) * 1000

    plain, ours = f"from {module} import Interpreter", "from edgekit.runner import load"
    found = in_turns(lambda: import_ms(plain), lambda: import_ms(ours), rounds)
    return ratio_row("import, without starting Python", *found, "ms", at_most=1.1)


def _per_call(by_hand, ours, *, count=1):
    """Microseconds of one inference, in rounds of 64: by hand, and with `ours`, which does `count` in one call."""

    def timed(function, calls):
        start = time.perf_counter_ns()
        for _ in range(calls):
            function()
        return (time.perf_counter_ns() - start) / 1000 / 64

    return in_turns(lambda: timed(by_hand, 64), lambda: timed(ours, 64 // count), 200)


def _first_line_ms(arguments):
    start = time.perf_counter_ns()
    command = [sys.executable, *map(str, arguments)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=child_environment()
    ) as process:
        line = process.stdout.readline()
        taken = (time.perf_counter_ns() - start) / 1e6
    if process.returncode != 0 or not line:
        sys.exit(f"bench: did not answer: {' '.join(command)}")
    return taken
