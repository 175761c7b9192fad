"""A child process: trains one network with Keras and leaves model.keras and its samples in a folder."""

from __future__ import annotations

import importlib
import json
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np

from suites import CALIBRATION, NETWORKS, SEED

Inputs = Mapping[str, np.ndarray]  # by the name of the network's input


@dataclass(frozen=True)
class Training:
    """A network and its data. `y` is what the network is trained on, `labels` what held-out answers are judged by."""

    network: keras.Model
    x: Inputs
    y: np.ndarray
    held_out: Inputs
    labels: np.ndarray
    loss: Any = "sparse_categorical_crossentropy"
    epochs: int = 10
    rate: float = 1e-3  # of Adam, at first; it falls to nothing as a cosine
    batch: int = 32


def train(name: str, folder: Path, *, epochs: int | None = None) -> None:
    """model.keras, samples.npz (calibration: of the training data), evaluate.npz (held out, with labels), made.json."""
    keras.utils.set_random_seed(SEED)
    training: Training = getattr(importlib.import_module(f"suites.{NETWORKS[name].family}"), name)()
    epochs = epochs or training.epochs
    started = time.perf_counter()
    steps = epochs * -(-len(training.y) // training.batch)
    rate = keras.optimizers.schedules.CosineDecay(training.rate, steps)
    training.network.compile(keras.optimizers.Adam(rate), training.loss)
    fed = dict(training.x)
    history = training.network.fit(fed, training.y, epochs=epochs, batch_size=training.batch, verbose=2)
    training.network.save(folder / "model.keras")
    chosen = np.random.default_rng(SEED).choice(len(training.y), CALIBRATION, replace=False)
    np.savez(folder / "samples.npz", **{n: a[chosen] for n, a in training.x.items()})
    np.savez(folder / "evaluate.npz", **training.held_out, y=training.labels)
    made = {"epochs": epochs, "seconds": round(time.perf_counter() - started), "loss": history.history["loss"][-1]}
    (folder / "made.json").write_text(json.dumps(made), "utf-8")


if __name__ == "__main__":
    train(sys.argv[1], Path(sys.argv[2]), epochs=int(sys.argv[3]) if sys.argv[3:] else None)
