"""A real bundle in milliseconds, without TensorFlow: one int8 FULLY_CONNECTED layer."""

from __future__ import annotations

import io
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
from handmade_model import T, build

from edgekit import __version__, preprocess
from edgekit.bundle import Bundle, Delegate, Manifest, write_bundle
from edgekit.runner.interpreter import open_interpreter
from edgekit.runner.model import Model, describe_variant

INPUTS, OUTPUTS = 4, 3


def tiny_tflite(seed: int = 0) -> bytes:
    """4 int8 numbers in (scale 1/16), 3 out (scale 1/8); the weights depend on `seed`."""
    weights = np.random.default_rng(seed).integers(-127, 128, (OUTPUTS, INPUTS), dtype=np.int8)
    x, y = T("x", (1, INPUTS), "int8", 1 / 16), T("y", (1, OUTPUTS), "int8", 1 / 8)
    w = T("weights", (OUTPUTS, INPUTS), "int8", 1 / 64, data=weights)
    bias = T("bias", (OUTPUTS,), "int32", 1 / 1024, data=np.zeros(OUTPUTS, np.int32))
    return build([("FULLY_CONNECTED", [x, w, bias], [y])], inputs=[x], outputs=[y], version=4)  # the first with int8


def tiny_bundle(
    path: Path, *, seed: int = 0, title: str = "tiny", golden_shift: int = 0, arch: str | None = None
) -> Bundle:
    """A bundle of that model at `path`. Its golden answers are the real runner's, or `golden_shift` steps beside them."""
    tflite = tiny_tflite(seed)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "int8.tflite"
        file.write_bytes(tflite)
        interpreter = open_interpreter(file, 1)
        variant = describe_variant(interpreter, "models/int8.tflite", quantization="int8")
        model = Model(variant, [interpreter], {})
    inputs = np.random.default_rng(1).uniform(-4, 4, (8, INPUTS)).astype(np.float32)
    answers = model(inputs, raw_out=True).astype(np.int16) + golden_shift
    name, spec = variant.inputs[0].name, preprocess.Generic()
    golden = io.BytesIO()
    np.savez(
        golden,
        **{f"input/{name}": inputs},
        **{f"output/int8/{variant.outputs[0].name}": answers.clip(-128, 127).astype(np.int8)},
    )
    manifest = Manifest(
        name=title,
        target=None if arch is None else f"a board with {arch}",
        arch=arch,
        variants=(replace(variant, operators={"FULLY_CONNECTED": 4}, delegates=(Delegate("cpu", {"threads": 1}),)),),
        preprocess={name: preprocess.spec_fields(spec)},
        preprocess_sha256={name: preprocess.spec_digest(spec)},
        labels=None,
        golden="golden.npz",
        files={},
        made_by={"edgekit": __version__},
        made_from={},
        commits={},
        command=(),
    )
    return write_bundle(path, manifest, {"models/int8.tflite": tflite, "golden.npz": golden.getvalue()})
