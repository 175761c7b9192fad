"""Networks over time, on real handwritten digits read as series: row by row, or pixel by pixel."""

from __future__ import annotations

import keras
from keras import layers

from suites.composite import HELD_OUT, TRAIN, digits
from suites.train import Training


def tcn() -> Training:
    """Dilated causal convolutions over the 64 pixels, one after the other; https://arxiv.org/abs/1803.01271."""
    series = keras.Input((64, 1), name="series")
    x = layers.Conv1D(24, 3, padding="causal", activation="relu")(series)
    for dilation in (1, 2, 4, 8, 16):
        y = layers.Conv1D(24, 3, padding="causal", dilation_rate=dilation, activation="relu")(x)
        y = layers.Conv1D(24, 3, padding="causal", dilation_rate=dilation)(y)
        x = layers.ReLU()(layers.Add()([x, y]))
    x = layers.GlobalAveragePooling1D()(x)
    return _over_time(series, layers.Dense(10, activation="softmax")(x), (64, 1), epochs=40)


def transformer() -> Training:
    """Two encoder blocks over the eight rows, with learned positions; https://arxiv.org/abs/1706.03762."""
    series = keras.Input((8, 8), name="series")
    x = layers.EinsumDense("btf,fd->btd", (8, 48), bias_axes="td")(series)  # a bias for each place: its position
    for _ in range(2):
        y = layers.LayerNormalization()(x)
        x = layers.Add()([x, layers.MultiHeadAttention(4, 12)(y, y)])
        y = layers.LayerNormalization()(x)
        y = layers.Dense(48)(layers.Dense(96, activation="relu")(y))
        x = layers.Add()([x, y])
    x = layers.GlobalAveragePooling1D()(layers.LayerNormalization()(x))
    return _over_time(series, layers.Dense(10, activation="softmax")(x), (8, 8), epochs=30)


def lstm() -> Training:
    series = keras.Input((8, 8), name="series")
    x = layers.LSTM(48, unroll=True)(series)
    return _over_time(series, layers.Dense(10, activation="softmax")(x), (8, 8), epochs=30)


def gru() -> Training:
    """Two layers: the first one gives its whole series to the second one."""
    series = keras.Input((8, 8), name="series")
    x = layers.GRU(32, unroll=True, return_sequences=True)(series)
    x = layers.GRU(32, unroll=True)(x)
    return _over_time(series, layers.Dense(10, activation="softmax")(x), (8, 8), epochs=30)


def _over_time(series, scores, shape: tuple[int, ...], *, epochs: int) -> Training:
    (x, y), (held_out, labels) = digits(TRAIN), digits(HELD_OUT)
    return Training(
        keras.Model(series, scores),
        {"series": x.reshape(-1, *shape)},
        y,
        {"series": held_out.reshape(-1, *shape)},
        labels,
        epochs=epochs,
        rate=3e-3,
    )
