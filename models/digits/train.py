"""Trains a small convolutional network on scikit-learn's handwritten digits and writes what `edgekit convert` needs.

1,797 real digits, 8x8 pixels of 0 to 16 (UCI's Optical Recognition of Handwritten Digits, test part). Writes to OUT:
digits.keras; samples.npz (200 training digits, for calibration); evaluate.npz (400 held-out digits with labels);
unseen.npz (200 more held-out digits with labels, for the device: neither training nor conversion sees them).
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")

import keras
import numpy as np
from sklearn.datasets import load_digits


def build_network() -> keras.Model:
    """8x8x1 in 0..1 -> ten probabilities; 20 thousand weights."""
    image = keras.Input((8, 8, 1), name="image")
    x = keras.layers.Conv2D(16, 3, padding="same", activation="relu")(image)
    x = keras.layers.Conv2D(32, 3, strides=2, padding="same", activation="relu")(x)
    x = keras.layers.Conv2D(32, 3, padding="same", activation="relu")(x)
    x = keras.layers.Flatten()(x)
    x = keras.layers.Dropout(0.3)(x)
    x = keras.layers.Dense(10, activation="softmax", name="digit")(x)
    return keras.Model(image, x, name="digits")


def main() -> None:
    """Trains and writes; the same seed gives the same split, and on one machine the same weights."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("build/digits"))
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--seed", type=int, default=7)
    options = parser.parse_args()
    keras.utils.set_random_seed(options.seed)

    images, classes = load_digits(return_X_y=True)
    order = np.random.default_rng(options.seed).permutation(len(images))
    x = images[order].reshape(-1, 8, 8, 1).astype(np.uint8)
    y = classes[order].astype(np.int64)
    train, evaluate, unseen = slice(0, 1197), slice(1197, 1597), slice(1597, 1797)

    network = build_network()
    network.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    network.fit(x[train] / np.float32(16), y[train], epochs=options.epochs, batch_size=32, verbose=0)
    accuracy = network.evaluate(x[evaluate] / np.float32(16), y[evaluate], verbose=0)[1]
    print(f"float accuracy on {evaluate.stop - evaluate.start} held-out digits: {accuracy:.4f}")

    options.out.mkdir(parents=True, exist_ok=True)
    network.save(options.out / "digits.keras")
    np.savez(options.out / "samples.npz", x=x[train][:200])
    np.savez(options.out / "evaluate.npz", x=x[evaluate], y=y[evaluate])
    np.savez(options.out / "unseen.npz", x=x[unseen], y=y[unseen])


if __name__ == "__main__":
    main()
