"""The runner beside bare LiteRT, ONNX Runtime int8 and OpenVINO int8 on the same network, as ratios of medians.

    scripts/bench engines MODEL.onnx                  a float network with one input; without one, a small one is made
    scripts/bench engines --python VENV/bin/python    that has them: pip install onnx onnxruntime openvino ai-edge-litert

Each engine makes its own int8 network of the same float one, from the same samples, in its own way: ONNX Runtime's static QDQ,
OpenVINO what ONNX Runtime wrote (its own quantizer, NNCF, is another 400 MB), LiteRT what edgekit wrote (edgekit[onnx]).
All run in one process, in turns.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

from . import Row

ROUNDS, CALLS = 40, 20


def add_options(parser):
    parser.add_argument("model", type=Path, nargs="?", help="an .onnx; default: a MobileNet-like network at 96 x 96")
    parser.add_argument("--python", default=sys.executable, help="with onnx, onnxruntime, openvino and ai-edge-litert")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path, help="write the figures here")


def measure(options):
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        _child(options.python, "networks", folder, options.model)
        _bundle(folder)
        found = _child(options.python, "time", folder, options.threads)
    if options.json:
        options.json.write_text(json.dumps(found, indent=1))
    base = found["us"]["LiteRT Interpreter, XNNPACK"]
    for name, value in found["us"].items():
        ratio = found["ratios"][name]
        allowed = 1.05 if name == "edgekit runner" else float("inf")
        shown = "5 % over bare" if name == "edgekit runner" else "any"
        yield Row(name, f"{base:.1f} us", f"{value:.1f} us", f"{ratio:.2f} x", shown, ratio <= allowed)
    for name, value in found["same_class"].items():
        yield Row(f"{name}: same class as float", "", f"{value:.0%}", "", "any", True)


def _child(python, verb, folder, argument):
    root = str(Path(__file__).resolve().parents[2])
    code = f"import sys; sys.path[:0] = [{root!r}, {root + '/scripts'!r}]; from benches import engines; "
    code += f"engines.{verb}_in({str(folder)!r}, {str(argument)!r})"
    done = subprocess.run([python, "-c", code], capture_output=True, text=True)
    if done.returncode:
        why = (done.stderr.strip().splitlines() or ["it failed"])[-1]
        sys.exit(f"bench: {why}\n  pip install onnx onnxruntime openvino ai-edge-litert")
    lines = done.stdout.strip().splitlines()
    return json.loads(lines[-1]) if lines and verb == "time" else None


def _bundle(folder):
    """edgekit's int8 of the same network, by its own command's function."""
    import edgekit

    edgekit.convert(folder / "float.onnx", folder / "bundle", folder / "samples.npz", report=False)


# --- in the Python that has the engines ---------------------------------------------------------------------------------


def networks_in(folder, model):
    """float.onnx, samples.npz (NCHW), int8.onnx."""
    import numpy as np
    import onnx
    from onnxruntime import InferenceSession
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    folder = Path(folder)
    path = folder / "float.onnx"
    if model == "None":
        onnx.save(_network(), path)
    else:
        path.write_bytes(Path(model).read_bytes())
    session = InferenceSession(str(path))
    (given,) = session.get_inputs()
    shape = [size if isinstance(size, int) else 1 for size in given.shape]
    samples = np.random.default_rng(0).normal(0, 1, (100, *shape[1:])).astype(np.float32)
    np.savez(folder / "samples.npz", **{given.name: samples})

    class Reader(CalibrationDataReader):
        def __init__(self):
            self.left = iter(samples)

        def get_next(self):
            sample = next(self.left, None)
            return None if sample is None else {given.name: sample[None]}

    quantize_static(
        *(str(path), str(folder / "int8.onnx"), Reader()),
        quant_format=QuantFormat.QDQ, per_channel=True, activation_type=QuantType.QInt8, weight_type=QuantType.QInt8,
    )  # fmt: skip


def _network():
    """Depthwise separable convolutions, stride 2 four times: 96 x 96 to 6 x 6, 10 classes; random weights of unit gain."""
    import numpy as np
    from onnx import TensorProto, helper, numpy_helper

    random = np.random.default_rng(0)
    nodes, weights = [], []

    def conv(x, name, cin, cout, kernel, stride, group):
        shape = (cout, cin // group, kernel, kernel)
        w = random.normal(0, np.sqrt(2 / np.prod(shape[1:])), shape).astype(np.float32)
        zeros = np.zeros(cout, np.float32)
        weights.extend([numpy_helper.from_array(w, f"{name}_w"), numpy_helper.from_array(zeros, f"{name}_b")])
        pad = kernel // 2
        shape = {"kernel_shape": [kernel] * 2, "strides": [stride] * 2, "pads": [pad] * 4, "group": group}
        nodes.append(helper.make_node("Conv", [x, f"{name}_w", f"{name}_b"], [name], **shape))
        nodes.append(helper.make_node("Relu", [name], [f"{name}_r"]))
        return f"{name}_r"

    x, channels = conv("input", "stem", 3, 16, 3, 2, 1), 16
    for block, (out, stride) in enumerate([(32, 1), (64, 2), (64, 1), (128, 2), (128, 1), (256, 2), (256, 1)]):
        x = conv(x, f"depth{block}", channels, channels, 3, stride, channels)
        x, channels = conv(x, f"point{block}", channels, out, 1, 1, 1), out
    weights.append(numpy_helper.from_array(random.normal(0, 1 / 16, (channels, 10)).astype(np.float32), "dense"))
    nodes.append(helper.make_node("GlobalAveragePool", [x], ["pooled"]))
    nodes.append(helper.make_node("Flatten", ["pooled"], ["flat"]))
    nodes.append(helper.make_node("MatMul", ["flat", "dense"], ["output"]))
    given = helper.make_tensor_value_info("input", TensorProto.FLOAT, [1, 3, 96, 96])
    wanted = helper.make_tensor_value_info("output", TensorProto.FLOAT, [1, 10])
    graph = helper.make_graph(nodes, "network", [given], [wanted], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def time_in(folder, threads):
    """Medians in microseconds, all engines in turns; and how often each gives the float network's class."""
    import time

    import numpy as np
    import onnxruntime
    import openvino
    from ai_edge_litert.compiled_model import CompiledModel, CpuOptions, HardwareAccelerator, Options

    from edgekit.bundle import read_bundle
    from edgekit.runner import load
    from edgekit.runner.interpreter import open_interpreter

    folder, threads = Path(folder), int(threads)
    samples = next(iter(np.load(folder / "samples.npz").values()))
    nchw = [sample[None] for sample in samples[:20]]

    def session(name):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        found = onnxruntime.InferenceSession(str(folder / name), options, providers=["CPUExecutionProvider"])
        given = found.get_inputs()[0].name
        return lambda i: found.run(None, {given: nchw[i]})[0]

    def vino(name):
        core = openvino.Core()
        compiled = core.compile_model(
            str(folder / name), "CPU", {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY"}
        )
        request = compiled.create_infer_request()

        def run(i):
            request.infer([nchw[i]])
            return request.get_output_tensor().data

        return run

    bundle = read_bundle(folder / "bundle")
    file = bundle.file(bundle.manifest.variant().file)
    model = load(folder / "bundle", threads=threads)
    tensor, out = model.inputs[0], model.outputs[0]
    as_given = [x[0] if tensor.shape[1:] == x.shape[1:] else x[0].transpose(1, 2, 0) for x in nchw]
    raw = [np.clip(np.rint(x / tensor.scale) + tensor.zero_point, -128, 127).astype(np.int8)[None] for x in as_given]

    def bare(xnnpack):
        interpreter = open_interpreter(file, threads, xnnpack=xnnpack)
        into, from_ = interpreter.get_input_details()[0]["index"], interpreter.get_output_details()[0]["index"]

        def run(i):
            interpreter.set_tensor(into, raw[i])
            interpreter.invoke()
            return interpreter.get_tensor(from_)

        return run

    def compiled():
        made = CompiledModel.from_file(
            str(file), options=Options(HardwareAccelerator.CPU, cpu_options=CpuOptions(num_threads=threads))
        )
        into, from_ = made.create_input_buffers(0), made.create_output_buffers(0)
        size = int(np.prod(out.shape))

        def run(i):
            into[0].write(raw[i])
            made.run_by_index(0, into, from_)
            return from_[0].read(size, np.int8)

        return run

    engines = {
        "LiteRT Interpreter, XNNPACK": bare(True),
        "LiteRT Interpreter, own kernels": bare(False),
        "LiteRT CompiledModel": compiled(),
        "edgekit runner": lambda i: model(raw[i][0], raw_in=True, raw_out=True),
        "ONNX Runtime int8": session("int8.onnx"),
        "OpenVINO int8": vino("int8.onnx"),
        "ONNX Runtime float": session("float.onnx"),
        "OpenVINO float": vino("float.onnx"),
    }
    for run in engines.values():
        for i in range(10):
            run(i)
    taken = {name: [] for name in engines}
    for turn in range(ROUNDS):
        names = list(engines) if turn % 2 else list(engines)[::-1]
        for name in names:
            run = engines[name]
            start = time.perf_counter_ns()
            for call in range(CALLS):
                run(call % len(nchw))
            taken[name].append((time.perf_counter_ns() - start) / 1000 / CALLS)
    wanted = [int(np.argmax(engines["ONNX Runtime float"](i))) for i in range(len(nchw))]
    same = {
        name: float(np.mean([int(np.argmax(run(i))) == w for i, w in enumerate(wanted)]))
        for name, run in engines.items()
    }
    versions = {"onnxruntime": onnxruntime.__version__, "openvino": openvino.__version__}
    base = taken["LiteRT Interpreter, XNNPACK"]
    ratios = {name: float(np.median(np.array(each) / base)) for name, each in taken.items()}
    medians = {name: float(np.median(each)) for name, each in taken.items()}
    print(json.dumps({"us": medians, "ratios": ratios, "same_class": same, **versions}))
