"""The child process that quantizes without TensorFlow, and loads what came out: quantizers crash, and write what crashes."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, NoReturn

from edgekit.convert.child import listen, run_to_end
from edgekit.errors import ConversionError, EdgekitError, first_line, summary

Ranges = Mapping[str, "tuple[float, float]"]
_CAST_OPERATORS = ("CONV_2D", "DEPTHWISE_CONV_2D", "CONV_2D_TRANSPOSE", "FULLY_CONNECTED", "EMBEDDING_LOOKUP")


def main(back_end: str, folder: Path | None) -> NoReturn:
    """Does what `folder`/job.json says and leaves `0.tflite`, `1.tflite`, ... there, one for each set of ranges.

    Without a folder it gets ready, and does so for each folder that it is told.
    """
    if folder is None:
        _get_ready()
        listen(lambda folder: {"made_by": run(back_end, folder)})
    run_to_end(folder, lambda: {"made_by": run(back_end, folder)})


def _get_ready() -> None:
    """Imports what LiteRT's quantizer will want; what is missing is told when it does."""
    with contextlib.suppress(ImportError):
        from ai_edge_litert import _pywrap_tensorflow_lite_calibration_wrapper  # noqa: F401

        from edgekit.convert import rewrite  # noqa: F401
        from edgekit.runner import interpreter  # noqa: F401


def run(back_end: str, folder: Path) -> str:
    """Makes the files and loads them; gives the quantizer's name and version."""
    job = json.loads((folder / "job.json").read_text("utf-8"))
    model, mode, several = Path(job["model"]), job["mode"], job["ranges"]
    if back_end == "none":  # only to see whether a file can be run
        check_runs(model)
        return ""
    make, package, finish = {
        "litert": (with_litert, "ai-edge-litert", _without_ranges),
        "litert-quantizer": (with_litert_quantizer, "litert-quantizer", _inlined),
    }[back_end]
    try:
        for number, content in enumerate(make(model, mode, several)):
            path = folder / f"{number}.tflite"
            path.write_bytes(content if job["trial"] else finish(content))
            if number == 0:  # the others are the same graph with other scales
                check_runs(path)
    except ImportError as error:
        raise ConversionError(f"not installed ({error})", hint="pip install 'edgekit[convert]'") from error
    except EdgekitError:
        raise
    except Exception as error:  # pybind gives whatever the C++ code threw; litert-quantizer has a dozen kinds
        raise ConversionError(f"{summary(error)}", hint="try another --mode") from error
    return f"{package} {metadata.version(package)}"


def check_runs(path: Path) -> None:
    """ConversionError unless LiteRT loads the file and one inference on zeros goes through."""
    from edgekit.runner.interpreter import open_interpreter

    try:
        interpreter = open_interpreter(path, threads=1)
        for details in interpreter.get_input_details():
            content = interpreter.get_tensor(details["index"])
            content[...] = 0
            interpreter.set_tensor(details["index"], content)
        interpreter.invoke()
    except (EdgekitError, ValueError, RuntimeError) as error:
        raise ConversionError(f"LiteRT does not run it: {first_line(error)}", hint="try another --mode") from error


# --- the quantizer in ai-edge-litert's wheel ------------------------------------------------------------------------


def with_litert(path: Path, mode: str, several: Sequence[Ranges]) -> Iterator[bytes]:
    """The int8 and int16 forms, by the engine behind TFLiteConverter's: private to the wheel, no further dependencies.

    Arguments in lite/python/optimize/calibration_wrapper.h: input, output, allow float, activations, biases,
    per tensor weights, per tensor weights of dense layers.
    """
    import numpy as np
    from ai_edge_litert import _pywrap_tensorflow_lite_calibration_wrapper as wrapper

    from edgekit.convert.rewrite import packed, restamp, stamp, unpacked

    numbers = {name: np.dtype(name).num for name in ("int8", "int16", "int32", "int64", "float32")}
    outside, inside, bias = {
        "int8": ("int8", "int8", "int32"),
        "int8-float-io": ("float32", "int8", "int32"),
        "int16x8": ("int16", "int16", "int64"),
    }[mode]
    model = unpacked(path.read_bytes())
    stamp(model, several[0])
    stamped = bytearray(packed(model))  # once: of a large model each copy counts
    del model
    for ranges in several:
        restamp(stamped, ranges)
        content = bytes(stamped)  # a name of its own: the wrapper keeps a bare pointer to it
        quantizer = wrapper.CalibrationWrapper(content, [], [])
        quantizer.Prepare()
        made = quantizer.QuantizeModel(
            numbers[outside], numbers[outside], False, numbers[inside], numbers[bias], False, False
        )
        del quantizer, content  # before the next one needs as much
        yield bytes(made)


def _without_ranges(content: bytes) -> bytes:
    from edgekit.convert.rewrite import packed, unpacked, without_ranges

    return packed(without_ranges(unpacked(content)))


# --- litert-quantizer -----------------------------------------------------------------------------------------------


def with_litert_quantizer(path: Path, mode: str, several: Sequence[Ranges]) -> Iterator[bytes]:
    """Every mode, by Google's litert-quantizer (ai-edge-quantizer until 0.10), public; wants scipy."""
    import logging

    import numpy as np
    from litert_quantizer import quantizer, recipe

    logging.disable(logging.WARNING)
    recipes: Mapping[str, Callable[[], Any]] = {
        "int8": recipe.static_wi8_ai8,
        "int8-float-io": recipe.static_wi8_ai8,
        "int16x8": recipe.static_wi8_ai16,
        "dynamic": recipe.dynamic_wi8_afp32,
        "weights8": recipe.weight_only_wi8_afp32,
        "weights4": recipe.weight_only_wi4_afp32,
    }
    for ranges in several or ({},):
        maker = quantizer.Quantizer(str(path), recipes[mode]() if mode in recipes else None)
        if mode == "float16":
            for name in _CAST_OPERATORS:
                maker.add_weight_only_config(
                    ".*",
                    quantizer.qtyping.TFLOperationName[name],
                    16,
                    algorithm_key=quantizer.AlgorithmName.FLOAT_CASTING,
                )
        elif mode == "int8-float-io":
            for name in ("INPUT", "OUTPUT"):
                maker.update_quantization_recipe(
                    ".*",
                    quantizer.qtyping.TFLOperationName[name],
                    algorithm_key=quantizer.AlgorithmName.NO_QUANTIZE,
                )
        values = None
        if ranges:
            values = {
                name: {"min": np.array([low], np.float32), "max": np.array([high], np.float32)}
                for name, (low, high) in ranges.items()
            }
        done = maker.quantize(values, enable_progress_report=False)
        yield bytes(done.quantized_model)


def _inlined(content: bytes) -> bytes:
    """With the weights inside the flatbuffer, not behind it."""
    from edgekit.convert.rewrite import packed, unpacked

    return packed(unpacked(content))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]) if len(sys.argv) > 2 else None)
