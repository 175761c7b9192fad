"""Lint and samples with real networks: TensorFlow in processes of its own, then the questions."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("tensorflow", reason="converting needs tensorflow: pip install 'edgekit[convert]'")

from edgekit.cli.main import main
from edgekit.convert import convert
from edgekit.convert.inspection import inspect_file
from edgekit.convert.samples import read_samples

pytestmark = pytest.mark.slow

MAKE = r"""
import sys
from pathlib import Path
import keras, numpy as np, tensorflow as tf
from PIL import Image
from sklearn.datasets import load_digits

keras.utils.set_random_seed(1)
L, out, rng = keras.layers, Path(sys.argv[1]), np.random.default_rng(1)

grey, y = load_digits(return_X_y=True)
grey = (grey.reshape(-1, 8, 8) * 15.9).astype(np.uint8)
x = np.stack([grey, grey // 4, 255 - grey], -1)  # red on blue
start = keras.Input((8, 8, 3), name="image")
h = L.Conv2D(16, 3, activation="relu")(L.Conv2D(16, 3, activation="relu")(start))
net = keras.Model(start, L.Dense(10, activation="softmax")(L.Flatten()(h)))
net.compile("adam", "sparse_categorical_crossentropy")
net.fit(x[:1200] / 255, y[:1200], epochs=20, verbose=0)
net.save(out / "net.keras")
names = "zero one two three four five six seven eight nine".split()
(out / "labels.txt").write_text("\n".join(names) + "\n")
for folder, rows in (("samples", range(120)), ("evaluate", range(1200, 1400))):
    for i in rows:
        place = out / folder / names[y[i]]
        place.mkdir(parents=True, exist_ok=True)
        size = int(rng.integers(8, 20))
        Image.fromarray(x[i]).resize((size, size), 0).save(place / f"{i}.png")

def save(name, model, samples):
    specs = {t.name: tf.TensorSpec((1, *t.shape[1:]), t.dtype, t.name) for t in model.inputs}
    call = tf.function(lambda **given: {"out": model(next(iter(given.values())), training=False)})
    module = tf.Module()
    module.kept = [v.value for v in model.variables]
    folder = str(out / ("_" + name))
    tf.saved_model.save(module, folder, signatures={"serving_default": call.get_concrete_function(**specs)})
    converter = tf.lite.TFLiteConverter.from_saved_model(folder, signature_keys=["serving_default"])
    (out / (name + ".tflite")).write_bytes(converter.convert())
    np.savez(out / (name + ".npz"), x=samples)

def settled(model, samples):  # batch norms get the statistics of the data, as in training
    for layer in model.layers:
        if isinstance(layer, L.BatchNormalization):
            layer.momentum = 0.0
    for _ in range(3):
        model(samples, training=True)
    return model

def images(count, size):  # smooth random blobs: neighbours are alike, as in photos
    small = rng.uniform(0, 255, (count, 6, 6, 3)).astype(np.float32)
    return tf.image.resize(small, (size, size), "bicubic").numpy().clip(0, 255)

pictures = images(40, 64)
apps = keras.applications
net = apps.MobileNetV2((64, 64, 3), weights=None, classes=9)
save("mobilenet_v2", settled(net, pictures / 127.5 - 1), pictures / 127.5 - 1)
net = apps.EfficientNetB0(input_shape=(64, 64, 3), weights=None, classes=9)
save("efficientnet", settled(net, pictures), pictures)
save("efficientnet_scaled_twice", net, pictures / 255)
start = keras.Input((32, 32, 3), name="image")
h = start
for filters in (8, 16):
    side = L.BatchNormalization()(L.Conv2D(filters, 3, 2, padding="same")(h))
    h = L.ReLU()(side)
    h = L.ReLU()(L.Add()([side, L.BatchNormalization()(L.Conv2D(filters, 3, padding="same")(h))]))
net = keras.Model(start, L.Dense(5, activation="softmax")(L.GlobalAveragePooling2D()(h)))
save("resnet", settled(net, images(40, 32) / 255), images(40, 32) / 255)
waves = rng.normal(size=(40, 12, 4)).astype("f")
start = keras.Input((12, 4), name="x")
save("lstm_rolled", keras.Model(start, L.Dense(3)(L.LSTM(6)(start))), waves)
save("lstm_unrolled", keras.Model(start, L.Dense(3)(L.LSTM(6, unroll=True)(start))), waves)
start = keras.Input((32, 32, 3), name="image")
h = start
for filters in (8, 16):
    h = L.Conv2D(filters, 3, 2, padding="same", activation="relu")(h)
boxes = L.Activation("sigmoid")(L.Conv2D(4, 1)(h))
scores = L.Conv2D(3, 1, activation="sigmoid")(h)
save("yolo", keras.Model(start, L.Reshape((-1, 7))(L.Concatenate()([boxes, scores]))), images(40, 32) / 255)
in_pixels = L.Rescaling(320.0)(boxes)
save("yolo_pixels", keras.Model(start, L.Reshape((-1, 7))(L.Concatenate()([in_pixels, scores]))), images(40, 32) / 255)

with tf.io.TFRecordWriter(str(out / "theirs.tfrecord")) as writer:
    for i in range(5):
        features = {
            "image/encoded": tf.train.Feature(bytes_list=tf.train.BytesList(value=[tf.io.encode_png(x[i]).numpy()])),
            "image/class/label": tf.train.Feature(int64_list=tf.train.Int64List(value=[int(y[i])])),
        }
        writer.write(tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString())
np.savez(out / "theirs.npz", x=x[:5], y=y[:5])
"""
FOLDERS = """
import tensorflow as tf
import numpy as np

def dataset():
    with np.load({path!r}) as arrays:
        return tf.data.Dataset.from_tensor_slices((arrays["x"], arrays["y"])).repeat()
"""
EVEN = 'kind = "image"\nheight = 8\nwidth = 8\nfilter = "bilinear"\nantialias = false\nrange = [0, 1]\n'


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    done = subprocess.run([sys.executable, "-c", MAKE, str(folder)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    (folder / "rgb.toml").write_text(EVEN)
    (folder / "bgr.toml").write_text(EVEN + 'colour = "bgr"\n')
    return folder


@pytest.mark.parametrize(
    ("name", "warned"),
    [
        ("mobilenet_v2", set()),
        ("efficientnet", {"outlier-samples"}),  # known for it: minimum and maximum as ranges ruin it in int8
        ("efficientnet_scaled_twice", {"insensitive"}),
        ("resnet", set()),
        ("lstm_rolled", {"rolled-rnn"}),
        ("lstm_unrolled", set()),
        ("yolo", set()),
        ("yolo_pixels", {"unlike-concat"}),
    ],
)
def test_networks_are_warned_about_for_what_is_wrong_with_them_and_nothing_else(made, name, warned):
    found = inspect_file(made / f"{name}.tflite", target="rpi5", samples=made / f"{name}.npz")

    assert {finding.rule for finding in found if finding.severity == "warning"} == warned


def arguments(made: Path, output: Path, spec: str) -> list[str]:
    given = {"samples": "samples", "evaluate": "evaluate", "labels": "labels.txt", "preprocess": spec}
    options = [word for name, file in given.items() for word in (f"--{name}", str(made / file))]
    return ["convert", str(made / "net.keras"), "-o", str(output), *options]


def test_folders_of_images_of_many_sizes_calibrate_and_judge(made, tmp_path, capsys):
    assert main([*arguments(made, tmp_path / "b", "rgb.toml"), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)

    accuracy = told["variants"][0]["qualities"][0]
    assert (accuracy["metric"], accuracy["count"]) == ("top-1 accuracy", 200)
    assert accuracy["value"] > 0.8
    assert [finding for finding in told["findings"] if finding["severity"] == "warning"] == []
    assert told["convergence"][-1] == [120, 1.0]


def test_channels_in_the_wrong_order_are_told_and_with_strict_nothing_is_written(made, tmp_path, capsys):
    assert main(arguments(made, tmp_path / "b", "bgr.toml")) == 0
    assert "with the channels in reverse order (BGR for RGB)" in capsys.readouterr().out.replace("\n        ", " ")

    assert main([*arguments(made, tmp_path / "c", "bgr.toml"), "--strict"]) == 6
    assert not (tmp_path / "c").exists()
    assert "--strict" in capsys.readouterr().err


def test_the_same_folder_makes_the_same_bundle(made, tmp_path):
    bundles = [
        convert(made / "net.keras", tmp_path / name, made / "samples", spec=made / "rgb.toml", max_samples=50).bundle
        for name in ("a", "b")
    ]

    assert bundles[0].id == bundles[1].id


def test_a_tfrecord_that_tensorflow_wrote_is_read_without_it(made):
    read = read_samples(made / "theirs.tfrecord", with_labels=True)

    with np.load(made / "theirs.npz") as theirs:
        assert (read.arrays["x"] == theirs["x"]).all()
        assert read.labels.tolist() == theirs["y"].tolist()


def test_an_endless_dataset_of_a_function_gives_what_is_wanted(made, tmp_path):
    (tmp_path / "gen.py").write_text(FOLDERS.format(path=str(made / "theirs.npz")))
    script = (
        "import sys; from pathlib import Path; from edgekit.convert.samples import read_samples\n"
        "read = read_samples(Path(sys.argv[1]), with_labels=True, most=7)\n"
        "print(read.arrays['x'].shape, read.labels.tolist())"
    )
    command = [sys.executable, "-c", script, f"{tmp_path / 'gen.py'}:dataset"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)

    with np.load(made / "theirs.npz") as theirs:
        labels = theirs["y"].tolist()
    assert done.stdout.strip().splitlines()[-1] == f"(7, 8, 8, 3) {labels + labels[:2]}"
