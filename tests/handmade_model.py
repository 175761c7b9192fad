"""Small .tflite files made operator by operator, and bundles of them: what no converter needs to be installed for."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgekit.bundle import Delegate, Manifest, write_bundle
from edgekit.preprocess import Generic, spec_digest, spec_fields


@dataclass(frozen=True)
class T:
    """A tensor of a graph; `data` makes it a constant."""

    name: str
    shape: tuple
    dtype: str = "float32"
    scale: float | None = None
    zero_point: int = 0
    data: np.ndarray | None = None


def build(operators, *, inputs, outputs, names=None, version=1):
    """The bytes of a model. `operators`: (name, tensors in, tensors out, options by their name in schema.fbs, if any);
    `names`: signature name -> tensor name."""
    import flatbuffers
    from ai_edge_litert import schema_py_generated as tfl

    tensors, buffers = [], [tfl.BufferT()]

    def number(tensor):
        for i, (known, _) in enumerate(tensors):
            if known is tensor:
                return i
        made = tfl.TensorT()
        made.name, made.shape, made.type = (
            tensor.name,
            list(tensor.shape),
            getattr(tfl.TensorType, tensor.dtype.upper()),
        )
        made.shapeSignature = list(tensor.shape)
        if tensor.scale is not None:
            made.quantization = tfl.QuantizationParametersT()
            made.quantization.scale, made.quantization.zeroPoint = [tensor.scale], [tensor.zero_point]
        if tensor.data is not None:
            buffers.append(tfl.BufferT())
            buffers[-1].data = np.frombuffer(np.ascontiguousarray(tensor.data).tobytes(), np.uint8)
            made.buffer = len(buffers) - 1
        tensors.append((tensor, made))
        return len(tensors) - 1

    codes, made_operators = [], []
    for name, into, out, *settings in operators:
        code = tfl.OperatorCodeT()
        code.builtinCode = getattr(tfl.BuiltinOperator, name, tfl.BuiltinOperator.CUSTOM)
        if code.builtinCode == tfl.BuiltinOperator.CUSTOM:
            code.customCode = name
        code.deprecatedBuiltinCode, code.version = min(code.builtinCode, 127), version
        codes.append(code)
        operator = tfl.OperatorT()
        operator.opcodeIndex = len(codes) - 1
        operator.inputs, operator.outputs = [number(t) for t in into], [number(t) for t in out]
        kind = {"FULLY_CONNECTED": "FullyConnected", "ADD": "Add", "MUL": "Mul", "RESHAPE": "Reshape", "CAST": "Cast"}
        kind |= {"CONV_2D": "Conv2D", "DEPTHWISE_CONV_2D": "DepthwiseConv2D", "MEAN": "Reducer"}
        kind |= {"MAX_POOL_2D": "Pool2D", "AVERAGE_POOL_2D": "Pool2D", "LEAKY_RELU": "LeakyRelu"}
        kind |= {"STRIDED_SLICE": "StridedSlice", "PACK": "Pack", "SHAPE": "Shape", "CONCATENATION": "Concatenation"}
        if name in kind:
            options = getattr(tfl, f"{kind[name]}OptionsT")()
            if name == "RESHAPE":
                options.newShape = list(out[0].shape)
            for option, value in dict(*settings).items():
                assert hasattr(options, option)
                setattr(options, option, value)
            operator.builtinOptionsType = getattr(tfl.BuiltinOptions, f"{kind[name]}Options")
            operator.builtinOptions = options
        made_operators.append(operator)

    graph = tfl.SubGraphT()
    graph.operators = made_operators
    graph.inputs, graph.outputs = [number(t) for t in inputs], [number(t) for t in outputs]
    graph.tensors = [made for _, made in tensors]
    model = tfl.ModelT()
    model.version, model.operatorCodes, model.subgraphs, model.buffers = 3, codes, [graph], buffers
    if names:
        signature = tfl.SignatureDefT()
        signature.signatureKey, signature.subgraphIndex = "serving_default", 0
        for side, given in (("inputs", inputs), ("outputs", outputs)):
            maps = []
            for tensor in given:
                entry = tfl.TensorMapT()
                entry.name = next(name for name, of in names.items() if of == tensor.name)
                entry.tensorIndex = number(tensor)
                maps.append(entry)
            setattr(signature, side, maps)
        model.signatureDefs = [signature]
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def identity(dtype="int8", shape=(1, 4), scale=0.5, zero_point=-3):
    """What goes in comes out: of a quantized dtype, or with scale None of a plain one."""
    into, out = (T(name, shape, dtype, scale, zero_point) for name in ("in", "out"))
    return build([("RESHAPE", [into], [out])], inputs=[into], outputs=[out])


def classifier(shape=(1, 8, 8, 1), classes=10, dtype="int8", *, seed=0, first="RESHAPE"):
    """A fully connected layer with random weights, int8 or float32; int8 takes 0..1 as the digits network does."""
    random = np.random.default_rng(seed)
    size = int(np.prod(shape))
    weights = random.integers(-127, 128, (classes, size)).astype(np.int8)
    bias = random.integers(-2000, 2000, classes).astype(np.int32)
    if dtype == "float32":
        into, flat, out = T("in", shape), T("flat", (1, size)), T("out", (1, classes))
        w = T("w", (classes, size), data=weights.astype(np.float32) / 127)
        b = T("b", (classes,), data=bias.astype(np.float32) / 1000)
    else:
        into, flat = T("in", shape, "int8", 1 / 255, -128), T("flat", (1, size), "int8", 1 / 255, -128)
        w = T("w", (classes, size), "int8", 1 / 127, 0, weights)
        b = T("b", (classes,), "int32", 1 / 255 / 127, 0, bias)
        out = T("out", (1, classes), "int8", 0.25, 0)
    steps = [(first, [into], [flat]), ("FULLY_CONNECTED", [flat, w, b], [out])]
    return build(steps, inputs=[into], outputs=[out], names={"image": "in", "digit": "out"})


def sum_and_product():
    """Two float inputs `a` and `b`, two outputs `sum` and `product`."""
    a, b, s, p = (T(f"t_{name}", (1, 3)) for name in ("a", "b", "sum", "product"))
    steps = [("ADD", [a, b], [s]), ("MUL", [a, b], [p])]
    names = {"a": "t_a", "b": "t_b", "sum": "t_sum", "product": "t_product"}
    return build(steps, inputs=[a, b], outputs=[s, p], names=names)


def quantize_operator(dtype="int8", scale=0.1, zero_point=3, size=4096):
    """LiteRT's own QUANTIZE: float32 in, integers out."""
    into, out = T("in", (1, size)), T("out", (1, size), dtype, scale, zero_point)
    return build([("QUANTIZE", [into], [out])], inputs=[into], outputs=[out])


def dequantize_operator(dtype="int8", scale=0.1, zero_point=3, size=256):
    """LiteRT's own DEQUANTIZE: integers in, float32 out."""
    into, out = T("in", (1, size), dtype, scale, zero_point), T("out", (1, size))
    return build([("DEQUANTIZE", [into], [out])], inputs=[into], outputs=[out])


def compiled_classifier(shape=(1, 8, 8, 1), classes=10, *, seed=0):
    """`classifier` as an Edge TPU compiler might leave it: its RESHAPE in a custom operator, which a fake delegate copies."""
    return classifier(shape, classes, seed=seed, first="edgetpu-custom-op")


def make_bundle(
    path, model, *, raw, spec=None, labels=(), tolerance=0.0, threads=None, spoil=0, delegates=None, more=None
):
    """A bundle of one variant in `path`: `raw` (n, ...), or input name -> (n, ...), become its golden inputs.

    `spoil` is added to the golden outputs; `delegates` as the runner's --delegate takes them; `more`: other files in it.
    """
    from edgekit.delegates import parse_delegate
    from edgekit.runner.interpreter import open_interpreter
    from edgekit.runner.model import Model, describe_variant

    scratch = Path(path).with_suffix(".tflite")
    scratch.write_bytes(model)
    interpreter = open_interpreter(scratch, 1)
    variant = describe_variant(interpreter, "models/int8.tflite", quantization="int8")
    scratch.unlink()
    specs = {tensor.name: spec or Generic() for tensor in variant.inputs}
    runner = Model(variant, [interpreter], specs)
    inputs = raw if isinstance(raw, dict) else {variant.inputs[0].name: raw}
    answers = runner(inputs, raw_out=True)
    answers = answers if isinstance(answers, dict) else {variant.outputs[0].name: answers}
    arrays = {f"input/{name}": array for name, array in inputs.items()}
    arrays |= {f"output/int8/{name}": array + array.dtype.type(spoil) for name, array in answers.items()}
    golden = io.BytesIO()
    np.savez(golden, **arrays)
    options = {} if threads is None else {"threads": threads}
    listed = tuple(map(parse_delegate, delegates)) if delegates else (Delegate("cpu", options),)
    variant = type(variant)(**{**vars(variant), "golden_tolerance": tolerance, "delegates": listed})
    manifest = Manifest(
        name="handmade",
        target=None,
        arch=None,
        variants=(variant,),
        preprocess={name: spec_fields(s) for name, s in specs.items()},
        preprocess_sha256={name: spec_digest(s) for name, s in specs.items()},
        labels="labels.txt" if labels else None,
        golden="golden.npz",
        files={},
        made_by={},
        made_from={},
        commits={},
        command=(),
    )
    contents = {variant.file: model, "golden.npz": golden.getvalue(), **(more or {})}
    if labels:
        contents["labels.txt"] = ("\n".join(labels) + "\n").encode()
    return write_bundle(Path(path), manifest, contents)
