"""On the device: the first golden vector of a release, read without numpy, and whether a server's answer is it.

golden.npz is a zip of .npy files: `input/<name>.npy` raw samples, `output/<variant>/<name>.npy` answers in the model's own
dtype. The .npy format: https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html
Sent together with the agent; standard library only, Python >= 3.9.
"""

from __future__ import annotations

import ast
import json
import math
import os
import struct
from typing import TYPE_CHECKING, Any

from edgekit.deploy.disk import Refused, read_file

if TYPE_CHECKING:
    import zipfile

# numpy's name -> struct's letter, and the Open Inference Protocol's name
TYPES = {
    "b1": ("?", "BOOL"),
    "i1": ("b", "INT8"),
    "i2": ("h", "INT16"),
    "i4": ("i", "INT32"),
    "i8": ("q", "INT64"),
    "u1": ("B", "UINT8"),
    "u2": ("H", "UINT16"),
    "u4": ("I", "UINT32"),
    "u8": ("Q", "UINT64"),
    "f2": ("e", "FP16"),
    "f4": ("f", "FP32"),
    "f8": ("d", "FP64"),
}
LONGEST_HEADER = 10_000  # bytes, as numpy has it
LARGEST = 64 << 20  # bytes of one sample


def first_vector(folder: str) -> tuple[str, dict[str, Any], dict[str, list[float]], dict[str, float]]:
    """(name of the model, request for it, right answer by output, how far from it the answer may be) of a release."""
    import zipfile  # slow to import, and of no use without a server

    manifest = json.loads(read_file(os.path.join(folder, "manifest.json")))
    variant = manifest["variants"][0]
    with zipfile.ZipFile(os.path.join(folder, manifest["golden"])) as archive:
        inputs = []
        for tensor in variant["inputs"]:
            shape, kind, data = _first(archive, f"input/{tensor['name']}.npy")
            inputs.append({"name": tensor["name"], "shape": shape, "datatype": TYPES[kind][1], "data": data})
        answers, allowed = {}, {}
        for tensor in variant["outputs"]:
            name, scale = tensor["name"], tensor["scale"]
            _, _, data = _first(archive, f"output/{variant['name']}/{name}.npy")
            # the server gives real numbers: an integer tensor stands for (q - zero point) * scale
            zero = tensor["zero_point"] or 0
            answers[name] = data if scale is None else [(value - zero) * scale for value in data]
            allowed[name] = variant["golden_tolerance"] * (1.0 if scale is None else scale)
    return manifest["name"], {"inputs": inputs}, answers, allowed


def _first(archive: zipfile.ZipFile, name: str) -> tuple[list[int], str, list[Any]]:
    """Shape, type and numbers of the first row of an array."""
    with archive.open(name) as stream:
        magic = stream.read(8)
        if magic[:6] != b"\x93NUMPY":
            raise ValueError(f"{name} is not an array")
        (length,) = struct.unpack("<H", stream.read(2)) if magic[6] == 1 else struct.unpack("<I", stream.read(4))
        if length > LONGEST_HEADER:  # before it is unpacked into memory
            raise ValueError(f"{name} has a header of {length} bytes")
        header = ast.literal_eval(stream.read(length).decode("latin-1"))
        shape, kind = list(header["shape"][1:]), str(header["descr"])
        letter, count = TYPES[kind[1:]][0], 1
        for size in shape:
            if type(size) is not int or size < 0:  # reading less than nothing would be reading all
                raise ValueError(f"{name} has a dimension of {size!r}")
            count *= size
        size = struct.calcsize("<" + letter) * count
        if size > LARGEST or kind[0] not in "<|" or header["fortran_order"]:
            raise ValueError(f"{name} is not an array that edgekit writes")
        return shape, kind[1:], list(struct.unpack(f"<{count}{letter}", stream.read(size)))


def compare(outputs: Any, answers: dict[str, list[float]], allowed: dict[str, float]) -> float:
    """The largest difference between what a server answered and what is right. Raises Refused if it is too large."""
    found = {output["name"]: _flat(output["data"]) for output in outputs}
    largest = 0.0
    for name, wanted in answers.items():
        got = found.get(name, [])
        if len(got) != len(wanted):
            raise Refused(
                "GoldenMismatch", f"its server's answer has no {name!r} of {len(wanted)} numbers", "report it"
            )
        for one, other in zip(got, wanted):  # of one length
            if one is None and not math.isfinite(other):  # JSON has no number for it
                continue
            difference = float("inf") if one is None else abs(one - other)
            largest = max(largest, difference)
            # a little more: the server rounds to float32
            if not difference <= allowed[name] * 1.001 + 1e-6 * abs(other):
                message = (
                    f"its server answers {one} for {name!r} where {other:g} is right ({allowed[name]:g} is allowed)"
                )
                raise Refused("GoldenMismatch", message, "the release before is in use again")
    return largest


def _flat(data: Any) -> list[Any]:
    if not isinstance(data, list):
        return [data]
    return [number for part in data for number in _flat(part)]
