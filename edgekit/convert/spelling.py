"""Functions of TensorFlow in the words that its TFLite converter knows."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def known_to_tflite(tf: Any) -> Iterator[None]:
    """While open, what is traced with `tf.nn.gelu` becomes TFLite's GELU.

    TensorFlow 2.21 writes the exact one with erfc, for which TFLite has no operator; the converter knows it by erf.
    """
    original = tf.nn.gelu

    def gelu(features: Any, approximate: bool = False, name: str | None = None) -> Any:
        if approximate:
            return original(features, approximate=True, name=name)
        features = tf.convert_to_tensor(features)
        return 0.5 * features * (1.0 + tf.math.erf(features * math.sqrt(0.5)))

    tf.nn.gelu = gelu
    try:
        yield
    finally:
        tf.nn.gelu = original
