"""int8 of networks that other people trained, beside the official int8 files and TFLiteConverter's, on inputs held out."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from edgekit.convert import convert
from edgekit.convert.choose import choose
from edgekit.convert.describe import full_int8_findings
from edgekit.convert.flatbuffer import read_model
from edgekit.convert.quality import sqnr_db
from edgekit.runner import load

pytest.importorskip("tensorflow", reason="converting needs tensorflow: pip install 'edgekit[convert]'")

pytestmark = pytest.mark.slow
DATA = Path(__file__).resolve().parents[2] / "shared" / "data" / "mlperf-tiny"
WITHIN_DB = 0.3

STOCK = """
import sys, numpy as np, tensorflow as tf
source, samples, out = sys.argv[1:]
x = np.load(samples)["x"].astype(np.float32)
if source.endswith(".h5"):
    import keras
    converter = tf.lite.TFLiteConverter.from_keras_model(keras.models.load_model(source, compile=False))
else:
    from edgekit.convert.saved_model_file import without_optimizers
    from pathlib import Path
    from tensorflow.core.protobuf.saved_model_pb2 import SavedModel
    model = SavedModel.FromString(Path(source, "saved_model.pb").read_bytes())
    plain = without_optimizers(Path(source), model, Path(out + ".plain"))
    converter = tf.lite.TFLiteConverter.from_saved_model(str(plain))
converter.optimizations = [tf.lite.Optimize.DEFAULT]
converter.representative_dataset = lambda: ([row[None]] for row in x)
converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
converter.inference_input_type = converter.inference_output_type = tf.int8
open(out, "wb").write(converter.convert())
"""


def data(name: str) -> Path:
    path = DATA / name
    if not path.exists():
        pytest.skip(f"no ../shared/data/mlperf-tiny/{name} beside this checkout")
    return path


def words() -> tuple[np.ndarray, np.ndarray]:
    """1,000 keywords as spectrograms, and what was said, shuffled."""
    with np.load(data("kws01.npz")) as arrays:
        order = np.random.default_rng(0).permutation(len(arrays["x"]))
        return arrays["x"][order].astype(np.float32), arrays["label"][order]


def pictures() -> np.ndarray:
    with np.load(data("cifar10_unlabelled_500.npz")) as arrays:
        return arrays["x"].astype(np.float32)


def sounds() -> np.ndarray:
    """Windows of five frames, in an order in which neighbours do not follow one another."""
    frames = np.load(data("ad01_spectrogram.npy"))
    windows = np.stack([frames[i : i + 5].reshape(-1) for i in range(len(frames) - 4)]).astype(np.float32)
    return windows[np.random.default_rng(0).permutation(len(windows))]


@pytest.fixture(scope="module")
def converted(tmp_path_factory):
    """A function: model and samples -> our int8, our float, TFLiteConverter's int8, from the same 100 samples."""

    def make(model: str, x: np.ndarray):
        folder = tmp_path_factory.mktemp(Path(model).stem)
        np.savez(folder / "samples.npz", x=x)
        result = convert(data(model), folder / "b", folder / "samples.npz", modes=("int8", "float32"))
        done = subprocess.run(
            [sys.executable, "-c", STOCK, str(data(model)), str(folder / "samples.npz"), str(folder / "stock.tflite")],
            capture_output=True, text=True, env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "-1"},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-2000:]
        ours = load(result.bundle.path), load(result.bundle.path, variant="float32")
        return (*ours, load(folder / "stock.tflite"))

    return make


def test_keyword_spotting_is_at_least_as_accurate_as_the_official_int8_file(converted):
    x, y = words()
    ours, source, stock = converted("kws_ref_model", x[:100])
    held_out, labels = x[100:], y[100:]
    answers = {n: m(held_out) for n, m in (("ours", ours), ("float", source), ("stock", stock))}
    answers["official"] = load(data("kws_ref_model.tflite"))(held_out)
    accuracy = {name: float(np.mean(found.argmax(1) == labels)) for name, found in answers.items()}
    same = {name: float(np.mean(found.argmax(1) == answers["float"].argmax(1))) for name, found in answers.items()}
    decibel = {name: sqnr_db([answers["float"]], [found]) for name, found in answers.items()}

    assert accuracy["ours"] >= 0.900
    assert accuracy["ours"] >= accuracy["official"]
    assert same["ours"] >= max(same["official"], same["stock"] - 0.005)
    assert decibel["ours"] >= max(decibel["official"], decibel["stock"] - WITHIN_DB)


def test_pictures_get_the_floats_class_as_often_as_from_the_official_int8_file(converted):
    x = pictures()
    ours, source, stock = converted("pretrainedResnet.h5", x[:100])
    held_out = x[100:]
    wanted = source(held_out)
    answers = {"ours": ours, "stock": stock, "official": load(data("pretrainedResnet_quant.tflite"))}
    answers = {name: model(held_out) for name, model in answers.items()}
    same = {name: float(np.mean(found.argmax(1) == wanted.argmax(1))) for name, found in answers.items()}
    decibel = {name: sqnr_db([wanted], [found]) for name, found in answers.items()}

    assert same["ours"] >= max(same["official"], same["stock"]) - 0.005  # 2 of 400 pictures
    assert decibel["ours"] >= max(decibel["official"], decibel["stock"]) - WITHIN_DB


def test_machine_sounds_are_rebuilt_with_less_error_than_by_the_official_int8_file(converted):
    x = sounds()
    ours, source, stock = converted("ad01.h5", x[:100])
    held_out = x[100:]
    wanted = source(held_out)
    answers = {"ours": ours, "stock": stock, "official": load(data("ad01_int8.tflite"))}
    error = {name: float(np.square(model(held_out) - wanted).mean()) for name, model in answers.items()}

    assert error["ours"] <= error["official"]
    assert error["ours"] <= error["stock"] * 10 ** (WITHIN_DB / 10)


MAKE_EFFICIENTNET = """
import sys, keras
keras.utils.set_random_seed(1)
keras.applications.EfficientNetB0(weights=None, input_shape=(96, 96, 3), classes=10).save(sys.argv[1])
"""


@pytest.mark.long
def test_efficientnet_is_full_int8_and_no_worse_than_with_min_max(tmp_path):
    """EfficientNet-B0 untrained: training it takes longer than a test may. Says nothing of trained weights."""
    source = tmp_path / "efficientnet.keras"
    done = subprocess.run(
        [sys.executable, "-c", MAKE_EFFICIENTNET, str(source)], capture_output=True, text=True,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "-1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    small = np.random.default_rng(0).random((120, 12, 12, 3)).astype(np.float32)
    x = np.kron(small, np.ones((1, 8, 8, 1), np.float32)) * 255
    np.savez(tmp_path / "samples.npz", x=x[:2])
    path = convert(source, tmp_path / "b", tmp_path / "samples.npz", modes=("float32",)).bundle.file(
        "models/float32.tflite"
    )
    x[7] *= 20  # makes ranges: samples 4, 9, 14, ... judge
    name = load(path).inputs[0].name
    wanted = load(path)(x[100:])
    decibel = {}
    for policy in ("min-max", "auto"):
        choice = choose(path, "int8", {name: x[:100, None]}, tmp_path / policy, policy=policy)
        decibel[policy] = sqnr_db([wanted], [load(choice.path)(x[100:])])

        assert full_int8_findings(read_model(choice.path)) == []

    assert decibel["auto"] >= decibel["min-max"] - WITHIN_DB
