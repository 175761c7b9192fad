"""Real conversions with TensorFlow in its child process: every kind of model once, then many questions to the bundles."""

from __future__ import annotations

import filecmp
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from edgekit.bundle import Bundle, read_bundle, verify_bundle
from edgekit.convert import convert
from edgekit.convert.describe import full_int8_findings, operator_counts, per_channel_weights
from edgekit.convert.flatbuffer import read_model
from edgekit.errors import ConversionError, InputError, NotAModel, SamplesError

pytest.importorskip("tensorflow", reason="converting needs tensorflow: pip install 'edgekit[convert]'")
interpreter = pytest.importorskip("edgekit.runner.interpreter")
runner = pytest.importorskip("edgekit.runner.model")

pytestmark = pytest.mark.slow
DATA = Path(__file__).resolve().parents[2] / "shared" / "data" / "mlperf-tiny"
EDGEKIT = [sys.executable, "-m", "edgekit.cli.main"]

MAKE_MODELS = r"""
import os, sys
from pathlib import Path
import keras, numpy as np, tensorflow as tf
from sklearn.datasets import load_digits

keras.utils.set_random_seed(1)
L, out, rng = keras.layers, Path(sys.argv[1]), np.random.default_rng(1)

images, classes = load_digits(return_X_y=True)
x, y = images.reshape(-1, 8, 8, 1).astype(np.uint8), classes.astype(np.int64)
start = keras.Input((8, 8, 1), name="image")
h = L.Conv2D(8, 3, padding="same", activation="relu")(L.Rescaling(1 / 16)(start))
h = L.BatchNormalization()(L.DepthwiseConv2D(3, strides=2, padding="same", activation="relu")(h))
h = L.Dropout(0.2)(L.Flatten()(h))
cnn = keras.Model(start, L.Dense(10, activation="softmax", name="digit")(h), name="cnn")
cnn.compile("adam", "sparse_categorical_crossentropy")
cnn.fit(x[:1200].astype(np.float32), y[:1200], epochs=6, verbose=0)
cnn.save(out / "cnn.keras")
cnn.save(out / "cnn.h5")
cnn.save_weights(out / "cnn.weights.h5")
cnn.export(out / "cnn_saved", format="tf_saved_model", verbose=False)
np.savez(out / "samples.npz", x=x[:60])
np.savez(out / "evaluate.npz", x=x[1200:1500], y=y[1200:1500])
np.savez(out / "answers.npz", x=x[1500:1516], y=cnn(x[1500:1516].astype(np.float32), training=False).numpy())
np.savez(out / "wrong.npz", x=x[:20], y=y[:20] + 5)
whole = (out / "cnn.keras").read_bytes()
(out / "truncated.keras").write_bytes(whole[: len(whole) // 2])

a, b = keras.Input((6,), name="left"), keras.Input((4, 3), name="right")
sums = L.Dense(5, activation="relu")(L.Concatenate()([a, L.Flatten()(b)]))
two = keras.Model({"left": a, "right": b}, {"size": L.Dense(1, name="d1")(sums), "place": L.Dense(3, name="d2")(sums)})
two.save(out / "two.keras")
np.savez(out / "two.npz", left=rng.normal(size=(40, 6)).astype("f"), right=rng.normal(size=(40, 4, 3)).astype("f"))

tokens = keras.Input((12,), dtype="int32", name="tokens")
words = L.GlobalAveragePooling1D()(L.Embedding(50, 8)(tokens))
keras.Model(tokens, L.Dense(4, activation="softmax")(words)).save(out / "tokens.keras")
np.savez(out / "tokens.npz", tokens=rng.integers(0, 50, (40, 12)))

series = keras.Input((None, 4), name="series")  # any length: the samples say which one
box = L.Dense(2)(L.GlobalAveragePooling1D()(L.Conv1D(8, 3, padding="same", activation="relu")(series)))
keras.Model(series, box).save(out / "series.keras")
waves = rng.normal(size=(60, 16, 4)).astype("f")
np.savez(out / "series.npz", x=waves[:40])
np.savez(out / "series_targets.npz", x=waves[40:], y=rng.normal(size=(20, 2)))

class Frames(tf.Module):  # no batch: the first size is the number of frames
    def __init__(self):
        self.w = tf.Variable(rng.normal(size=(5, 3)).astype("f"))

    @tf.function(input_signature=[tf.TensorSpec((7, 5), tf.float32, name="frames")])
    def fixed(self, frames):
        return {"features": tf.nn.relu(tf.matmul(frames, self.w))}

    @tf.function(input_signature=[tf.TensorSpec((None, 5), tf.float32, name="frames")])
    def free(self, frames):
        return {"features": tf.nn.relu(tf.matmul(frames, self.w))}

    @tf.function(input_signature=[tf.TensorSpec((None, 5), tf.float32, name="x")])
    def loop(self, x):
        more = lambda i, h: (i + 1, tf.tanh(tf.matmul(tf.matmul(h, self.w), self.w, transpose_b=True)))
        return {"end": tf.while_loop(lambda i, h: i < 4, more, (0, x), shape_invariants=(tf.TensorShape(()), x.shape))[1]}

    @tf.function(input_signature=[tf.TensorSpec((None, 5), tf.float32, name="x")])
    def log(self, x):
        return {"log": tf.math.log(tf.matmul(x, self.w))}

frames = Frames()
tf.saved_model.save(frames, out / "loop", signatures={"serving_default": frames.loop})
tf.saved_model.save(frames, out / "log", signatures={"serving_default": frames.log})
np.savez(out / "log.npz", x=rng.normal(size=(40, 5)).astype("f"))
tf.saved_model.save(frames, out / "frames", signatures={"serving_default": frames.fixed})
tf.saved_model.save(frames, out / "free_frames", signatures={"serving_default": frames.free})
tf.saved_model.save(frames, out / "unnamed", signatures={"free": frames.free, "log": frames.log})
np.savez(out / "frames.npz", x=rng.normal(size=(40, 7, 5)).astype("f"))

@keras.saving.register_keras_serializable("mine")
class Doubled(L.Layer):
    def call(self, x):
        return 2 * x

start = keras.Input((4,))
keras.Model(start, Doubled()(start)).save(out / "custom.keras")
keras.Model(start, Doubled()(start)).save(out / "custom.h5")
keras.Model(start, L.Lambda(lambda x: x + 1)(start)).save(out / "lambda.keras")
start = keras.Input((8, 4))
lstm = keras.Model(start, L.Dense(2)(L.LSTM(6)(start)))
lstm.save(out / "lstm.keras")
both = L.Bidirectional(L.GRU(5))(L.GRU(6, return_sequences=True)(start))
keras.Model(start, L.Dense(2)(both)).save(out / "gru.h5")
np.savez(out / "lstm.npz", x=rng.normal(size=(20, 8, 4)).astype("f"))
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """A folder of models and samples, made in a process of its own: TensorFlow stays out of pytest's."""
    folder = tmp_path_factory.mktemp("models")
    done = subprocess.run(
        [sys.executable, "-c", MAKE_MODELS, str(folder)], capture_output=True, text=True, timeout=300,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "-1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


@pytest.fixture(scope="module")
def bundle_of(made, tmp_path_factory):
    """A function from a model's name and its options to its bundle; each is converted once."""

    @cache
    def make(model: str, samples: str, **options) -> Bundle:
        files = {key: made / value if key == "evaluate" else value for key, value in options.items()}
        output = tmp_path_factory.mktemp("bundle") / "b"
        return convert(made / model, output, made / samples, modes=("int8", "float32"), **files).bundle

    return make


def edgekit(*words: object, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*EDGEKIT, *map(str, words)], cwd=cwd, capture_output=True, text=True, timeout=300,
        env={**os.environ, **environment},
    )  # fmt: skip


def saved_samples(path: Path) -> dict[str, np.ndarray]:
    with np.load(path) as arrays:
        return dict(arrays)


# --- what comes out -------------------------------------------------------------------------------------------------

KINDS = {
    "cnn.keras": "samples.npz",
    "cnn.h5": "samples.npz",
    "cnn_saved": "samples.npz",
    "two.keras": "two.npz",
    "tokens.keras": "tokens.npz",
    "series.keras": "series.npz",
    "frames": "frames.npz",
    "free_frames": "frames.npz",
}
every_kind = pytest.mark.parametrize("model", KINDS)


def converted(bundle_of, model: str) -> Bundle:
    if model == "series.keras":
        return bundle_of(model, KINDS[model], evaluate="series_targets.npz")
    return bundle_of(model, KINDS[model])


@every_kind
def test_every_kind_of_model_becomes_a_whole_bundle_of_full_int8(bundle_of, model):
    bundle = converted(bundle_of, model)
    described = read_model(bundle.file("models/int8.tflite"))
    per_channel, layers = per_channel_weights(described)

    assert full_int8_findings(described) == []
    assert per_channel == layers >= 1
    assert {tensor.dtype for tensor in bundle.manifest.variant("int8").outputs} == {"int8"}
    assert bundle.manifest.variant("int8").operators == {n: v for n, (_, v) in operator_counts(described).items()}
    verify_bundle(bundle)


@every_kind
def test_sizes_are_fixed_and_nothing_computes_shapes_at_run_time(bundle_of, model):
    for variant in ("int8", "float32"):
        described = read_model(converted(bundle_of, model).file(f"models/{variant}.tflite"))
        free = [t.name for t in described.subgraphs[0].tensors if -1 in (t.shape_signature or ())]

        assert free == []
        assert not {"SHAPE", "STRIDED_SLICE", "PACK", "WHILE"} & set(operator_counts(described))


def test_inputs_and_outputs_keep_the_names_of_the_model(bundle_of):
    def names(model):
        variant = converted(bundle_of, model).manifest.variant("int8")
        return [t.name for t in variant.inputs], sorted(t.name for t in variant.outputs)

    assert names("cnn.keras") == names("cnn.h5") == names("cnn_saved") == (["image"], ["output_0"])
    assert names("two.keras") == (["left", "right"], ["place", "size"])
    assert names("frames") == (["frames"], ["features"])


def test_the_float_tflite_answers_what_keras_answered(bundle_of, made):
    """answers.npz holds what the model said in the process that made it."""
    known = saved_samples(made / "answers.npz")

    for model in ("cnn.keras", "cnn.h5", "cnn_saved"):
        answers = runner.load(converted(bundle_of, model).path, variant="float32")(known["x"])

        assert np.abs(answers - known["y"]).max() < 1e-5


def test_keras_h5_and_saved_model_of_one_network_become_the_same_int8_weights(bundle_of):
    contents = {model: converted(bundle_of, model).file("models/int8.tflite") for model in ("cnn.keras", "cnn.h5")}

    assert contents["cnn.keras"].read_bytes() == contents["cnn.h5"].read_bytes()


@pytest.mark.parametrize("model", ["cnn.keras", "two.keras", "tokens.keras", "frames"])
def test_tensorflow_and_litert_agree_on_the_int8_file(bundle_of, made, model):
    """Bit for bit with the reference kernels; XNNPACK may round the other way: one step."""
    bundle = converted(bundle_of, model)
    path, variant = bundle.file("models/int8.tflite"), bundle.manifest.variant("int8")
    rng = np.random.default_rng(3)
    inputs = [
        rng.integers(-128, 128, (16, *t.shape)).astype(np.int8) if t.scale else
        rng.integers(0, 50, (16, *t.shape)).astype(t.dtype) for t in variant.inputs
    ]  # fmt: skip
    file = made / f"{Path(model).stem}.crosscheck.npz"
    np.savez(file, **{t.tensor: array for t, array in zip(variant.inputs, inputs, strict=True)})
    theirs = subprocess.run(
        [sys.executable, "-c", WITH_TENSORFLOW, str(path), str(file)], capture_output=True, text=True, check=True,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
    )  # fmt: skip
    wanted = saved_samples(file.with_suffix(".out.npz"))

    for reference, allowed in ((True, 0), (False, 1)):
        ours = interpreter.open_interpreter(path, threads=1, reference=reference)
        index = {d["name"]: d["index"] for d in (*ours.get_input_details(), *ours.get_output_details())}
        for i in range(16):
            for tensor, array in zip(variant.inputs, inputs, strict=True):
                ours.set_tensor(index[tensor.tensor], array[i])
            ours.invoke()
            for tensor in variant.outputs:
                got = ours.get_tensor(index[tensor.tensor]).astype(int)

                assert np.abs(got - wanted[f"{tensor.tensor}/{reference}"][i]).max() <= allowed, theirs.stderr


WITH_TENSORFLOW = r"""
import sys, numpy as np, tensorflow as tf
path, file = sys.argv[1:]
kinds = tf.lite.experimental.OpResolverType
out = {}
with np.load(file) as arrays:
    for reference, kind in ((True, kinds.BUILTIN_REF), (False, kinds.AUTO)):
        model = tf.lite.Interpreter(path, experimental_op_resolver_type=kind, num_threads=1)
        model.allocate_tensors()
        for i in range(16):
            for d in model.get_input_details():
                model.set_tensor(d["index"], arrays[d["name"]][i])
            model.invoke()
            for d in model.get_output_details():
                out.setdefault(f"{d['name']}/{reference}", []).append(model.get_tensor(d["index"]).astype(int))
np.savez(file.replace(".npz", ".out.npz"), **out)
"""


def test_a_model_without_a_batch_answers_one_sample_and_many(bundle_of, made):
    frames = saved_samples(made / "frames.npz")["x"]

    for model in ("frames", "free_frames"):
        loaded = runner.load(converted(bundle_of, model).path)

        assert loaded(frames[0]).shape == (7, 3)
        assert loaded(frames[:2]).shape == (2, 7, 3)


def test_float_targets_are_judged_by_their_mean_absolute_error(bundle_of):
    qualities = converted(bundle_of, "series.keras").manifest.variant("int8").qualities

    assert [q.metric for q in qualities] == ["mean absolute error", "SQNR to float, dB"]  # no class: it is a box
    assert qualities[0].value == pytest.approx(qualities[0].float_value, rel=0.05)
    assert {(q.count, q.source) for q in qualities} == {(20, "measured on the workstation, series_targets.npz")}


# --- the command ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def twice(made, tmp_path_factory) -> tuple[Path, Path, str]:
    """The same command twice: other process, other folder to write to, other hash seed; and what the first one said."""
    home = tmp_path_factory.mktemp("home")
    words = ["convert", "cnn.keras", "--samples", "samples.npz", "--evaluate=evaluate.npz", "--target", "rpi4"]
    first = edgekit(*words, "-o", home / "first", cwd=made, PYTHONHASHSEED="1")
    second = edgekit(*words, f"--output={home / 'deep' / 'second'}", "--json", cwd=made, PYTHONHASHSEED="77")
    assert (first.returncode, second.returncode) == (0, 0), first.stderr + second.stderr
    assert json.loads(second.stdout)["per_channel_weights"] == [3, 3]
    return home / "first", home / "deep" / "second", first.stdout


def test_the_same_command_gives_the_same_bytes(twice):
    first, second, _ = twice
    files = {path.relative_to(first) for path in first.rglob("*") if path.is_file()}
    _, different, missing = filecmp.cmpfiles(first, second, map(str, files), shallow=False)

    assert (different, missing) == ([], [])
    assert files == {path.relative_to(second) for path in second.rglob("*") if path.is_file()}


def test_the_summary_says_what_was_made_and_how_good_it_is(twice):
    first, _, said = twice
    quality = read_bundle(first).manifest.variants[0].qualities[0]

    assert "weights per channel in 3 of 3 layers" in said
    assert "calibrated on  60 samples" in said
    assert quality.metric == "top-1 accuracy"
    assert quality.value > 0.85
    assert abs(quality.value - quality.float_value) <= 0.01


def test_the_manifest_holds_the_command_as_typed_and_no_folder(twice):
    manifest = read_bundle(twice[0]).manifest

    assert " ".join(manifest.command) == (
        "edgekit convert cnn.keras --samples samples.npz --evaluate=evaluate.npz --target rpi4"
    )
    assert {q.source for q in manifest.variants[0].qualities} == {"measured on the workstation, evaluate.npz"}
    # a network this small runs on one thread, whatever the board has
    assert manifest.variants[0].delegates[0].options == {"threads": 1}


def test_an_older_bundle_is_replaced_and_nothing_is_left_beside_it(bundle_of, made, tmp_path):
    output = tmp_path / "b"
    old = converted(bundle_of, "cnn.keras")
    old.path.rename(output)
    try:
        done = edgekit("convert", "cnn.keras", "-o", output, "--samples", "samples.npz", "--name", "new", cwd=made)

        assert done.returncode == 0, done.stderr
        assert read_bundle(output).manifest.name == "new"
        assert not (output / "models" / "float32.tflite").exists()
        assert sorted(path.name for path in tmp_path.iterdir()) == ["b", "b.report.html"]
    finally:
        output.rename(tmp_path / "new")
        bundle_of.cache_clear()


# --- what is refused, in two lines, with nothing written ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "kind", "told", "hint"),
    [
        ("custom.keras", NotAModel, "custom layers whose code is not in the file: mine>Doubled", "--custom"),
        ("custom.h5", NotAModel, "Doubled", "SavedModel"),
        ("lambda.keras", NotAModel, "code of its own, which is not run: layer 'lambda'", "--trust"),
        ("cnn.weights.h5", NotAModel, "weights without a model", "model.save"),
        ("truncated.keras", NotAModel, "damaged or not a Keras model", "save it again"),
        ("unnamed", NotAModel, r"several signatures: free \(frames\), log \(x\)", "--signature NAME"),
    ],
)
def test_a_model_that_cannot_be_converted_says_why(made, tmp_path, model, kind, told, hint):
    with pytest.raises(kind, match=told) as caught:
        convert(made / model, tmp_path / "b", made / "samples.npz")

    assert model in str(caught.value)
    assert hint in caught.value.hint
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("model", ["lstm.keras", "gru.h5"])
def test_recurrent_layers_of_keras_become_full_int8_although_they_are_saved_as_loops(made, tmp_path, model):
    result = convert(made / model, tmp_path / "b", made / "lstm.npz")

    int8 = read_model(tmp_path / "b/models/int8.tflite")
    assert full_int8_findings(int8) == []
    assert "WHILE" not in operator_counts(int8)
    assert result.float_difference < 1e-5  # from the layers as they were saved: loops
    assert result.verdicts["int8"].passed


def test_a_model_that_no_quantizer_takes_says_what_each_of_them_said(made, tmp_path):
    """A loop is a subgraph that nothing calibrates."""
    with pytest.raises(ConversionError, match=r"no quantizer can make int8.*litert: .*tensorflow: ") as caught:
        convert(made / "loop", tmp_path / "b", made / "log.npz")

    assert "unroll=True" in caught.value.hint
    assert list(tmp_path.iterdir()) == []


def test_a_model_that_answers_with_nan_is_refused(made, tmp_path):
    with pytest.raises(ConversionError, match=r"output 'log' of the float model is not finite on sample \d+"):
        convert(made / "log", tmp_path / "b", made / "log.npz")

    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs a place where not even root can write")
def test_a_place_where_nothing_can_be_written_is_an_input_error(made):
    with pytest.raises(InputError, match="/proc/nowhere/b cannot be written"):
        convert(made / "frames", Path("/proc/nowhere/b"), made / "frames.npz")


def test_labels_beyond_the_classes_are_refused(made, tmp_path):
    with pytest.raises(SamplesError, match="labels go from 5 to 14, the model has 10 classes"):
        convert(made / "cnn.keras", tmp_path / "b", made / "samples.npz", evaluate=made / "wrong.npz")

    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("model", "samples", "told"),
    [
        ("cnn.keras", "two.npz", r"samples are for left, right, the model's inputs are image"),
        ("cnn.keras", "frames.npz", r"samples of shape \(n, 7, 5\) do not fit input 'image', which is \(n, 8, 8, 1\)"),
        ("tokens.keras", "series.npz", r"input 'tokens' takes int32, the samples are float"),
    ],
)
def test_samples_that_do_not_fit_the_model_are_refused(made, tmp_path, model, samples, told):
    with pytest.raises(SamplesError, match=told):
        convert(made / model, tmp_path / "b", made / samples)

    assert list(tmp_path.iterdir()) == []


# --- interrupted ----------------------------------------------------------------------------------------------------


def running_below(parent: int) -> set[int]:
    """The process ids of all that descends from `parent`."""
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        children.setdefault(int(fields[1]), []).append(int(stat.parent.name))
    found, left = set(), [parent]
    while left:
        new = children.get(left.pop(), [])
        found.update(new)
        left.extend(new)
    return found


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks for processes in /proc")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_stopping_the_command_leaves_no_process_and_no_file(made, tmp_path, number):
    """After SIGKILL nobody can tidy the temporary folder, but TensorFlow does not go on."""
    (tmp_path / "tmp").mkdir()
    process = subprocess.Popen(
        [*EDGEKIT, "convert", "cnn.keras", "-o", str(tmp_path / "b"), "--samples", "samples.npz"], cwd=made,
        env={**os.environ, "TMPDIR": str(tmp_path / "tmp")}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    deadline = time.monotonic() + 60
    while not (below := running_below(process.pid)) or not any(map(has_tensorflow, below)):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(number)
    said, errors = process.communicate(timeout=30)
    while (left := {pid for pid in below if is_running(pid)}) and time.monotonic() < deadline:
        time.sleep(0.05)

    assert below
    assert not left
    assert not (tmp_path / "b").exists()
    if number != signal.SIGKILL:
        assert (process.returncode, said, errors.strip()) == (130, "", "edgekit: interrupted")
        assert list((tmp_path / "tmp").iterdir()) == []


def has_tensorflow(pid: int) -> bool:
    """Whether it is being loaded there."""
    try:
        return "tensorflow" in Path(f"/proc/{pid}/maps").read_text()
    except OSError:
        return False


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_a_conversion_that_takes_too_long_is_stopped(made, tmp_path):
    with pytest.raises(ConversionError, match=r"did not finish converting .* in 0\.5 s") as caught:
        convert(made / "cnn.keras", tmp_path / "b", made / "samples.npz", timeout_s=0.5)

    assert "--timeout" in caught.value.hint
    assert list(tmp_path.iterdir()) == []


# --- networks that other people trained ---------------------------------------------------------------------------------


def shared(name: str) -> Path:
    path = DATA / name
    if not path.exists():
        pytest.skip(f"no ../shared/data/mlperf-tiny/{name} beside this checkout")
    return path


def test_keyword_spotting_is_as_accurate_as_the_official_int8_model(tmp_path):
    """MLPerf Tiny's DS-CNN, a SavedModel of TensorFlow 2.3 with an optimizer's memory that 2.21 cannot load as it is."""
    words = saved_samples(shared("kws01.npz"))
    order = np.random.default_rng(0).permutation(len(words["x"]))
    x, y = words["x"][order], words["label"][order]
    np.savez(tmp_path / "samples.npz", x=x[:200])
    np.savez(tmp_path / "evaluate.npz", x=x[200:], y=y[200:])
    files = {"samples": tmp_path / "samples.npz", "evaluate": tmp_path / "evaluate.npz"}
    result = convert(shared("kws_ref_model"), tmp_path / "b", **files)
    accuracy = {q.metric: q for q in result.variants[0].qualities}["top-1 accuracy"]
    official = runner.load(shared("kws_ref_model.tflite"))(x[200:])

    assert accuracy.value >= np.mean(official.argmax(1) == y[200:]) - 0.01
    assert accuracy.value >= accuracy.float_value - 0.01
    assert result.float_difference < 1e-5
    assert "RESHAPE" not in result.variants[0].operators


def test_an_h5_of_an_older_keras_converts(tmp_path):
    """MLPerf Tiny's ResNet8 on CIFAR-10 pictures as bytes: 0 to 255 is what it was trained on."""
    pictures = saved_samples(shared("cifar10_unlabelled_500.npz"))["x"]
    np.savez(tmp_path / "samples.npz", x=pictures[:100])
    result = convert(shared("pretrainedResnet.h5"), tmp_path / "b", tmp_path / "samples.npz", modes=("int8", "float32"))
    ours, source = runner.load(tmp_path / "b"), runner.load(tmp_path / "b", variant="float32")
    official = runner.load(shared("pretrainedResnet_quant.tflite"))
    held_out = pictures[100:300]
    agreeing = [np.mean(m(held_out).argmax(1) == source(held_out).argmax(1)) for m in (ours, official)]

    assert sorted(result.variants[0].operators) == ["ADD", "AVERAGE_POOL_2D", "CONV_2D", "FULLY_CONNECTED", "SOFTMAX"]
    assert agreeing[0] >= agreeing[1] - 0.02


# --- the gate -------------------------------------------------------------------------------------------------------


@pytest.fixture
def narrow(made, tmp_path):
    """Samples unlike those that are judged: a quarter as bright."""
    np.savez(tmp_path / "narrow.npz", x=np.load(made / "samples.npz")["x"] // 4)
    return tmp_path / "narrow.npz"


def test_int8_that_loses_too_much_is_refused_with_a_report_and_without_a_bundle(made, narrow, tmp_path):
    out = tmp_path / "out"
    done = edgekit("convert", "cnn.keras", "-o", out / "b", "--samples", narrow, "--evaluate", "evaluate.npz", cwd=made)

    assert done.returncode == 6
    assert [path.name for path in out.iterdir()] == ["b.report.html"]
    assert "int8 loses" in done.stderr
    assert "it loses most in input" in done.stderr
    assert "--samples" in done.stderr
    page = (out / "b.report.html").read_text("utf-8")
    assert "<h2>Failed</h2>" in page
    assert "Classes that changed" in page


def test_a_refused_model_leaves_the_older_bundle_alone(bundle_of, made, narrow, tmp_path):
    old = converted(bundle_of, "cnn.keras")
    shutil.copytree(old.path, tmp_path / "b")
    more = ["--samples", narrow, "--evaluate", "evaluate.npz", "--no-report"]
    done = edgekit("convert", "cnn.keras", "-o", tmp_path / "b", *more, cwd=made)

    assert done.returncode == 6
    assert read_bundle(tmp_path / "b").digest == old.digest
    assert not (tmp_path / "b.report.html").exists()


def test_what_is_allowed_is_written_and_the_loss_is_in_the_bundle(made, narrow, tmp_path):
    more = ["--samples", narrow, "--evaluate", "evaluate.npz", "--max-drop", "100", "--json"]
    done = edgekit("convert", "cnn.keras", "-o", tmp_path / "b", *more, cwd=made)
    found = json.loads(done.stdout)

    assert done.returncode == 0, done.stderr
    assert found["verdicts"]["int8"]["measured"] > 1
    assert found["report"] == str(tmp_path / "b.report.html")
    assert found["layers"]["int8"]["layers"][0]["clipped"] > 0.1


def test_the_report_changes_nothing_in_the_bundle(made, tmp_path):
    for name, more in (("a", ["--report", tmp_path / "r.html"]), ("b", ["--no-report"])):
        edgekit("convert", "cnn.keras", "-o", tmp_path / name, "--samples", "samples.npz", *more, cwd=made)

    assert read_bundle(tmp_path / "a").digest == read_bundle(tmp_path / "b").digest
    assert (tmp_path / "r.html").exists()
    assert "Passed" in (tmp_path / "r.html").read_text("utf-8")
