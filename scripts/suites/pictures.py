"""Convolutional classifiers of digits on cluttered photographs: ResNet8, DS-CNN, MobileNetV2, EfficientNet-B0."""

from __future__ import annotations

import keras
import numpy as np
from keras import layers

from suites import SEED
from suites.composite import HELD_OUT, TRAIN, scenes
from suites.train import Training

JUDGED = 1000  # held-out pictures


def resnet8() -> Training:
    """MLPerf Tiny's: three stages of one residual block each; https://arxiv.org/abs/2106.07597."""
    image = keras.Input((32, 32, 3), name="image")
    x = _conv(image, 16, 3)
    for filters, strides in ((16, 1), (32, 2), (64, 2)):
        y = _conv(x, filters, 3, strides)
        y = _conv(y, filters, 3, activation=None)
        x = _conv(x, filters, 1, strides, activation=None) if strides > 1 else x
        x = layers.ReLU()(layers.Add()([x, y]))
    x = layers.GlobalAveragePooling2D()(x)
    network = keras.Model(image, layers.Dense(10, activation="softmax")(x))
    return _classifying(network, 32, count=5000, epochs=12, share=(0.7, 1.0))


def dscnn() -> Training:
    """Depthwise separable convolutions on grey pictures, as for keyword spotting; https://arxiv.org/abs/1711.07128."""
    image = keras.Input((24, 24, 1), name="image")
    x = _conv(image, 64, 5, 2)
    for _ in range(4):
        x = layers.DepthwiseConv2D(3, padding="same", use_bias=False)(x)
        x = layers.ReLU()(layers.BatchNormalization(momentum=0.9)(x))
        x = _conv(x, 64, 1)
    x = layers.GlobalAveragePooling2D()(x)
    network = keras.Model(image, layers.Dense(10, activation="softmax")(x))
    return _classifying(network, 24, count=5000, epochs=10, share=(0.8, 1.0), grey=True)


def mobilenetv2() -> Training:
    image = keras.Input((64, 64, 3), name="image")
    network = keras.applications.MobileNetV2(input_tensor=image, alpha=0.5, weights=None, classes=10)
    return _classifying(_quick_statistics(network), 64, count=8000, epochs=6, share=(0.7, 1.0), low=-1.0)


def efficientnetb0() -> Training:
    """Keras's, which takes 0 to 255 and has SiLU and squeeze-and-excite: the network whose int8 collapses."""
    image = keras.Input((64, 64, 3), name="image")
    network = keras.applications.EfficientNetB0(input_tensor=image, weights=None, classes=10)
    return _classifying(_quick_statistics(network), 64, count=8000, epochs=6, share=(0.7, 1.0), high=255.0)


def _conv(x, filters: int, kernel: int, strides: int = 1, activation: str | None = "relu"):
    x = layers.Conv2D(filters, kernel, strides, padding="same", use_bias=False)(x)
    x = layers.BatchNormalization(momentum=0.9)(x)
    return layers.ReLU()(x) if activation else x


def _quick_statistics(network: keras.Model) -> keras.Model:
    """Batch normalization that has settled after hundreds of steps; Keras's needs tens of thousands."""
    for layer in network.layers:
        if isinstance(layer, layers.BatchNormalization):
            layer.momentum = 0.9
    return network


def _classifying(network, size, *, count, epochs, share, grey=False, low=0.0, high=1.0) -> Training:
    def pictures(number: int, part: str) -> tuple[np.ndarray, np.ndarray]:
        made = scenes(number, part, size, seed=SEED, share=share)
        x = np.stack([one.picture for one in made])
        x = x.mean(axis=-1, keepdims=True) if grey else x
        return x * np.float32(high - low) + np.float32(low), np.concatenate([one.classes for one in made])

    (x, y), (held_out, labels) = pictures(count, TRAIN), pictures(JUDGED, HELD_OUT)
    return Training(network, {"image": x}, y, {"image": held_out}, labels, epochs=epochs)
