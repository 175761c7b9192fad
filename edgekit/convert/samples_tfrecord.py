"""Samples from a TFRecord file of tf.train.Example, read without TensorFlow.

Framing (tensorflow/core/lib/io/record_writer.h): length uint64, its checksum, content, its checksum, little-endian. The
checksums are CRC-32C, rotated by 15 bits and shifted by a constant. Content: the protocol buffer of
tensorflow/core/example/example.proto.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from edgekit.convert.samples_folder import decode_image, stacked
from edgekit.convert.selection import balanced
from edgekit.errors import InputError, SamplesError

IMAGE_KEYS = ("image/encoded", "image_raw", "image")
LABEL_KEYS = ("image/class/label", "label", "y")
_HINT = "was it copied completely? write it with tf.io.TFRecordWriter, not compressed"


def read_tfrecord(path: Path, *, most: int | None) -> tuple[dict[str, np.ndarray], np.ndarray | None]:
    """At most `most` samples, of every class alike: encoded images as `x`, else every list of numbers by its name.

    Raises InputError for a file that cannot be read, SamplesError naming the record for one that is damaged.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}", hint="give a TFRecord file") from error
    if content[:2] == b"\x1f\x8b":
        raise SamplesError(f"{path} is compressed", hint="unpack it: gzip -dc FILE > samples.tfrecord")
    try:
        examples = [parse_example(record) for record in records(content)]
        if not examples:
            raise ValueError("it has no records")
    except (ValueError, struct.error, IndexError) as error:
        raise SamplesError(f"{path}: {error}", hint=_HINT) from error
    keys = set(examples[0])
    if any(set(example) != keys for example in examples):
        odd = next(i for i, example in enumerate(examples) if set(example) != keys)
        raise SamplesError(f"{path}: record {odd} has other features than record 0", hint="write the same for all")
    label_key = next((key for key in LABEL_KEYS if key in keys and not isinstance(examples[0][key], list)), None)
    labels = stacked([np.asarray(example[label_key]) for example in examples]) if label_key else None
    if labels is not None and labels.shape[1:] == (1,) and labels.dtype.kind == "i":
        labels = labels[:, 0]
    if most is not None and len(examples) > most:
        by_class = labels.ndim == 1 and labels.dtype.kind == "i" if labels is not None else False
        chosen = balanced(labels if labels is not None and by_class else [0] * len(examples), most)
        examples, labels = [examples[i] for i in chosen], labels[chosen] if labels is not None else None
    image_key = next((key for key in IMAGE_KEYS if isinstance(examples[0].get(key), list)), None)
    if image_key is not None:
        return {"x": _images(examples, image_key, path)}, labels
    names = [key for key in examples[0] if key != label_key and not isinstance(examples[0][key], list)]
    return {name: stacked([np.asarray(example[name]) for example in examples]) for name in names}, labels


def records(content: bytes) -> Iterator[bytes]:
    """Each record's content, after its checksums were found right; ValueError saying which record is damaged."""
    place, number = 0, 0
    while place < len(content):
        if place + 12 > len(content):
            raise ValueError(f"record {number} is cut off")
        size, of_size = struct.unpack_from("<QI", content, place)
        if masked_crc(content[place : place + 8]) != of_size:
            raise ValueError(f"record {number} is damaged, or this is not a TFRecord file")
        if place + 16 + size > len(content):
            raise ValueError(f"record {number} is cut off")
        record = content[place + 12 : place + 12 + size]
        if masked_crc(record) != struct.unpack_from("<I", content, place + 12 + size)[0]:
            raise ValueError(f"record {number} is damaged")
        yield record
        place, number = place + 16 + size, number + 1


def parse_example(record: bytes) -> dict[str, list[bytes] | np.ndarray]:
    """Feature name -> byte strings, float32 or int64 numbers. ValueError if it is no tf.train.Example."""
    found: dict[str, list[bytes] | np.ndarray] = {}
    for features in _fields(record, 1):
        for entry in _fields(features, 1):
            name = b"".join(_fields(entry, 1)).decode("utf-8", "replace")
            for feature in _fields(entry, 2):
                for kind, content in wire_fields(feature):
                    if kind == 1:
                        found[name] = list(_fields(content, 1))
                    elif kind == 2:  # packed, or one by one: the same bytes
                        found[name] = np.frombuffer(b"".join(_fields(content, 1)), "<f4").astype(np.float32)
                    elif kind == 3:
                        packed = b"".join(_fields(content, 1))
                        found[name] = np.array(list(_varints(packed)), np.uint64).astype(np.int64)
    return found


def masked_crc(content: bytes) -> int:
    crc = 0xFFFFFFFF
    for byte in content:
        crc = _CRC[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    crc ^= 0xFFFFFFFF
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def _crc_table() -> list[int]:
    table = []
    for byte in range(256):
        for _ in range(8):
            byte = byte >> 1 ^ (0x82F63B78 if byte & 1 else 0)
        table.append(byte)
    return table


_CRC = _crc_table()


def _images(examples: list[dict[str, list[bytes] | np.ndarray]], key: str, path: Path) -> np.ndarray:
    decoded = []
    for number, example in enumerate(examples):
        content = example[key]
        if not isinstance(content, list) or len(content) != 1:
            raise SamplesError(f"{path}: {key!r} of sample {number} is not one image", hint=_HINT)
        decoded.append(decode_image(io.BytesIO(content[0]), f"{path}, sample {number}"))
    grey = all(is_grey for _, is_grey in decoded)
    return stacked([levels[..., :1] if grey else levels for levels, _ in decoded])


def _fields(message: bytes, wanted: int) -> Iterator[bytes]:
    return (content for number, content in wire_fields(message) if number == wanted)


def wire_fields(message: bytes) -> Iterator[tuple[int, bytes]]:
    """(number, bytes) of every field: of a varint its own bytes, of others their content."""
    place = 0
    while place < len(message):
        key, place = _varint(message, place)
        start = place
        if key & 7 == 0:
            _, place = _varint(message, place)
        elif key & 7 == 2:
            size, start = _varint(message, place)
            place = start + size
        elif key & 7 in (1, 5):
            place += 8 if key & 7 == 1 else 4
        else:
            raise ValueError("a record is no tf.train.Example")
        if place > len(message):
            raise ValueError("a record is no tf.train.Example")
        yield key >> 3, message[start:place]


def _varints(content: bytes) -> Iterator[int]:
    place = 0
    while place < len(content):
        value, place = _varint(content, place)
        yield value


def _varint(content: bytes, place: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if place >= len(content):
            raise ValueError("a record is no tf.train.Example")
        byte = content[place]
        value |= (byte & 0x7F) << shift
        place += 1
        if byte < 0x80:
            return value & 0xFFFFFFFFFFFFFFFF, place
    raise ValueError("a record is no tf.train.Example")
