"""Every rule of the lint on a network that TensorFlow converted and that has the fault, beside its twin that has not."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("tensorflow", reason="converting needs tensorflow: pip install 'edgekit[convert]'")

from edgekit.convert.inspection import inspect_file
from edgekit.errors import SamplesError

pytestmark = pytest.mark.slow

MAKE = r"""
import sys
from pathlib import Path
import keras, numpy as np, tensorflow as tf

keras.utils.set_random_seed(1)
L, out, rng, nets = keras.layers, Path(sys.argv[1]), np.random.default_rng(1), []

def save(name, call, *specs, samples=None, optimize=False):
    module = tf.Module()
    module.call = tf.function(lambda *given: {"out": call(*given)}, input_signature=specs)
    module.kept = [v.value for net in nets for v in net.variables]
    folder = str(out / ("_" + name))
    tf.saved_model.save(module, folder, signatures={"serving_default": module.call.get_concrete_function()})
    converter = tf.lite.TFLiteConverter.from_saved_model(folder, signature_keys=["serving_default"])
    if optimize:
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    (out / (name + ".tflite")).write_bytes(converter.convert())
    if samples is not None:
        np.savez(out / (name + ".npz"), x=samples)

def spec(*shape):
    return tf.TensorSpec(shape, tf.float32, "x")

pictures = rng.uniform(0, 1, (20, 6, 6, 3)).astype("f")
pictures = tf.image.resize(pictures, (32, 32), "bicubic").numpy().clip(0, 1)
start = keras.Input((32, 32, 3), name="x")
x32 = spec(1, 32, 32, 3)

def network(activation, *, behind=False):
    h = L.Conv2D(8, 3, 2, use_bias=False)(start)
    h = L.BatchNormalization()(activation(h)) if behind else activation(L.BatchNormalization()(h))
    net = keras.Model(start, L.Dense(5, activation="softmax")(L.GlobalAveragePooling2D()(h)))
    nets[:] = [net]
    for layer in net.layers:
        if isinstance(layer, L.BatchNormalization):
            layer.momentum = 0.0
    net(pictures, training=True)
    return lambda x: net(x, training=False)

save("relu", network(L.ReLU()), x32, samples=pictures)
save("swish", network(L.Activation("swish")), x32, samples=pictures)
save("hard_swish", lambda x, n=network(L.ReLU()): (lambda y: y * tf.nn.relu6(y + 3) / 6)(n(x)), x32)
save("behind", network(L.ReLU(), behind=True), x32, samples=pictures)
save("elu", network(L.ELU()), x32)
save("sine", network(lambda h: L.Lambda(tf.sin)(h)), x32)
np.savez(out / "loud.npz", x=np.round(pictures * 255))
np.savez(out / "dark.npz", x=np.concatenate([pictures[:15], np.zeros((5, 32, 32, 3), "f")]))
np.savez(out / "twice.npz", x=np.concatenate([pictures, pictures[:10]]))

kernel = tf.constant(rng.normal(size=(3, 3, 3, 8)).astype("f") * 0.1)
norm = keras.Model(start, L.ReLU()(L.BatchNormalization()(L.Conv2D(8, 3, use_bias=False)(start))))
nets[:] = [norm]
save("training", lambda x: norm(x, training=True), x32)
save("inference", lambda x: norm(x, training=False), x32)
instance = lambda h: (h - tf.reduce_mean(h, [1, 2], True)) * tf.math.rsqrt(tf.math.reduce_variance(h, [1, 2], True) + 1)
save("instance_norm", lambda x: instance(tf.nn.conv2d(x, kernel, 2, "SAME")), x32)
layer_norm = keras.Sequential([keras.Input((12, 8)), L.LayerNormalization(), L.Dense(3)])
nets[:] = [layer_norm]
save("layer_norm", lambda x: layer_norm(x, training=False), spec(1, 12, 8))
save("any_size", lambda x: tf.reduce_mean(tf.nn.relu(tf.nn.conv2d(x, kernel, 2, "SAME")), [1, 2]),
     spec(1, None, None, 3))

def attention(steps, masked):
    q, k, v = (tf.constant(rng.normal(size=(8, 8)).astype("f") * 0.3) for _ in range(3))
    hidden = tf.constant(np.triu(np.ones((steps, steps), "f"), 1))
    def call(x):
        scores = tf.matmul(x @ q, x @ k, transpose_b=True) / 8**0.5
        if masked:
            scores = scores + hidden * masked
        return tf.matmul(tf.nn.softmax(scores), x @ v)
    return call

tokens = rng.normal(size=(20, 12, 8)).astype("f")
save("attention", attention(12, 0), spec(1, 12, 8), samples=tokens)
save("long_attention", attention(300, 0), spec(1, 300, 8))
save("masked", attention(12, -1e9), spec(1, 12, 8), samples=tokens)
save("mildly_masked", attention(12, -30.0), spec(1, 12, 8), samples=tokens)

wide = tf.constant(rng.normal(size=(256, 64)).astype("f"))
save("dense", lambda x: tf.matmul(x, wide), spec(1, 256))
save("dense_dynamic", lambda x: tf.matmul(x, wide), spec(1, 256), optimize=True)
rescaled = keras.Sequential([keras.Input((32, 32, 3)), L.Rescaling(1 / 127.5, -1),
                             L.Conv2D(8, 3, padding="same", activation="relu"), L.GlobalAveragePooling2D()])
nets[:] = [rescaled]
save("rescaled", lambda x: rescaled(x, training=False), x32, samples=np.round(pictures * 255))
np.savez(out / "quiet.npz", x=pictures)
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    done = subprocess.run([sys.executable, "-c", MAKE, str(folder)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return folder


FEW = {"few-samples"}  # twenty random ones are


@pytest.mark.parametrize(
    ("name", "target", "samples", "warned", "told"),
    [
        ("relu", "coral-dev-board", "relu", set(), FEW),
        ("swish", "coral-dev-board", "swish", {"silu"}, FEW),
        ("swish", "rpi5", "swish", set(), {"silu"} | FEW),
        ("hard_swish", "coral-dev-board", None, {"silu"}, {"inner-softmax"}),
        ("behind", "rpi5", "behind", set(), {"unfolded-batch-norm"} | FEW),
        ("training", "rpi5", None, {"unfolded-batch-norm"}, set()),
        ("inference", "rpi5", None, set(), set()),
        ("instance_norm", "rpi5", None, set(), set()),
        ("layer_norm", "rpi5", None, set(), set()),
        ("elu", "rpi5", None, set(), set()),
        ("sine", "rpi5", None, {"float-only"}, set()),
        ("any_size", "rpi5", None, {"dynamic-shape"}, set()),
        ("attention", "rpi5", "attention", set(), {"inner-softmax"} | FEW),
        ("long_attention", "rpi5", None, {"inner-softmax"}, set()),
        ("masked", "rpi5", "masked", {"giant-range"}, {"inner-softmax"} | FEW),
        ("mildly_masked", "rpi5", "mildly_masked", set(), {"inner-softmax"} | FEW),
        ("dense", "jetson-nano", None, set(), set()),
        ("dense_dynamic", "jetson-nano", None, {"operator-version"}, set()),
        ("dense_dynamic", "rpi5", None, set(), set()),
        ("relu", "rpi5", "loud", {"never-scaled"}, FEW),
        ("relu", "rpi5", "dark", {"constant-samples", "repeated-samples"}, FEW),
        ("relu", "rpi5", "twice", {"repeated-samples"}, FEW),
        ("rescaled", "rpi5", "rescaled", set(), FEW),
        ("rescaled", "rpi5", "quiet", {"scaled-twice", "insensitive"}, FEW),
    ],
)
def test_what_is_wrong_with_a_network_is_told_and_nothing_else(made, name, target, samples, warned, told):
    given = made / f"{samples}.npz" if samples else None
    found = inspect_file(made / f"{name}.tflite", target=target, samples=given)

    by_severity = {level: {f.rule for f in found if f.severity == level} for level in ("warning", "info")}
    assert by_severity["warning"] == warned, [str(finding) for finding in found]
    assert by_severity["info"] <= told
    assert told - FEW <= by_severity["info"]


def test_the_layer_and_the_fix_are_named(made):
    (found,) = [f for f in inspect_file(made / "sine.tflite") if f.severity == "warning"]

    assert found.layer.startswith("SIN ")
    assert "before the model" in found.fix
    (found,) = inspect_file(made / "any_size.tflite", samples=None)
    assert "dimension 1, 2 of [1, -1, -1, 3] is free" in found.evidence


def test_samples_of_another_size_than_an_interpreter_takes_are_refused(made, tmp_path):
    np.savez(tmp_path / "x.npz", x=np.zeros((4, 9, 9, 3), np.float32))
    with pytest.raises(SamplesError, match="do not fit input"):
        inspect_file(made / "any_size.tflite", samples=tmp_path / "x.npz")
