"""Where the digits are: a U-Net that marks their pixels, and a detector that gives boxes and scores."""

from __future__ import annotations

import keras
import numpy as np
from keras import layers, ops

from suites import SEED
from suites.composite import HELD_OUT, TRAIN, Scene, scenes
from suites.train import Training

SIZE = 64
CELLS = 8  # of the detector's grid, each way
CLASSES = 10
MOST = 3  # digits in a picture
TRAINED, JUDGED = 3000, 300


def unet() -> Training:
    """Three levels with skip connections, up by a transposed convolution and by resizing; https://arxiv.org/abs/1505.04597."""
    image = keras.Input((SIZE, SIZE, 3), name="image")
    a = _conv(_conv(image, 12), 12)
    b = _conv(layers.MaxPooling2D()(a), 24)
    c = _conv(_conv(layers.MaxPooling2D()(b), 48), 48)
    up = layers.Conv2DTranspose(24, 2, strides=2, padding="same", activation="relu")(c)
    d = _conv(layers.Concatenate()([up, b]), 24)
    up = layers.UpSampling2D(interpolation="bilinear")(d)
    e = _conv(layers.Concatenate()([up, a]), 12)
    network = keras.Model(image, layers.Conv2D(1, 1, activation="sigmoid")(e))
    train, held_out = _made(TRAINED, TRAIN), _made(JUDGED, HELD_OUT)
    masks = [np.stack([one.mask > 0.5 for one in made])[..., None].astype(np.float32) for made in (train, held_out)]
    return Training(network, _images(train), masks[0], _images(held_out), masks[1], "binary_crossentropy", epochs=5)


def detector() -> Training:
    """As YOLO decodes them: one candidate for each cell, (64, 4 + 10): centre, width, height (of 1), and class scores."""
    image = keras.Input((SIZE, SIZE, 3), name="image")
    x = image
    for filters in (16, 32, 64):
        x = _conv(_conv(x, filters, strides=2), filters)
    x = _conv(x, 64)
    raw = layers.Reshape((CELLS * CELLS, 4))(layers.Conv2D(4, 1)(_conv(x, 32)))
    scores = layers.Reshape((CELLS * CELLS, CLASSES))(layers.Conv2D(CLASSES, 1, bias_initializer=_rare())(_conv(x, 64)))
    at = np.stack(np.meshgrid(np.arange(CELLS), np.arange(CELLS)), -1).reshape(1, -1, 2).astype(np.float32)
    centre = (ops.sigmoid(raw[..., :2]) + at) / CELLS
    size = ops.square(ops.sigmoid(raw[..., 2:]))
    network = keras.Model(image, layers.Concatenate()([centre, size, ops.sigmoid(scores)]))
    train, held_out = _made(TRAINED, TRAIN), _made(JUDGED, HELD_OUT)
    targets, labels = np.stack([_targets(one) for one in train]), np.stack([_boxes(one) for one in held_out])
    return Training(network, _images(train), targets, _images(held_out), labels, _detection_loss, epochs=12)


def _conv(x, filters: int, kernel: int = 3, strides: int = 1):
    x = layers.Conv2D(filters, kernel, strides, padding="same", use_bias=False)(x)
    return layers.ReLU()(layers.BatchNormalization(momentum=0.9)(x))


def _rare():
    return keras.initializers.Constant(-4.0)  # at first nothing is anywhere


def _made(count: int, part: str) -> list[Scene]:
    return scenes(count, part, SIZE, seed=SEED, most=MOST, share=(0.25, 0.5))


def _images(made: list[Scene]) -> dict[str, np.ndarray]:
    return {"image": np.stack([one.picture for one in made])}


def _targets(one: Scene) -> np.ndarray:
    """What each cell should say, (64, 14); the cell where a box's centre lies is the one that has it."""
    out = np.zeros((CELLS, CELLS, 4 + CLASSES), np.float32)
    for (left, top, right, bottom), label in zip(one.boxes / SIZE, one.classes, strict=True):
        x, y = (left + right) / 2, (top + bottom) / 2
        cell = out[min(int(y * CELLS), CELLS - 1), min(int(x * CELLS), CELLS - 1)]
        cell[:4], cell[4:] = (x, y, right - left, bottom - top), np.eye(CLASSES)[label]
    return out.reshape(CELLS * CELLS, -1)


def _boxes(one: Scene) -> np.ndarray:
    """float32 (MOST, 5): left, top, right, bottom (of 1) and class; -1 where there is no further box."""
    out = np.full((MOST, 5), -1, np.float32)
    out[: len(one.boxes), :4], out[: len(one.boxes), 4] = one.boxes / SIZE, one.classes
    return out


def _detection_loss(wanted, got):
    has = ops.sum(wanted[..., 4:], axis=-1)
    boxes = ops.sum(has * ops.sum(ops.abs(wanted[..., :4] - got[..., :4]), axis=-1), axis=-1)
    scores = ops.clip(got[..., 4:], 1e-6, 1 - 1e-6)
    cross = -wanted[..., 4:] * ops.log(scores) - 0.5 * (1 - wanted[..., 4:]) * ops.log(1 - scores)
    return 5 * boxes + ops.sum(cross, axis=(-2, -1))
