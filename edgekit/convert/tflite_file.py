"""A float .tflite given as the model; and the samples, shaped as its inputs take them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from edgekit.bundle import Tensor
from edgekit.convert.describe import quantization
from edgekit.convert.fitting import by_input, check_numbers
from edgekit.convert.fixed_sizes import fix_sizes
from edgekit.convert.flatbuffer import read_model
from edgekit.convert.quantize import check_runs
from edgekit.errors import ConversionError, NotAModel, SamplesError

SIGNATURE = b"serving_default"


def take_tflite(path: Path, folder: Path, *, timeout_s: float) -> tuple[Path, bool]:
    """float.tflite in `folder`, and whether every size in it is fixed.

    A file without a signature gets one, with the tensors' own names: quantizers rename tensors, not a signature's
    inputs. Raises NotAModel for a file that is quantized already or that LiteRT does not run.
    """
    described = read_model(path)
    if quantization(described) != "none":
        raise NotAModel(
            f"{path} is quantized already", hint="give the float .tflite, or the model that it was converted from"
        )
    graph = described.subgraphs[0]
    free = [t.name for t in graph.tensors if any(size < 0 for size in (t.shape_signature or ())[1:])]
    if free and any(i in graph.inputs for i in range(len(graph.tensors)) if graph.tensors[i].name in free):
        raise NotAModel(
            f"{path}: input {free[0]!r} has sizes that are not fixed", hint="convert the model again with fixed sizes"
        )
    content = path.read_bytes()
    if not described.signatures:
        content = with_signature(content)
    copy = folder / "float.tflite"
    copy.write_bytes(content)
    try:
        check_runs(copy, folder / "check", timeout_s=timeout_s)
    except ConversionError as error:
        raise NotAModel(
            f"{path}: {error}", hint="does it have custom or Flex operators? was it copied completely?"
        ) from error
    computed = any(operator.name == "SHAPE" for operator in graph.operators)
    is_free = computed and any(-1 in (t.shape_signature or ()) for t in graph.tensors)
    return copy, not is_free or fix_sizes(copy)


def with_signature(content: bytes, inputs: Sequence[str] = (), outputs: Sequence[str] = ()) -> bytes:
    """The .tflite with a signature that calls its inputs and outputs so, in their order; without names as its tensors.

    Raises ValueError for another number of names.
    """
    from ai_edge_litert import schema_py_generated as schema

    from edgekit.convert.rewrite import packed, unpacked

    model = unpacked(content)
    graph = model.subgraphs[0]
    signature = schema.SignatureDefT()
    signature.signatureKey, signature.subgraphIndex = SIGNATURE, 0
    for side, indexes, names in (("inputs", graph.inputs, inputs), ("outputs", graph.outputs, outputs)):
        maps = []
        for index, name in zip(indexes, names or [graph.tensors[i].name.decode() for i in indexes], strict=True):
            entry = schema.TensorMapT()
            entry.name, entry.tensorIndex = name.encode(), int(index)
            maps.append(entry)
        setattr(signature, side, maps)
    model.signatureDefs = [signature]
    return packed(model)


def of_litert_torch(content: bytes, inputs: Sequence[str], outputs: Sequence[str]) -> bytes:
    """The .tflite without needless TRANSPOSEs, its only signature with these names for its inputs and outputs, in their order.

    litert-torch names them by number (args_0, output_0), and lists args_10 before args_2.
    """
    from edgekit.convert.rewrite import packed, unpacked
    from edgekit.convert.transposes import without_transposes

    model = unpacked(content)
    if len(model.subgraphs) == 1:
        without_transposes(model)
    (signature,) = model.signatureDefs
    signature.signatureKey = SIGNATURE
    for maps, names in ((signature.inputs, inputs), (signature.outputs, outputs)):
        maps.sort(key=lambda entry: int(entry.name.rpartition(b"_")[2]))
        for entry, name in zip(maps, names, strict=True):
            entry.name = name.encode()
    return packed(model)


def fed(samples: Mapping[str, np.ndarray], inputs: Sequence[Tensor]) -> dict[str, np.ndarray]:
    """What the model sees, (n, ...) by input, as its tensors take it: (n, *shape of the tensor), in their dtype.

    Raises SamplesError where samples and model do not fit.
    """
    samples = by_input(samples, [tensor.name for tensor in inputs])
    out = {}
    for tensor in inputs:
        array, dtype = samples[tensor.name], np.dtype(tensor.dtype)
        wanted = tensor.shape[1:] if tensor.shape[:1] == (1,) else tensor.shape
        if array.shape[1:] != wanted:
            told = ", ".join(["n", *map(str, array.shape[1:])]), ", ".join(["n", *map(str, wanted)])
            raise SamplesError(
                f"samples of shape ({told[0]}) do not fit input {tensor.name!r}, which is ({told[1]})",
                hint="give samples as the model sees them, or a --preprocess spec that makes them so",
            )
        check_numbers(tensor.name, dtype, array)
        out[tensor.name] = array.astype(dtype, copy=False).reshape(len(array), *tensor.shape)
    return out
