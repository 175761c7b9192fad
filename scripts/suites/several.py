"""Other inputs than one picture or series: two pictures, the characters of a text, the columns of a table."""

from __future__ import annotations

import sysconfig
from pathlib import Path

import keras
import numpy as np
from keras import layers
from sklearn.datasets import load_diabetes

from suites import SEED
from suites.composite import HELD_OUT, TRAIN, digits
from suites.train import Training

SOURCES = ("argparse", "doctest", "inspect", "_pydecimal", "tarfile", "tokenize", "turtle", "typing")
CHARACTERS = 64  # in a piece of text


def pair() -> Training:
    """Two handwritten digits: is the second one larger? One network looks at both."""
    eye = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            layers.Conv2D(16, 3, activation="relu"),
            layers.Conv2D(32, 3, activation="relu"),
            layers.Flatten(),
            layers.Dense(32, activation="relu"),
        ]
    )
    first, second = keras.Input((8, 8, 1), name="first"), keras.Input((8, 8, 1), name="second")
    x = layers.Dense(32, activation="relu")(layers.Concatenate()([eye(first), eye(second)]))
    network = keras.Model([first, second], layers.Dense(2, activation="softmax")(x))
    (x, y), (held_out, labels) = _pairs(TRAIN, 8000), _pairs(HELD_OUT, 1000)
    return Training(network, x, y, held_out, labels, epochs=5)


def _pairs(part: str, count: int) -> tuple[dict[str, np.ndarray], np.ndarray]:
    images, classes = digits(part)
    a, b = np.random.default_rng(SEED).integers(0, len(images), (2, count))
    return {"first": images[a][..., None], "second": images[b][..., None]}, (classes[b] > classes[a]).astype(np.int64)


def tokens() -> Training:
    """Of which module of Python's own library are these 64 characters? Embedding, one encoder block, the mean."""
    text = keras.Input((CHARACTERS,), dtype="int32", name="text")
    x = layers.Embedding(128, 48)(text)
    x = layers.Conv1D(48, 5, padding="same", activation="relu")(x)
    y = layers.LayerNormalization()(x)
    x = layers.Add()([x, layers.MultiHeadAttention(4, 12)(y, y)])
    x = layers.GlobalAveragePooling1D()(layers.LayerNormalization()(x))
    network = keras.Model(text, layers.Dense(len(SOURCES), activation="softmax")(x))
    pieces = [_pieces(name) for name in SOURCES]
    x, y = _mixed([piece[: len(piece) * 3 // 4] for piece in pieces], 6000)
    held_out, labels = _mixed([piece[len(piece) * 3 // 4 :] for piece in pieces], 1000)
    return Training(network, {"text": x}, y, {"text": held_out}, labels, epochs=8)


def _pieces(module: str) -> np.ndarray:
    """int32 (n, 64): the module's source, every 16 characters a piece."""
    source = np.frombuffer((Path(sysconfig.get_paths()["stdlib"]) / f"{module}.py").read_bytes(), np.uint8)
    return np.minimum(np.lib.stride_tricks.sliding_window_view(source, CHARACTERS)[::16], 127).astype(np.int32)


def _mixed(pieces: list[np.ndarray], count: int) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(SEED)
    labels = random.integers(0, len(pieces), count)
    return np.stack([pieces[label][random.integers(len(pieces[label]))] for label in labels]), labels


def regression() -> Training:
    """Ten columns about a patient, and how a diabetes went on: https://www4.stat.ncsu.edu/~boos/var.select/diabetes.html."""
    x, y = load_diabetes(return_X_y=True)
    order = np.random.default_rng(SEED).permutation(len(x))
    x, y = x[order].astype(np.float32) * 20, y[order].astype(np.float32)[:, None]
    table = keras.Input((10,), name="table")
    h = layers.Dense(64, activation="relu")(table)
    h = layers.Dense(32, activation="relu")(h)
    network = keras.Model(table, layers.Dense(1)(h))
    return Training(network, {"table": x[:300]}, y[:300], {"table": x[300:]}, y[300:], "mae", epochs=60, rate=1e-2)
