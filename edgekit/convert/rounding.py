"""Which of the two nearest steps each int8 or int4 weight becomes: what one rounds away, the next ones make good.

Frantar et al. 2022, https://arxiv.org/abs/2210.17323 (GPTQ): the weights of an output channel are rounded one after the
other, and each one's error goes to those that are still to come, in proportion to how their inputs go together. These are
inputs as the int8 model sees them, from real samples, with their mean taken away where there is a bias to take it up.

That takes 1 to 15 dB off the error that weights make in a layer's output, measured on other samples; what is left then is
that of the activations. SQNR of answers on samples held out, int8 with corrected biases before and after: ResNet8 31.3 and
31.6 dB, DS-CNN 30.7 and 30.8, MobileNetV2-96 29.9 and 30.4, dense autoencoder 47.1 and 47.7. Tried and worse: to make good
also what the layers before have lost (ResNet8 27.4 dB).

Where activations are real numbers it is the weights that count. As the quantizer made it, with corrected biases, and rounded
as well: ResNet8 with int4 weights 7.7, 12.3 and 20.8 dB (float's class for 60, 87 and 94 % of pictures), with int8 weights
35.1, 40.1 and 45.9 dB; DS-CNN 16.2, 21.3 and 23.8 dB with int4, 41.5, 44.2 and 47.8 dB with int8.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from edgekit.convert.bias import correct_bias
from edgekit.convert.calibrate import Feeds
from edgekit.convert.held_out import FEWEST, some, split
from edgekit.convert.linear import Twins, find_twins
from edgekit.convert.observe import observe
from edgekit.convert.patch import own_constants, pack
from edgekit.convert.selection import spread

SAMPLES = 100
ROWS = 4096  # inputs of a layer that make its weights, at least: places drawn from all samples
ROWS_DEPTHWISE = 1024  # where each channel has a few weights only
ROWS_PER_WEIGHT = 4  # and more for layers with many inputs
DAMPING = 0.1  # added to the inputs' squares, as a share of their mean: 0.01 fits few samples too well
BLOCK = 128  # weights after which errors go to all that are still to come, instead of to their block only
MEMORY = 1 << 29  # bytes of inputs kept at a time; more layers than that are done in several runs


def round_weights(
    float_model: Path,
    quantized: Path,
    output: Path,
    feeds: Feeds,
    *,
    samples: int = SAMPLES,
    progress: Callable[[str], None] = lambda stage: None,
) -> int:
    """Writes `quantized` with weights rounded anew to `output`; the number of layers changed, with 0 nothing is written.

    `feeds` are samples as the model sees them, of which `samples` are used: every fifth one judges. An output channel
    whose error is no smaller on those keeps the weights it had. Biases are corrected afterwards, as by `correct_bias`.
    With fewer than 10 samples there is none to judge, and nothing is done. Raises NotAModel as read_model does.
    """
    chosen = some(feeds, spread(len(next(iter(feeds.values()))), samples))
    count = len(next(iter(chosen.values())))
    if count < FEWEST:
        return 0
    content = bytearray(quantized.read_bytes())
    constants = own_constants(content)
    layers = [twins for twins in find_twins(float_model, quantized) if twins.layer.w in constants]
    makers, judges = split(count)
    changed = done = 0
    for group in _groups(layers):
        made, judged = (_inputs(quantized, some(chosen, side), group) for side in (makers, judges))
        for twins, makes, judge in zip(group, made, judged, strict=True):
            done += 1
            progress(f"round weights, layer {done} of {len(layers)}")
            steps = _rounded(twins, makes, judge, centred=twins.layer.b in constants)
            changed += not np.array_equal(steps, twins.steps)
            weights, stored = twins.layer.weights(steps), constants[twins.layer.w]
            stored[...] = pack(weights) if stored.dtype == np.uint8 else weights
    if changed:
        output.write_bytes(content)
        correct_bias(float_model, output, output, chosen)
    return changed


def _groups(layers: Sequence[Twins]) -> Iterator[list[Twins]]:
    """The layers in their order, as many at a time as MEMORY has room for."""
    group: list[Twins] = []
    used = 0
    for twins in layers:
        size = _rows(twins) * twins.layer.height * twins.layer.width * twins.layer.channels_in * 4
        if group and used + size > MEMORY:
            yield group
            group, used = [], 0
        group.append(twins)
        used += size
    if group:
        yield group


def _rows(twins: Twins) -> int:
    return ROWS_DEPTHWISE if twins.layer.is_depthwise else max(ROWS, ROWS_PER_WEIGHT * twins.weights.shape[1])


def _inputs(model: Path, feeds: Feeds, layers: Sequence[Twins]) -> list[np.ndarray]:
    """What each layer's weights meet, float32 (problems, rows, weights): a depthwise layer is one problem for each channel."""
    count = len(next(iter(feeds.values())))

    def look(sample: int, read: Callable[[int], np.ndarray]) -> list[np.ndarray]:
        return [t.layer.patches(read(t.layer.x), -(-_rows(t) // count), sample) for t in layers]

    rows = observe(model, feeds, look)
    found = []
    for place, twins in enumerate(layers):
        patches = np.concatenate([row[place] for row in rows])  # (rows, kernel places, in)
        found.append(patches.transpose(2, 0, 1) if twins.layer.is_depthwise else patches.reshape(1, len(patches), -1))
    return found


def _rounded(twins: Twins, made: np.ndarray, judged: np.ndarray, *, centred: bool) -> np.ndarray:
    """The layer's weights in steps, int8, in the form that they had."""
    if centred:
        mean = made.mean(axis=1, keepdims=True)
        made, judged = made - mean, judged - mean
    wanted = (twins.weights / twins.scale[:, None]).reshape(len(made), -1, made.shape[2])
    before = twins.steps.reshape(wanted.shape)
    after = fed_back(wanted, _squares(made), twins.largest)
    squares = _squares(judged)
    is_better = _error(after - wanted, squares) < _error(before - wanted, squares)
    return np.where(is_better[:, :, None], after, before).astype(np.int8).reshape(twins.steps.shape)


def _squares(rows: np.ndarray) -> np.ndarray:
    """Mean products of inputs with one another, float64 (problems, weights, weights)."""
    return np.asarray((np.swapaxes(rows, 1, 2) @ rows / rows.shape[1]).astype(np.float64))


def _error(off: np.ndarray, squares: np.ndarray) -> np.ndarray:
    """Mean squared error of each output channel, (problems, channels), when its weights are `off` by so much."""
    return np.asarray(((off @ squares) * off).sum(axis=2))


def fed_back(weights: np.ndarray, squares: np.ndarray, largest: int = 127) -> np.ndarray:
    """`weights` (problems, channels, weights), in steps, rounded so that outputs change little.

    `squares` (problems, weights, weights) are the mean products of their inputs. Weights whose inputs are largest come
    first: they have most others left to make good what they lose.
    """
    size = weights.shape[2]
    diagonal = np.einsum("pii->pi", squares)
    mean = diagonal.mean(axis=1)
    damping = np.where(mean > 0, DAMPING * mean, 1.0)[:, None, None]
    order = np.argsort(-diagonal, axis=1, kind="stable")
    squares = np.take_along_axis(np.take_along_axis(squares, order[:, :, None], 1), order[:, None, :], 2)
    inverse = np.linalg.inv(squares + damping * np.eye(size))
    factor = np.swapaxes(np.linalg.cholesky(inverse), 1, 2)  # upper triangle: row i is how i's error is made good later
    left = np.take_along_axis(weights, order[:, None, :], 2)
    steps = np.empty_like(left)
    for start in range(0, size, BLOCK):
        end = min(start + BLOCK, size)
        errors = np.empty_like(left[:, :, start:end])
        for i in range(start, end):
            steps[:, :, i] = np.clip(np.rint(left[:, :, i]), -largest, largest)
            error = (left[:, :, i] - steps[:, :, i]) / factor[:, None, i, i]
            left[:, :, i:end] -= error[:, :, None] * factor[:, None, i, i:end]
            errors[:, :, i - start] = error
        left[:, :, end:] -= errors @ factor[:, start:end, end:]
    found = np.empty_like(steps)
    np.put_along_axis(found, order[:, None, :], steps, 2)
    return found
