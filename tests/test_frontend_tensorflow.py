"""What the TensorFlow front end takes beside plain files: custom code, trusted code, signatures, live objects, NCHW."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from edgekit.bundle import Bundle
from edgekit.convert import convert
from edgekit.errors import InputError, NotAModel

pytest.importorskip("tensorflow", reason="converting needs tensorflow: pip install 'edgekit[convert]'")
runner = pytest.importorskip("edgekit.runner.model")

pytestmark = pytest.mark.slow
ENVIRONMENT = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "-1"}

LAYERS = """
import keras

@keras.saving.register_keras_serializable("mine")
class Doubled(keras.layers.Layer):
    def call(self, x):
        return 2 * x

class Tripled(keras.layers.Layer):  # not registered
    def call(self, x):
        return 3 * x

def squashed(x):
    return x * keras.ops.sigmoid(x)
"""

MAKE_MODELS = r"""
import sys
from pathlib import Path
out = Path(sys.argv[1])
sys.path.insert(0, str(out))
import keras, numpy as np, tensorflow as tf
import my_layers

keras.utils.set_random_seed(1)
L, rng = keras.layers, np.random.default_rng(1)
x = rng.normal(size=(20, 4)).astype("f")
np.savez(out / "x.npz", x=x)
start = keras.Input((4,), name="x")
h = my_layers.Tripled()(my_layers.Doubled()(L.Dense(4, activation=my_layers.squashed)(start)))
custom = keras.Model(start, L.Lambda(my_layers.squashed, name="named")(h))
custom.save(out / "custom.keras")
custom.save(out / "custom.h5")
plus = keras.Model(start, L.Lambda(lambda x: x + 1, name="plus_one")(L.Dense(2)(start)))
plus.save(out / "lambda.keras")
plus.save(out / "lambda.h5")

image = keras.Input((3, 8, 8), name="image")
h = L.Conv2D(4, 3, strides=2, padding="same", data_format="channels_first", activation="relu", name="conv")(image)
h = L.MaxPooling2D(data_format="channels_first")(h)
nchw = keras.Model(image, L.GlobalAveragePooling2D(data_format="channels_first")(h))
nchw.save(out / "nchw.keras")
last = keras.Input((8, 8, 3))
h = L.MaxPooling2D()(L.Conv2D(4, 3, strides=2, padding="same", activation="relu", name="conv")(last))
nhwc = keras.Model(last, L.GlobalAveragePooling2D()(h))
nhwc.get_layer("conv").set_weights(nchw.get_layer("conv").get_weights())
pictures = rng.normal(size=(20, 3, 8, 8)).astype("f")
np.savez(out / "pictures.npz", image=pictures)

gelu = keras.Model(start, L.Dense(3)(L.Dense(6, activation="gelu")(start)))
gelu.save(out / "gelu.keras")

tokens = keras.Input((None,), dtype="int32", name="tokens")  # any number of them, and of samples
keras.Model(tokens, L.GlobalAveragePooling1D(name="pooled")(L.Embedding(30, 5)(tokens))).save(out / "tokens.keras")
np.savez(out / "tokens.npz", tokens=rng.integers(0, 30, (20, 7)))

class Coder(tf.Module):
    def __init__(self):
        self.w = tf.Variable(rng.normal(size=(4, 3)).astype("f"))
    @tf.function(input_signature=[tf.TensorSpec((None, 4), tf.float32, name="x")])
    def encode(self, x):
        return {"code": tf.nn.relu(x @ self.w)}
    @tf.function(input_signature=[tf.TensorSpec((None, 3), tf.float32, name="code")])
    def decode(self, code):
        return {"x": tf.matmul(code, self.w, transpose_b=True)}
    @tf.function(input_signature=[tf.TensorSpec((None, 4), tf.float32, name="x")])
    def by_python(self, x):
        return {"y": tf.py_function(lambda a: a + 1, [x], tf.float32)}
    @tf.function(input_signature=[tf.TensorSpec((None, 4), tf.float32, name="x")])
    def reads(self, x):
        return {"y": x + tf.strings.to_number(tf.io.read_file("/etc/hostname"))}

coder = Coder()
tf.saved_model.save(coder, out / "coder", signatures={"encode": coder.encode, "decode": coder.decode})
tf.saved_model.save(coder, out / "encoder", signatures={"anything": coder.encode})
tf.saved_model.save(coder, out / "by_python", signatures={"serving_default": coder.by_python})
tf.saved_model.save(coder, out / "reads", signatures={"serving_default": coder.reads})
np.savez(
    out / "answers.npz", custom=custom(x).numpy(), plus=plus(x).numpy(), encode=coder.encode(x)["code"].numpy(),
    gelu=gelu(x).numpy(), nchw=nhwc(pictures.transpose(0, 2, 3, 1)).numpy(),
)
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    (folder / "my_layers.py").write_text(LAYERS)
    subprocess.run([sys.executable, "-c", MAKE_MODELS, str(folder)], check=True, capture_output=True, env=ENVIRONMENT)
    return folder


def converted(made: Path, model: str, samples: str, output: Path, **options) -> Bundle:
    return convert(made / model, output, made / samples, modes=("float32",), report=False, **options).bundle


def answers(made: Path, bundle: Bundle, samples: str) -> np.ndarray:
    with np.load(made / samples) as arrays:
        (array,) = arrays.values()
    return runner.load(bundle.path)(array)


def known(made: Path, name: str) -> np.ndarray:
    with np.load(made / "answers.npz") as arrays:
        return arrays[name]


@pytest.mark.parametrize("model", ["custom.keras", "custom.h5"])
def test_a_file_with_custom_layers_converts_with_the_code_that_defines_them(made, tmp_path, model):
    """Registered or not, a class or a function, as an activation or in a Lambda."""
    bundle = converted(made, model, "x.npz", tmp_path / "b", custom=[str(made / "my_layers.py")])

    assert np.abs(answers(made, bundle, "x.npz") - known(made, "custom")).max() < 1e-5
    assert "my_layers.py" in bundle.manifest.made_from


def test_without_the_code_each_missing_name_is_told(made, tmp_path):
    with pytest.raises(NotAModel, match="Tripled, mine>Doubled, squashed") as caught:
        converted(made, "custom.keras", "x.npz", tmp_path / "b")

    assert "--custom FILE.py" in caught.value.hint


def test_custom_code_that_raises_is_told_with_its_line(made, tmp_path):
    (tmp_path / "broken.py").write_text("import keras\nraise ValueError('not today')\n")

    with pytest.raises(InputError, match=r"broken\.py, line 2: ValueError: not today"):
        converted(made, "custom.keras", "x.npz", tmp_path / "b", custom=[tmp_path / "broken.py"])


@pytest.mark.parametrize("model", ["lambda.keras", "lambda.h5"])
def test_a_lambda_runs_only_with_trust(made, tmp_path, model):
    with pytest.raises(NotAModel, match="which is not run: layer 'plus_one'") as caught:
        converted(made, model, "x.npz", tmp_path / "b")
    bundle = converted(made, model, "x.npz", tmp_path / "b", trust=True)

    assert "--trust" in caught.value.hint
    assert np.abs(answers(made, bundle, "x.npz") - known(made, "plus")).max() < 1e-5


def test_of_several_signatures_one_has_to_be_named(made, tmp_path):
    with pytest.raises(NotAModel, match=r"several signatures: decode \(code\), encode \(x\)") as caught:
        converted(made, "coder", "x.npz", tmp_path / "b")
    with pytest.raises(NotAModel, match=r"no signature 'encoder', only: decode \(code\), encode \(x\)"):
        converted(made, "coder", "x.npz", tmp_path / "b", signature="encoder")
    bundle = converted(made, "coder", "x.npz", tmp_path / "b", signature="encode")

    assert "--signature NAME" in caught.value.hint
    assert np.abs(answers(made, bundle, "x.npz") - known(made, "encode")).max() < 1e-5
    assert [t.name for t in bundle.manifest.variants[0].outputs] == ["code"]


def test_the_only_signature_needs_no_name(made, tmp_path):
    """Though another function of the same module calls Python: it is not the one that runs."""
    bundle = converted(made, "encoder", "x.npz", tmp_path / "b")

    assert np.abs(answers(made, bundle, "x.npz") - known(made, "encode")).max() < 1e-5


@pytest.mark.parametrize(
    ("model", "told"), [("by_python", r"calls Python functions \(tf\.py_function\)"), ("reads", r"files, .*: ReadFile")]
)
def test_a_graph_that_reaches_beyond_itself_is_refused(made, tmp_path, model, told):
    with pytest.raises(NotAModel, match=told):
        converted(made, model, "x.npz", tmp_path / "b")


def test_a_model_with_channels_first_answers_as_its_twin_with_channels_last(made, tmp_path):
    """TensorFlow has no kernels for it on a CPU; the .tflite has, and XLA has to say what is right."""
    bundle = converted(made, "nchw.keras", "pictures.npz", tmp_path / "b")

    assert bundle.manifest.variants[0].inputs[0].shape == (1, 3, 8, 8)
    assert np.abs(answers(made, bundle, "pictures.npz") - known(made, "nchw")).max() < 1e-5


def test_an_exact_gelu_becomes_one_operator(made, tmp_path):
    """As TensorFlow writes it, with erfc, its own converter does not know it."""
    bundle = converted(made, "gelu.keras", "x.npz", tmp_path / "b")

    assert bundle.manifest.variants[0].operators == {"FULLY_CONNECTED": 1, "GELU": 1}
    assert np.abs(answers(made, bundle, "x.npz") - known(made, "gelu")).max() < 1e-5


def test_tokens_of_any_length_get_that_of_the_samples(made, tmp_path):
    bundle = converted(made, "tokens.keras", "tokens.npz", tmp_path / "b")
    (tensor,) = bundle.manifest.variants[0].inputs

    assert (tensor.name, tensor.dtype, tensor.shape) == ("tokens", "int32", (1, 7))


LIVE = r"""
import json, sys
from pathlib import Path
import keras, numpy as np, tensorflow as tf
from edgekit.convert import convert
from edgekit.errors import EdgekitError
from edgekit.runner import load

out = Path(sys.argv[1])
x = np.random.default_rng(1).normal(size=(20, 4)).astype("f")
np.savez(out / "x.npz", x=x)
w = tf.Variable(tf.ones((4, 3)))

class Odd(keras.layers.Layer):  # nobody else has its code
    def call(self, x):
        return x * x

start = keras.Input((4,), name="x")
network = keras.Model(start, Odd()(keras.layers.Dense(2)(start)), name="network")

@tf.function(input_signature=[tf.TensorSpec((None, 4), tf.float32, name="x")])
def wide(x):
    return {"y": tf.matmul(x, w)}

@tf.function
def free(x):
    return {"y": tf.matmul(x, w)}

class Module(tf.Module):
    @tf.function(input_signature=[tf.TensorSpec((None, 4), tf.float32, name="x")])
    def __call__(self, x):
        return {"y": tf.matmul(x, w)}

module = Module()
module.w = w
found = {}
for name, model, wanted in (
    ("keras", network, network(x).numpy()), ("function", wide, x @ np.ones((4, 3))), ("module", module, x @ np.ones((4, 3))),
    ("concrete", free.get_concrete_function(tf.TensorSpec((None, 4), tf.float32, name="x")), x @ np.ones((4, 3))),
):
    result = convert(model, out / name, out / "x.npz", modes=("float32",), report=False)
    answers = load(result.bundle.path)(x)
    found[name] = (result.bundle.manifest.name, float(np.abs(answers - wanted).max()))
for name, model in (("free", free), ("list", [1, 2]), ("unbuilt", keras.Sequential([keras.layers.Dense(2)]))):
    try:
        convert(model, out / name, out / "x.npz")
    except EdgekitError as error:
        found[name] = (type(error).__name__, f"{error} {error.hint}")
print(json.dumps(found))
"""


def test_objects_of_the_calling_process_convert_like_files(tmp_path):
    done = subprocess.run([sys.executable, "-c", LIVE, str(tmp_path)], capture_output=True, text=True, env=ENVIRONMENT)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])

    assert {name: found[name][0] for name in ("keras", "function", "module", "concrete")} == {
        "keras": "network", "function": "wide", "module": "module", "concrete": "free",
    }  # fmt: skip
    assert all(found[name][1] < 1e-5 for name in ("keras", "function", "module", "concrete"))
    assert found["free"][0] == "NotAModel" and "does not say what it takes" in found["free"][1]
    assert found["list"] == [
        "NotAModel",
        "list is no model give a path, a Keras model, a tf.function, a concrete function or a tf.Module",
    ]
    assert found["unbuilt"][0] == "NotAModel" and "no weights yet" in found["unbuilt"][1]
