"""Samples as models of PyTorch and ONNX take them: batch of 1, dtype, channels first or last."""

from __future__ import annotations

import numpy as np
import pytest

from edgekit.convert.fitting import Input, fit, narrowed
from edgekit.convert.float_check import made_up
from edgekit.errors import SamplesError

F32 = np.dtype(np.float32)


@pytest.mark.parametrize(
    ("sample", "wanted", "fitted", "channels_last"),
    [
        ((3, 8, 6), (None, 3, 8, 6), (1, 3, 8, 6), False),
        ((8, 6, 3), (1, 3, 8, 6), (1, 8, 6, 3), True),
        ((8, 6, 3), (None, 3, None, None), (1, 8, 6, 3), True),
        ((3, 3, 3), (1, 3, 3, 3), (1, 3, 3, 3), False),  # nothing tells: as it is
        ((49, 10), (None, 10, 49), (1, 49, 10), True),
        ((7,), (None, 7), (1, 7), False),
        ((7, 5), (7, 5), (7, 5), False),  # no batch: the first size is the number of frames
        ((), (None,), (1,), False),
    ],
)
def test_samples_fit_as_they_are_or_with_their_channels_last(sample, wanted, fitted, channels_last):
    (one,) = fit([Input("x", wanted, F32)], {"x": np.zeros((4, *sample), np.float32)})

    assert one.array.shape == (4, *fitted)
    assert one.channels_last is channels_last
    taken = one.as_source(one.array[0]).shape
    assert len(taken) == len(wanted) and all(w in (None, size) for w, size in zip(wanted, taken, strict=True))


@pytest.mark.parametrize(
    ("sample", "wanted"), [((8, 6, 4), (1, 3, 8, 6)), ((8, 3, 6), (1, 3, 8, 6)), ((7,), (1, 8)), ((2, 7), (None, 7))]
)
def test_samples_that_fit_in_no_order_are_refused(sample, wanted):
    with pytest.raises(SamplesError, match="do not fit input 'x'"):
        fit([Input("x", wanted, F32)], {"x": np.zeros((4, *sample), np.float32)})


def test_the_source_gets_the_channels_first_and_its_own_dtype():
    pixels = np.arange(2 * 4 * 5 * 3, dtype=np.uint8).reshape(2, 4, 5, 3)
    (one,) = fit([Input("x", (1, 3, 4, 5), F32)], {"anything": pixels})

    given = one.as_source(narrowed(one.array)[0])

    assert given.dtype == np.float32
    np.testing.assert_array_equal(given[0], pixels[0].transpose(2, 0, 1))


def test_several_inputs_go_by_their_names():
    inputs = [Input("a", (1, 2), F32), Input("b", (1, 3), np.dtype(np.int64))]
    arrays = {"b": np.zeros((4, 3), np.int32), "a": np.zeros((4, 2))}

    assert [(one.name, one.array.dtype) for one in fit(inputs, arrays)] == [("a", np.float32), ("b", np.int64)]
    with pytest.raises(SamplesError, match="the samples are for a, the model's inputs are a, b"):
        fit(inputs, {"a": arrays["a"]})
    with pytest.raises(SamplesError, match="input 'b' takes int64, the samples are float"):
        fit(inputs, {**arrays, "b": np.zeros((4, 3), np.float32)})


def test_random_inputs_lie_between_the_samples_and_tokens_are_tokens_that_were_seen():
    rng = np.random.default_rng(1)
    waves, tokens = rng.normal(size=(20, 1, 8)).astype(np.float32), rng.choice([3, 9, 40], (20, 1, 5)).astype(np.int32)

    assert waves.min() <= made_up(waves).min() < made_up(waves).max() <= waves.max()
    assert set(made_up(tokens).ravel()) <= {3, 9, 40}
    assert made_up(waves).dtype == waves.dtype and made_up(tokens).dtype == tokens.dtype
