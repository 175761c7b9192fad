"""The names of what can be asked for: modes of quantization, policies for ranges, metrics; nothing is imported for them."""

from __future__ import annotations

from collections.abc import Mapping

# mode -> the quantizers that can make it, in the order in which they are tried
BACK_ENDS: Mapping[str, tuple[str, ...]] = {
    "int8": ("litert", "litert-quantizer", "tensorflow"),
    "int8-float-io": ("litert", "litert-quantizer", "tensorflow"),
    "int16x8": ("litert", "litert-quantizer"),  # TensorFlow's makes zero points of ranges, which the kernels refuse
    "dynamic": ("litert-quantizer",),
    "weights8": ("litert-quantizer",),
    "weights4": ("litert-quantizer",),
    "float16": ("litert-quantizer",),
    "float32": (),
}
MIXED = "mixed"  # int8, but for the operators that a recipe or a repair leaves in float
MODES = (*BACK_ENDS, MIXED)
WITH_RANGES = ("int8", "int8-float-io", "int16x8")  # whose activations are quantized ahead of time
END_TYPES = ("int8", "uint8")  # of what goes into a model of mode int8, and of what comes out

QUANTILES = (0.99, 0.975, 0.95, 0.9, 0.75)  # of each sample's extremes, over the samples
PERCENTILES = (99.999, 99.99)  # of all values
POLICIES = (
    "min-max",
    *(f"quantile-{q:g}" for q in QUANTILES),
    *(f"percentile-{p:g}" for p in PERCENTILES),
    "least-error",
)
AUTO = "auto"  # the best of them, by samples held out
LEVELS = ("none", "int8", "mixed")  # what a variant that the gate refuses may be repaired to

METRICS = ("top-1", "top-5", "auc", "f1", "iou", "map", "map50", "wer", "cer", "mae", "rmse", "r2")
