"""Reading .tflite files: against published figures, other readers, LiteRT itself, and files that lie."""

from __future__ import annotations

import gzip
import hashlib
import json
import random
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgekit.convert import cost, describe, flatbuffer
from edgekit.convert.cost import arena_parts
from edgekit.errors import NotAModel

pytest.importorskip("ai_edge_litert", reason="the schema of .tflite files comes with ai-edge-litert")

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="no ../shared/data beside this checkout")
MODELS = sorted([*DATA.glob("mlperf-tiny/*.tflite"), *DATA.glob("edgetpu/models/*.tflite")])
every_model = pytest.mark.parametrize("path", MODELS, ids=lambda path: path.stem)
RUNNABLE = [path for path in MODELS if "_edgetpu" not in path.stem and "_decoder" not in path.stem]  # custom operators
every_runnable_model = pytest.mark.parametrize("path", RUNNABLE, ids=lambda path: path.stem)


def shared_model(name: str) -> Path:
    path = DATA / name
    if not path.is_file():
        pytest.skip(f"no ../shared/data/{name} beside this checkout")
    return path


# --- a model written by hand, through the schema's own writer --------------------------------------------------------


def tensor(name, shape, dtype="INT8", *, buffer=0, scale=(), axis=0, signature=None, variable=False):
    from ai_edge_litert import schema_py_generated as schema

    made = schema.TensorT()
    made.name, made.shape, made.type, made.buffer = name, list(shape), getattr(schema.TensorType, dtype), buffer
    made.shapeSignature, made.isVariable = signature and list(signature), variable
    if scale:
        made.quantization = schema.QuantizationParametersT()
        made.quantization.scale, made.quantization.zeroPoint = list(scale), [0] * len(scale)
        made.quantization.quantizedDimension = axis
    return made


def operator(name, inputs, outputs, options=None, **values):
    """(operator code, operator); `options` is a class of the schema, its values are given by the schema's names."""
    from ai_edge_litert import schema_py_generated as schema

    code, made = schema.OperatorCodeT(), schema.OperatorT()
    code.builtinCode = getattr(schema.BuiltinOperator, name)
    code.deprecatedBuiltinCode, code.version = min(code.builtinCode, 127), 1
    made.inputs, made.outputs = list(inputs), list(outputs)
    if options:
        made.builtinOptions = getattr(schema, options + "T")()
        made.builtinOptionsType = getattr(schema.BuiltinOptions, options)
        vars(made.builtinOptions).update(values)
    return code, made


def model_bytes(tensors, operators, *, inputs=(0,), outputs=None, buffers=(), signature=None, outside=b""):
    """A .tflite; buffer 0 is empty, `buffers` follow; an int is the size of data that lies behind, in `outside`."""
    import flatbuffers
    from ai_edge_litert import schema_py_generated as schema

    model, graph = schema.ModelT(), schema.SubGraphT()
    model.version, model.description = 3, "by hand"
    model.operatorCodes = [code for code, _ in operators]
    for index, (_, made) in enumerate(operators):
        made.opcodeIndex = index
    graph.tensors, graph.operators, graph.name = tensors, [made for _, made in operators], "main"
    graph.inputs, graph.outputs = list(inputs), list(outputs if outputs is not None else (len(tensors) - 1,))
    model.subgraphs, model.buffers = [graph], [schema.BufferT()]
    for content in buffers:
        made = schema.BufferT()
        if isinstance(content, int):
            made.offset, made.size = 1 << 20, content
        else:
            made.data = np.frombuffer(content, np.uint8)
        model.buffers.append(made)
    if signature:
        made = schema.SignatureDefT()
        made.signatureKey, made.subgraphIndex = "serve", 0
        made.inputs, made.outputs = [], []
        for side, names in ((made.inputs, signature[0]), (made.outputs, signature[1])):
            for name, index in names.items():
                entry = schema.TensorMapT()
                entry.name, entry.tensorIndex = name, index
                side.append(entry)
        model.signatureDefs = [made]
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    written = bytes(builder.Output())
    return written.ljust(1 << 20, b"\0") + outside if outside else written


def small_model() -> bytes:
    return model_bytes(
        [
            tensor("in", [1, 8, 8, 3], scale=[0.5], signature=[-1, 8, 8, 3]),
            tensor("filter", [4, 3, 3, 3], buffer=1, scale=[0.1, 0.2, 0.3, 0.4]),
            tensor("bias", [4], "INT32", buffer=2),
            tensor("out", [1, 8, 8, 4], scale=[0.25], signature=[-1, 8, 8, 4]),
        ],
        [operator("CONV_2D", [0, 1, 2], [3], "Conv2DOptions", strideH=1, strideW=1, fusedActivationFunction=3)],
        buffers=[bytes(108), bytes(16)],
        signature=({"image": 0}, {"scores": 3}),
    )


# --- reading -------------------------------------------------------------------------------------------------------


def test_everything_written_into_a_model_is_read_back():
    model = flatbuffer.read_model(small_model())

    graph = model.subgraphs[0]
    weights = graph.tensors[1]
    assert (model.description, model.version, graph.name) == ("by hand", 3, "main")
    assert model.signatures == {"serve": flatbuffer.Signature(0, {"image": 0}, {"scores": 3})}
    assert graph.tensors[0].shape_signature == (-1, 8, 8, 3)
    assert graph.tensors[2].shape_signature is None
    assert (weights.constant, weights.bytes, weights.dtype) == (True, 108, "int8")
    assert weights.scale == pytest.approx((0.1, 0.2, 0.3, 0.4))
    assert (weights.zero_point, weights.quantized_dimension) == ((0, 0, 0, 0), 0)
    assert graph.operators[0].options["padding"] == "SAME"
    assert graph.operators[0].options["fused_activation_function"] == "RELU6"
    assert graph.operators[0].options["stride_h"] == 1
    assert model.constant_bytes == 124


def test_constants_behind_the_flatbuffer_are_constants():
    """Models over 2 GB keep weights behind the structure, Buffer.offset says where."""
    tensors = [tensor("in", [1, 4]), tensor("weights", [2, 4], buffer=1), tensor("out", [1, 2])]
    data = model_bytes(tensors, [operator("FULLY_CONNECTED", [0, 1], [2])], buffers=[8], outside=bytes(8))

    weights = flatbuffer.read_model(data).subgraphs[0].tensors[1]

    assert (weights.constant, weights.bytes) == (True, 8)
    with pytest.raises(NotAModel, match="ends at byte"):
        flatbuffer.read_model(data[:-1])


def test_a_constant_that_two_tensors_share_counts_once():
    tensors = [tensor("in", [1, 4]), tensor("a", [4], buffer=1), tensor("b", [4], buffer=1), tensor("out", [1, 4])]
    data = model_bytes(tensors, [operator("ADD", [0, 1], [3]), operator("ADD", [0, 2], [3])], buffers=[bytes(4)])

    assert flatbuffer.read_model(data).constant_bytes == 4


def test_a_custom_operator_goes_by_its_own_name():
    model = flatbuffer.read_model(shared_model("edgetpu/models/mobilenet_v1_0.25_128_quant_edgetpu.tflite"))

    assert describe.operator_counts(model) == {"edgetpu-custom-op": (1, 1)}
    assert model.subgraphs[0].operators[0].custom


@needs_data
def test_tensors_and_operators_are_those_that_another_reader_saw():
    """Files are matched by the first 8 digits of their SHA-1; options there carry the schema's own names."""
    with gzip.open(DATA / "edgetpu" / "compiler_verdicts.json.gz") as file:
        verdicts = {verdict["sha"]: verdict for verdict in json.load(file)}
    pairs = [(path, verdicts.get(hashlib.sha1(path.read_bytes()).hexdigest()[:8])) for path in MODELS]
    compared = 0
    for path, other in pairs:
        if other is None:
            continue
        graph = flatbuffer.read_model(path).subgraphs[0]
        compared += 1

        assert list(graph.inputs) == other["inputs"]
        assert list(graph.outputs) == other["outputs"]
        assert [
            (t.name, list(t.shape), t.dtype.upper(), t.bytes, bool(t.scale), len(t.scale) > 1) for t in graph.tensors
        ] == [
            (t["name"], t["shape"], t["dtype"], t["constant_bytes"], t["quantized"], t["per_channel"])
            for t in other["tensors"]
        ]
        assert [(o.name, o.version, list(o.inputs), list(o.outputs)) for o in graph.operators] == [
            (o["op"].removeprefix("CUSTOM:"), o["version"], o["inputs"], o["outputs"]) for o in other["ops"]
        ]
        for ours, theirs in zip(graph.operators, other["ops"], strict=True):
            steps = {"StrideH": "stride_h", "StrideW": "stride_w", "DepthMultiplier": "depth_multiplier"}
            assert {k: v for k, v in theirs["options"].items() if k in steps} == {
                k: ours.options[name] for k, name in steps.items() if k in theirs["options"]
            }
            if "Padding" in theirs["options"]:
                assert ours.options["padding"] == ("SAME", "VALID")[theirs["options"]["Padding"]]

    assert compared == 3  # deeplabv3, posenet, keras_lstm; the other copies of mobilenet_v1 have other digests


@every_runnable_model
def test_tensors_are_those_that_litert_reports(path):
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(path), num_threads=1)
    graph = flatbuffer.read_model(path).subgraphs[0]

    seen = {detail["index"]: detail for detail in interpreter.get_tensor_details()}
    assert graph.inputs == tuple(detail["index"] for detail in interpreter.get_input_details())
    assert graph.outputs == tuple(detail["index"] for detail in interpreter.get_output_details())
    for mine in graph.tensors:
        theirs = seen[mine.index]
        assert (mine.name, list(mine.shape)) == (theirs["name"], list(theirs["shape"]))
        assert mine.dtype == np.dtype(theirs["dtype"]).name
        assert mine.scale == tuple(theirs["quantization_parameters"]["scales"].tolist())
        assert mine.zero_point == tuple(theirs["quantization_parameters"]["zero_points"].tolist())


@pytest.mark.slow
@every_runnable_model
def test_operators_are_those_that_tensorflow_reports(path):
    tf = pytest.importorskip("tensorflow")
    plain = tf.lite.experimental.OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    interpreter = tf.lite.Interpreter(str(path), experimental_op_resolver_type=plain)
    graph = flatbuffer.read_model(path).subgraphs[0]

    seen = [(o["op_name"], tuple(o["inputs"]), tuple(o["outputs"])) for o in interpreter._get_ops_details()]
    assert [(o.name, o.inputs, o.outputs) for o in graph.operators] == seen
    shapes = {detail["index"]: tuple(detail["shape"]) for detail in interpreter.get_tensor_details()}
    assert {t.index: t.shape for t in graph.tensors} == {t.index: shapes[t.index] for t in graph.tensors}


# --- files that are not models ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "data", [b"", b"TFL3", b"PK\x03\x04" + bytes(99), bytes(4) + b"TFL3", bytes(4) + b"TFL3" + bytes(99), b"x" * 99]
)
def test_what_is_no_model_is_refused_with_a_hint(data):
    with pytest.raises(NotAModel) as refusal:
        flatbuffer.read_model(data)

    assert refusal.value.hint


def test_a_missing_file_a_folder_and_a_damaged_file_are_named(tmp_path):
    damaged = tmp_path / "damaged.tflite"
    damaged.write_bytes(small_model()[:500])
    for path in (tmp_path / "none.tflite", tmp_path, damaged):
        with pytest.raises(NotAModel, match=path.name):
            flatbuffer.read_model(path)


def test_a_tensor_that_does_not_exist_is_refused():
    data = model_bytes([tensor("in", [1]), tensor("out", [1])], [operator("ABS", [0], [7])])

    with pytest.raises(NotAModel, match="there are 2"):
        flatbuffer.read_model(data)


def test_shapes_that_an_operator_cannot_have_are_refused_when_counting():
    data = model_bytes([tensor("in", [1]), tensor("w", [3]), tensor("out", [1])], [operator("CONV_2D", [0, 1], [2])])
    model = flatbuffer.read_model(data)

    with pytest.raises(NotAModel, match="CONV_2D"):
        cost.macs(model)


def use_all(data: bytes) -> str:
    """Reads and asks everything; NotAModel is an answer, any other exception is a bug of ours."""
    try:
        model = flatbuffer.read_model(data)
        json.dumps(describe.model_summary(model))
        describe.operator_table(model)
    except NotAModel as error:
        return error.hint or pytest.fail(f"no hint: {error}")
    return "read"


@settings(
    max_examples=300, deadline=1000, suppress_health_check=[HealthCheck.function_scoped_fixture], derandomize=True
)
@given(st.data())
def test_any_change_to_a_small_model_is_read_or_refused(data):
    content = bytearray(small_model())
    for _ in range(data.draw(st.integers(1, 8))):
        place = data.draw(st.integers(0, len(content) - 4))
        content[place : place + 4] = data.draw(
            st.one_of(st.binary(min_size=4, max_size=4), st.just(b"\xff\xff\xff\x7f"))
        )

    assert use_all(bytes(content[: data.draw(st.integers(0, len(content)))] if data.draw(st.booleans()) else content))


@needs_data
def test_truncated_and_bit_flipped_models_are_read_or_refused_within_a_second():
    chance = random.Random(20)
    files = [path.read_bytes() for path in MODELS if path.stat().st_size < 150_000]
    slowest = 0.0
    for _ in range(600):
        content = bytearray(chance.choice(files))
        if chance.random() < 0.2:
            del content[chance.randrange(len(content)) :]
        for _ in range(chance.randrange(12) if content else 0):
            place = chance.randrange(max(0, len(content) - 9000), len(content))  # the structure is at the end
            content[place] = chance.choice([0, 1, 127, 255, content[place] ^ 1 << chance.randrange(8)])
        start = time.perf_counter()
        use_all(bytes(content))
        slowest = max(slowest, time.perf_counter() - start)

    assert slowest < 1


def test_a_vector_that_claims_billions_of_tensors_costs_nothing():
    from ai_edge_litert import schema_py_generated as schema

    content = bytearray(small_model())
    graph = schema.Model.GetRootAs(content, 0).Subgraphs(0)
    place = graph._tab.Vector(graph._tab.Offset(4)) - 4  # the length of `tensors`, first field of SubGraph
    content[place : place + 4] = (0x7FFFFFFF).to_bytes(4, "little")

    with pytest.raises(NotAModel, match="more than fits"):
        flatbuffer.read_model(bytes(content))


# --- what is float --------------------------------------------------------------------------------------------------


@needs_data
@pytest.mark.parametrize("name", ["ad01_int8", "kws_ref_model", "pretrainedResnet_quant"])
def test_the_official_int8_models_are_full_int8(name):
    assert describe.full_int8_findings(flatbuffer.read_model(shared_model(f"mlperf-tiny/{name}.tflite"))) == []


@needs_data
def test_a_dynamic_range_model_is_not_full_int8():
    model = flatbuffer.read_model(shared_model("mlperf-tiny/kws_ref_model_float32.tflite"))

    findings = describe.full_int8_findings(model)
    assert findings[:2] == ["input 'input_1' is float32, not int8", "output 'Identity' is float32, not int8"]
    assert len(findings) == 2 + len(model.subgraphs[0].operators)


def test_one_float_operator_between_int8_ends_is_found_before_what_leads_to_it():
    scale = [0.5]
    tensors = [
        tensor("in", [1, 4], scale=scale),
        tensor("wide", [1, 4], "FLOAT32"),
        tensor("raised", [1, 4], "FLOAT32"),
        tensor("out", [1, 4], scale=scale),
    ]
    operators = [operator("DEQUANTIZE", [0], [1]), operator("EXP", [1], [2]), operator("QUANTIZE", [2], [3])]
    model = flatbuffer.read_model(model_bytes(tensors, operators))

    assert describe.full_int8_findings(model) == [
        "operator 1, EXP, writes float32 'raised'",
        "operator 0, DEQUANTIZE, writes float32 'wide'",
        "operator 2, QUANTIZE, reads float32 'raised'",
    ]


@needs_data
@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("kws_ref_model", (9, 10)),
        ("ad01_int8", (0, 10)),
        ("pretrainedResnet", (0, 10)),
        ("pretrainedResnet_quant", (9, 10)),
    ],
)
def test_weights_quantized_per_channel_are_counted(name, expected):
    assert describe.per_channel_weights(flatbuffer.read_model(shared_model(f"mlperf-tiny/{name}.tflite"))) == expected


# --- multiply-accumulates ---------------------------------------------------------------------------------------------


@needs_data
@pytest.mark.parametrize(
    ("name", "published", "exact"),
    [
        # MLPerf Tiny v0.5 (Banbury et al. 2021, arXiv:2106.07597) and the reference models' own sums, layer by layer
        ("mlperf-tiny/pretrainedResnet_quant.tflite", 12.5e6, 12_501_632),
        ("mlperf-tiny/kws_ref_model.tflite", 2.66e6, 2_656_768),
        ("mlperf-tiny/ad01_int8.tflite", 0.264e6, 2 * 640 * 128 + 6 * 128 * 128 + 2 * 128 * 8),
        ("edgetpu/models/mobilenet_v1_0.25_128_quant.tflite", 14e6, 13_570_304),  # "14" million, arXiv:1704.04861
        # LSTM by hand: 28 steps of four gates of (28 + 20) x 20, then 560 x 10
        ("edgetpu/models/keras_lstm_mnist_ptq.tflite", 113_120, 28 * 4 * (28 + 20) * 20 + 560 * 10),
    ],
)
def test_macs_are_the_published_ones(name, published, exact):
    found = cost.macs(flatbuffer.read_model(shared_model(name)))

    assert found == exact
    assert found == pytest.approx(published, rel=0.04)


@pytest.mark.parametrize(
    ("name", "shapes", "options", "expected"),
    [
        ("CONV_2D", ([1, 8, 8, 4], [6, 3, 3, 4], [1, 8, 8, 6]), {}, 64 * 6 * 36),
        ("CONV_2D", ([1, 8, 8, 4], [6, 3, 3, 2], [1, 8, 8, 6]), {}, 64 * 6 * 18),  # two groups
        ("DEPTHWISE_CONV_2D", ([1, 8, 8, 4], [1, 3, 3, 8], [1, 8, 8, 8]), {}, 64 * 8 * 9),
        ("TRANSPOSE_CONV", ([4], [6, 3, 3, 4], [1, 8, 8, 4], [1, 16, 16, 6]), {}, 64 * 4 * 9 * 6),
        ("CONV_3D", ([1, 4, 8, 8, 2], [3, 3, 3, 2, 5], [1, 4, 8, 8, 5]), {}, 256 * 5 * 27 * 2),
        ("FULLY_CONNECTED", ([2, 10], [7, 10], [2, 7]), {}, 140),
        ("BATCH_MATMUL", ([3, 4, 5], [3, 5, 6], [3, 4, 6]), {}, 3 * 4 * 5 * 6),
        ("BATCH_MATMUL", ([3, 5, 4], [3, 5, 6], [3, 4, 6]), {"adjX": True}, 3 * 4 * 5 * 6),
        ("ADD", ([4], [4], [4]), {}, 0),
    ],
)
def test_macs_of_one_operator_are_those_worked_out_by_hand(name, shapes, options, expected):
    tensors = [tensor(str(place), shape) for place, shape in enumerate(shapes)]
    last = len(shapes) - 1
    made = operator(name, range(last), [last], "BatchMatMulOptions" if options else None, **options)
    graph = flatbuffer.read_model(model_bytes(tensors, [made])).subgraphs[0]

    assert cost.operator_macs(graph, graph.operators[0]) == expected


def test_a_free_batch_counts_as_one():
    tensors = [tensor("in", [8, 10], signature=[-1, 10]), tensor("w", [7, 10]), tensor("o", [8, 7], signature=[-1, 7])]
    model = flatbuffer.read_model(model_bytes(tensors, [operator("FULLY_CONNECTED", [0, 1], [2])]))

    assert cost.macs(model) == 70


# --- working memory ---------------------------------------------------------------------------------------------------


def litert_arena_bytes(path: Path, model: flatbuffer.Model) -> int:
    """The extent of the memory that LiteRT hands out for what is computed, variables left out (they lie elsewhere)."""
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    plain = OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    interpreter = Interpreter(str(path), experimental_op_resolver_type=plain, num_threads=1)
    interpreter.allocate_tensors()
    graph = model.subgraphs[0]
    elsewhere = {t.index for t in graph.tensors if t.constant or t.is_variable}
    for unpacked in (o for o in graph.operators if o.name == "DEQUANTIZE" and o.inputs[0] in elsewhere):
        elsewhere |= set(unpacked.outputs)  # float16 weights: made float once, kept in the other arena
    moving, scratch = [], []
    for index in range(interpreter._interpreter.NumTensors(0)):
        try:
            interpreter._get_tensor_details(index, 0)
        except ValueError:  # scratch without a shape, and LiteRT crashes on a look at it
            continue
        if index in elsewhere or (values := interpreter.tensor(index)()).nbytes == 0:
            continue
        start = values.__array_interface__["data"][0]
        (moving if index < len(graph.tensors) else scratch).append((start, start + values.nbytes))
    low, high = min(start for start, _ in moving), max(end for _, end in moving)
    for start, end in sorted(scratch):  # some scratch is in the other arena too: take what follows without a gap
        if low <= start < high + 64:
            high = max(high, end)
    return high - low


@every_runnable_model
def test_the_arena_is_the_one_that_litert_plans(path):
    model = flatbuffer.read_model(path)

    assert arena_parts(model)[0] == litert_arena_bytes(path, model)
    assert cost.arena_bytes(model, kernels=False) <= cost.arena_bytes(model)


CONVERT = """
import sys, numpy as np, tensorflow as tf
layers = tf.keras.layers
tf.random.set_seed(0)
start = tf.keras.Input((32, 32, 8))
wide = layers.Conv2D(16, 3, padding="same", activation="relu")(start)
deep = layers.Add()([wide, layers.DepthwiseConv2D(3, padding="same")(wide)])
half = layers.Conv2D(32, 3, strides=2, padding="same")(layers.Conv2D(32, 1)(deep))
back = layers.Conv2DTranspose(24, 3, strides=2, padding="same")(half)
dense = layers.Dense(300, activation="relu")(layers.GlobalAveragePooling2D()(back))
net = tf.keras.Model(start, layers.Dense(10, activation="softmax")(dense))
archive = tf.keras.export.ExportArchive()
archive.track(net)
shape = [1, 32, 32, 8]
archive.add_endpoint("serve", lambda x: net(x, training=False), input_signature=[tf.TensorSpec(shape, tf.float32)])
archive.write_out(sys.argv[1] + "/saved")
for kind in ("float", "dynamic", "float16", "int8"):
    converter = tf.lite.TFLiteConverter.from_saved_model(sys.argv[1] + "/saved")
    if kind != "float":
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if kind == "float16":
        converter.target_spec.supported_types = [tf.float16]
    if kind == "int8":
        converter.representative_dataset = lambda: ([np.random.rand(*shape).astype("float32")] for _ in range(3))
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
        converter.inference_input_type = converter.inference_output_type = tf.int8
    open(f"{sys.argv[1]}/{kind}.tflite", "wb").write(converter.convert())
"""


@pytest.fixture(scope="module")
def conversions(tmp_path_factory) -> Path:
    """One net as TensorFlow writes it: float, dynamic range, float16, int8; in a process of its own, it may crash."""
    pytest.importorskip("tensorflow")
    folder = tmp_path_factory.mktemp("conversions")
    subprocess.run([sys.executable, "-c", CONVERT, str(folder)], check=True, capture_output=True, timeout=300)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["float", "dynamic", "float16", "int8"])
def test_the_arena_of_what_tensorflow_converts_is_the_one_that_litert_plans(conversions, kind):
    path = conversions / f"{kind}.tflite"
    model = flatbuffer.read_model(path)

    assert arena_parts(model)[0] == litert_arena_bytes(path, model)


@pytest.mark.slow
def test_only_the_int8_conversion_is_full_int8(conversions):
    clean = {
        path.stem: not describe.full_int8_findings(flatbuffer.read_model(path)) for path in conversions.glob("*.tflite")
    }

    assert clean == {"float": False, "dynamic": False, "float16": False, "int8": True}


# --- what people and scripts see --------------------------------------------------------------------------------------


@needs_data
def test_the_summary_is_plain_json():
    path = shared_model("mlperf-tiny/pretrainedResnet_quant.tflite")
    summary = describe.model_summary(flatbuffer.read_model(path))

    assert json.loads(json.dumps(summary)) == summary
    assert summary["file_bytes"] == path.stat().st_size
    assert summary["weight_bytes"] == 78_752
    assert summary["macs"] == 12_501_632
    assert summary["arena_bytes"] == 199_680
    assert summary["findings"] == []
    assert {"name": "CONV_2D", "version": 3, "count": 9} in summary["operators"]
    assert summary["inputs"][0]["shape"] == [-1, 32, 32, 3]


@every_model
def test_the_table_has_a_row_per_operator_that_adds_up(path):
    model = flatbuffer.read_model(path)

    rows = describe.operator_table(model)
    assert len(rows) == len(model.subgraphs[0].operators)
    assert sum(row["macs"] for row in rows) == cost.macs(model)
    assert json.loads(json.dumps(rows)) == rows


READER_ALONE = """
import sys, types, edgekit
package = types.ModuleType("edgekit.convert")  # the reader without what else the package imports
package.__path__ = [edgekit.__path__[0] + "/convert"]
sys.modules["edgekit.convert"] = package
from edgekit.convert import flatbuffer
before = {"numpy", "ai_edge_litert"} & set(sys.modules)
flatbuffer.read_model(bytes.fromhex(sys.argv[1]))
print(before, [name for name in sys.modules if "pywrap" in name or name.endswith(".interpreter")])
"""


def test_the_reader_starts_no_interpreter_and_prints_nothing():
    arguments = [sys.executable, "-c", READER_ALONE, small_model().hex()]
    done = subprocess.run(arguments, capture_output=True, text=True, check=True)

    assert (done.stdout, done.stderr) == ("set() []\n", "")


@needs_data
def test_the_largest_model_here_is_read_in_50_ms():
    largest = max(MODELS, key=lambda path: len(flatbuffer.read_model(path).subgraphs[0].tensors))
    data = largest.read_bytes()
    times = []
    for _ in range(5):
        start = time.perf_counter()
        flatbuffer.read_model(data)
        times.append(time.perf_counter() - start)

    assert min(times) < 0.05
