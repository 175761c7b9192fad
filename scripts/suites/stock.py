"""A child process: int8 by the tools as their own documentation has them, with the same samples that edgekit gets."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np


def tflite_converter(network: Path, samples: dict[str, np.ndarray], out: Path) -> None:
    """TFLiteConverter's full integer quantization: https://ai.google.dev/edge/litert/conversion/tensorflow/quantization."""
    import keras
    import tensorflow as tf

    model = keras.models.load_model(network, compile=False)
    converter = tf.lite.TFLiteConverter.from_keras_model(model)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    count = len(next(iter(samples.values())))
    converter.representative_dataset = lambda: (
        {n: array[i : i + 1] for n, array in samples.items()} for i in range(count)
    )
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    converter.inference_input_type = converter.inference_output_type = tf.int8
    out.write_bytes(converter.convert())


def litert_quantizer(network: Path, samples: dict[str, np.ndarray], out: Path) -> None:
    """litert-quantizer's static int8 recipe and its own calibration, of the float .tflite."""
    from litert_quantizer import quantizer, recipe

    maker = quantizer.Quantizer(str(network), recipe.static_wi8_ai8())
    count = len(next(iter(samples.values())))
    rows = [{n: array[i : i + 1] for n, array in samples.items()} for i in range(count)]
    done = maker.quantize(maker.calibrate({"serving_default": rows}))
    done.export_model(str(out), overwrite=True)


def onnxruntime(network: Path, samples: dict[str, np.ndarray], out: Path) -> None:
    """onnxruntime's static quantization (QDQ, weights per channel) of Keras's own ONNX export."""
    import keras
    from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    model = keras.models.load_model(network, compile=False)
    exported, ready = out.with_suffix(".float.onnx"), out.with_suffix(".ready.onnx")
    model({name: array[:1] for name, array in samples.items()})  # what was never called is not exported
    model.export(str(exported), format="onnx", verbose=False)
    quant_pre_process(str(exported), str(ready), skip_symbolic_shape=True)  # it stumbles over shared layers

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            count = len(next(iter(samples.values())))
            self.rows = iter([{n: array[i : i + 1] for n, array in samples.items()} for i in range(count)])

        def get_next(self) -> dict[str, np.ndarray] | None:
            return next(self.rows, None)

    quantize_static(
        str(ready),
        str(out),
        Reader(),
        per_channel=True,
        activation_type=QuantType.QInt8,
        weight_type=QuantType.QInt8,
    )


if __name__ == "__main__":
    with np.load(sys.argv[3]) as arrays:
        given = {name: arrays[name] for name in arrays.files}
    globals()[sys.argv[1]](Path(sys.argv[2]), given, Path(sys.argv[4]))
