"""Real handwritten digits on crops of real photographs, both from scikit-learn's package: nothing is downloaded.

Digits that judge were never seen in training, and lie on other crops of the same photographs.
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits, load_sample_images

TRAIN, HELD_OUT = "train", "held out"
SPLIT = 1200  # of 1,797 digits, those before it train


class Scene(NamedTuple):
    picture: np.ndarray  # float32 (size, size, 3), 0 to 1
    mask: np.ndarray  # float32 (size, size): how much of each pixel is digit
    boxes: np.ndarray  # float32 (n, 4): left, top, right, bottom in pixels
    classes: np.ndarray  # int64 (n,)


def digits(part: str) -> tuple[np.ndarray, np.ndarray]:
    """(n, 8, 8) float32 from 0 to 1, and what they are, int64 (n,)."""
    images, classes = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(images))
    chosen = order[:SPLIT] if part == TRAIN else order[SPLIT:]
    return (images[chosen] / 16).reshape(-1, 8, 8).astype(np.float32), classes[chosen].astype(np.int64)


def scene(random: np.random.Generator, part: str, size: int, *, most: int = 1, share: tuple[float, float]) -> Scene:
    """One picture with 1 to `most` digits, each `share` of the picture wide, that do not overlap."""
    picture = _background(random, size)
    mask = np.zeros((size, size), np.float32)
    boxes, classes = [], []
    images, labels = digits_of(part)
    for _ in range(random.integers(1, most + 1)):
        width = int(size * random.uniform(*share))
        left, top = random.integers(0, size - width + 1, 2)
        if mask[top : top + width, left : left + width].any():
            continue
        index = random.integers(len(images))
        alpha = np.asarray(Image.fromarray(images[index]).resize((width, width), Image.Resampling.BICUBIC))
        alpha = np.clip(alpha, 0, 1)
        place = picture[top : top + width, left : left + width]
        place += alpha[..., None] * (_colour(random, place.mean(axis=(0, 1))) - place)
        mask[top : top + width, left : left + width] = alpha
        rows, columns = np.flatnonzero(alpha.max(1) > 0.3), np.flatnonzero(alpha.max(0) > 0.3)
        boxes.append((left + columns[0], top + rows[0], left + columns[-1] + 1, top + rows[-1] + 1))
        classes.append(labels[index])
    return Scene(picture, mask, np.array(boxes, np.float32), np.array(classes, np.int64))


def scenes(count: int, part: str, size: int, *, seed: int, most: int = 1, share: tuple[float, float]) -> list[Scene]:
    random = np.random.default_rng((seed, part == TRAIN))
    return [scene(random, part, size, most=most, share=share) for _ in range(count)]


@cache
def digits_of(part: str) -> tuple[np.ndarray, np.ndarray]:
    return digits(part)


@cache
def _photographs() -> list[Image.Image]:
    return [Image.fromarray(image) for image in load_sample_images().images]  # china.jpg and flower.jpg, 640 x 427


def _background(random: np.random.Generator, size: int) -> np.ndarray:
    photograph = _photographs()[random.integers(2)]
    width = int(random.integers(48, 160))
    left, top = (random.integers(0, side - width + 1) for side in photograph.size)
    crop = photograph.crop((left, top, left + width, top + width)).resize((size, size), Image.Resampling.BILINEAR)
    values = np.asarray(crop, np.float32) / 255
    values = values[:, ::-1] if random.random() < 0.5 else values
    return np.clip(values * random.uniform(0.6, 1.2, 3).astype(np.float32), 0, 1).astype(np.float32)


def _colour(random: np.random.Generator, behind: np.ndarray) -> np.ndarray:
    """A colour that can be told from what is behind it."""
    while True:
        colour = random.random(3).astype(np.float32)
        if np.abs(colour - behind).max() > 0.45:
            return colour
