"""Samples from folders of images and recordings, CSV, TFRecord and functions: what comes out, and what is refused how."""

from __future__ import annotations

import csv
import io
import os
import struct
import wave
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("PIL.Image", reason="pip install 'edgekit[convert]'")

from PIL import Image

from edgekit import preprocess
from edgekit.convert.samples import check_fit, preprocessed, read_samples, specs_by_array
from edgekit.convert.samples_csv import parse_csv
from edgekit.convert.samples_function import source_file
from edgekit.convert.samples_tfrecord import masked_crc, parse_example, records
from edgekit.errors import InputError, SamplesError

SMALL = preprocess.Image(height=4, width=4, mean=(0.0,), std=(1.0,), filter="nearest")


def picture(path: Path, colour=(10, 20, 30), size=(6, 5), mode="RGB") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, colour).save(path)
    return path


def recording(path: Path, values, *, rate=8000, channels=1, width=2) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with wave.open(str(path), "wb") as sound:
        sound.setnchannels(channels)
        sound.setsampwidth(width)
        sound.setframerate(rate)
        sound.writeframes(bytes(values))
    return path


def int16(*values: int) -> bytes:
    return np.array(values, "<i2").tobytes()


# --- images ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def photos(tmp_path) -> Path:
    for number in range(6):
        picture(tmp_path / "photos" / "cat" / f"{number}.png", (number, 0, 0))
    for number in range(2):
        picture(tmp_path / "photos" / "bird" / "more" / f"{number}.bmp", (0, number, 9))
    (tmp_path / "photos" / "cat" / "notes.txt").write_text("not an image")
    picture(tmp_path / "photos" / ".thumbnails" / "0.png")
    return tmp_path / "photos"


def test_a_folder_of_images_has_a_class_for_each_sub_folder(photos):
    read = read_samples(photos, with_labels=True)

    assert read.arrays["x"].shape == (8, 5, 6, 3)
    assert read.arrays["x"].dtype == np.uint8
    assert read.labels.tolist() == [0, 0, 1, 1, 1, 1, 1, 1]  # bird, cat
    assert read.names[:2] == ("bird/more/0.bmp", "bird/more/1.bmp")


def test_classes_are_numbered_as_the_labels_are_ordered(photos):
    assert read_samples(photos, with_labels=True, classes=["cat", "dog", "bird"]).labels.tolist() == [
        2,
        2,
        0,
        0,
        0,
        0,
        0,
        0,
    ]
    with pytest.raises(SamplesError, match="class 'bird' is not among the labels") as caught:
        read_samples(photos, with_labels=True, classes=["cat", "dog"])

    assert "the labels are cat, dog" in caught.value.hint
    assert (
        read_samples(photos, with_labels=False, classes=["cat", "dog"]).count == 8
    )  # only for ranges: any class will do


def test_sub_folders_that_are_called_by_numbers_are_these_classes(tmp_path):
    for name in ("10", "2", "0"):
        picture(tmp_path / name / "a.png")

    assert read_samples(tmp_path, with_labels=True).labels.tolist() == [0, 10, 2]


def test_of_many_images_every_class_is_read_alike(photos):
    read = read_samples(photos, with_labels=False, most=4)

    assert [name.split("/")[0] for name in read.names] == ["bird", "bird", "cat", "cat"]
    assert read.labels.tolist() == [0, 0, 1, 1]


def test_grey_images_have_one_channel_if_all_are_grey(tmp_path):
    picture(tmp_path / "a.png", 7, mode="L")
    picture(tmp_path / "b.png", 9, mode="L")
    grey = read_samples(tmp_path, with_labels=False).arrays["x"]
    picture(tmp_path / "c.png", (1, 2, 3, 4), mode="RGBA")
    mixed = read_samples(tmp_path, with_labels=False).arrays["x"]

    assert (grey.shape, grey[0, 0, 0].tolist()) == ((2, 5, 6, 1), [7])
    assert (mixed.shape, mixed[:, 0, 0].tolist()) == ((3, 5, 6, 3), [[7, 7, 7], [9, 9, 9], [1, 2, 3]])


def test_images_of_several_sizes_want_a_preprocessing_that_resizes(tmp_path):
    picture(tmp_path / "a.png", size=(6, 5))
    picture(tmp_path / "b.png", size=(9, 7))
    read = read_samples(tmp_path, with_labels=False)

    with pytest.raises(SamplesError, match=r"different shapes, a\.png \(5, 6, 3\) and b\.png \(7, 9, 3\)"):
        check_fit(read, {})

    check_fit(read, {"x": SMALL})
    assert preprocessed(read.arrays, {"x": SMALL})["x"].shape == (2, 4, 4, 3)


@pytest.mark.parametrize("content", [b"", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"hello"])
def test_an_image_that_cannot_be_read_is_named(photos, content):
    (photos / "cat" / "3.png").write_bytes(content)

    with pytest.raises(SamplesError, match=r"cat/3\.png cannot be read as an image"):
        read_samples(photos, with_labels=False)


def test_an_image_of_16_bits_is_refused(tmp_path):
    Image.fromarray(np.full((4, 4), 3000, np.uint16)).save(tmp_path / "a.png")
    picture(tmp_path / "b.png")

    with pytest.raises(SamplesError, match=r"a\.png has more than 8 bits a level"):
        read_samples(tmp_path, with_labels=False)


def test_a_folder_with_neither_images_nor_recordings_is_refused(tmp_path):
    (tmp_path / "readme.md").write_text("nothing")

    with pytest.raises(SamplesError, match="has no images, no WAV files and no arrays") as caught:
        read_samples(tmp_path, with_labels=False)

    assert ".png" in caught.value.hint


def test_a_folder_with_both_is_refused(photos):
    recording(photos / "cat" / "miaow.wav", int16(1, 2))

    with pytest.raises(SamplesError, match="has WAV files and images"):
        read_samples(photos, with_labels=False)


def test_files_outside_of_class_folders_are_samples_but_no_evaluation(photos):
    picture(photos / "stray.png")

    assert read_samples(photos, with_labels=False).labels is None
    with pytest.raises(SamplesError, match="has files outside of class folders"):
        read_samples(photos, with_labels=True)


# --- recordings -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("width", "content", "values"),
    [
        (1, bytes([0, 128, 255]), [-32768, 0, 32512]),
        (2, int16(-32768, 0, 513), [-32768, 0, 513]),
        (3, b"\xff\x00\x80\x00\x00\x00\x01\x01\x02", [-32768, 0, 513]),
        (4, np.array([-(2**31), 0, 513 << 16], "<i4").tobytes(), [-32768, 0, 513]),
    ],
)
def test_recordings_of_any_width_become_16_bits(tmp_path, width, content, values):
    for name in ("a", "b"):
        recording(tmp_path / f"{name}.wav", content, width=width)
    read = read_samples(tmp_path, with_labels=False)

    assert read.arrays["x"].tolist() == [values, values]
    assert read.arrays["x"].dtype == np.int16
    assert read.sample_rate == 8000


def test_recordings_of_several_channels_and_lengths_fit_an_audio_preprocessing(tmp_path):
    recording(tmp_path / "yes" / "a.wav", int16(*range(40)), channels=2)
    recording(tmp_path / "yes" / "b.wav", int16(*range(60)), channels=2)
    spec = preprocess.Audio(feature="waveform", sample_rate=8000, window=16, hop=16, frames=2)
    read = read_samples(tmp_path, with_labels=True)
    check_fit(read, {"x": spec})

    assert preprocessed(read.arrays, {"x": spec})["x"].shape == (2, 32)
    with pytest.raises(SamplesError, match=r"different shapes, yes/a\.wav \(20, 2\) and yes/b\.wav \(30, 2\)"):
        check_fit(read, {})


def test_recordings_of_another_rate_than_the_preprocessings_are_refused(tmp_path):
    for name in ("a", "b"):
        recording(tmp_path / f"{name}.wav", int16(1, 2, 3))
    spec = preprocess.Audio(feature="waveform", sample_rate=16000, window=16, hop=16, frames=2)

    with pytest.raises(SamplesError, match="has 8000 samples a second, the preprocessing is for 16000"):
        check_fit(read_samples(tmp_path, with_labels=False), {"x": spec})


def test_recordings_of_different_rates_are_refused(tmp_path):
    recording(tmp_path / "a.wav", int16(1, 2))
    recording(tmp_path / "b.wav", int16(1, 2), rate=16000)

    with pytest.raises(SamplesError, match=r"b\.wav has 16000 samples a second, .*a\.wav has 8000"):
        read_samples(tmp_path, with_labels=False)


@pytest.mark.parametrize("content", [b"", b"RIFF", b"RIFF\x00\x00\x00\x00WAVEfmt ", b"hello there, no sound here"])
def test_a_recording_that_cannot_be_read_is_named(tmp_path, content):
    (tmp_path / "a.wav").write_bytes(content)

    with pytest.raises(SamplesError, match=r"a\.wav cannot be read as a WAV file"):
        read_samples(tmp_path, with_labels=False)


# --- CSV ------------------------------------------------------------------------------------------------------------


def test_a_csv_has_features_and_a_column_of_labels(tmp_path):
    (tmp_path / "s.csv").write_text("temp,label,humidity\n1.5,1,2\n-3,0,4e2\n")
    read = read_samples(tmp_path / "s.csv", with_labels=True)

    assert read.arrays["x"].tolist() == [[1.5, 2], [-3, 400]]
    assert read.labels.tolist() == [1, 0]


def test_labels_of_a_csv_are_names_numbers_or_targets():
    assert parse_csv("a,y\n1,dog\n2,cat\n", "f")[1].tolist() == [1, 0]
    assert parse_csv("a,y\n1,dog\n2,cat\n", "f", ["bird", "dog", "cat"])[1].tolist() == [1, 2]
    assert parse_csv("a,y\n1,7\n2,3\n", "f", ["3", "7"])[1].tolist() == [1, 0]
    assert parse_csv("a,y\n1,0.5\n2,3\n", "f")[1].tolist() == [[0.5], [3]]
    assert parse_csv("a;b\n1;2\n3;4\n", "f")[1] is None


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "is empty"),
        ("1,2\n3,4\n", "has numbers where the names of the columns should be"),
        ("a,a\n3,4\n", "two columns of the same name"),
        ("a,y,label\n1,2,3\n", "several label columns"),
        ("y\n1\n", "no features, only labels"),
        ("a,b\n1,2\n1\n", "row 3: 1 values for 2 columns"),
        ("a,b\n1,\n", "row 2, column 'b': '' is not a number"),
        ("a,b\n1,nan\n", "row 2, column 'b': 'nan' is not a number"),
        ("a,b\n1,1e39\n", "row 2, column 'b': '1e39' is not a number"),
        ('a,b\n1,"2\n', "is not a CSV file"),
    ],
)
def test_a_csv_that_is_none_is_refused_with_the_place(text, told):
    with pytest.raises(SamplesError, match=told):
        parse_csv(text, "f.csv")


@given(
    st.lists(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=2, max_size=2), min_size=1),
    st.sampled_from(",;\t"),
)
def test_what_is_written_as_csv_is_read_again(rows, delimiter):
    text = io.StringIO()
    csv.writer(text, delimiter=delimiter).writerows([["first", "second"], *rows])

    assert parse_csv(text.getvalue(), "f")[0]["x"].tolist() == rows


@given(st.text(alphabet='ab1,;.-e"\n\r\t \x00é', max_size=60))
def test_no_text_makes_the_csv_reader_crash(text):
    try:
        arrays, _ = parse_csv(text, "f")
    except SamplesError:
        return

    assert np.isfinite(arrays["x"]).all()


# --- TFRecord -------------------------------------------------------------------------------------------------------


def varint(value: int) -> bytes:
    out = b""
    while value > 0x7F:
        out, value = out + bytes([value & 0x7F | 0x80]), value >> 7
    return out + bytes([value])


def field(number: int, content: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(content)) + content


def example(**features) -> bytes:
    """A tf.train.Example: bytes, a list of whole numbers, or a list of floats for each name."""
    entries = b""
    for name, value in features.items():
        if isinstance(value, bytes):
            feature = field(1, field(1, value))
        elif all(isinstance(item, int) for item in value):
            feature = field(3, field(1, b"".join(varint(item % 2**64) for item in value)))
        else:
            feature = field(2, field(1, np.array(value, "<f4").tobytes()))
        entries += field(1, field(1, name.replace("__", "/").encode()) + field(2, feature))
    return field(1, entries)


def framed(*contents: bytes) -> bytes:
    out = b""
    for content in contents:
        size = struct.pack("<Q", len(content))
        out += size + struct.pack("<I", masked_crc(size)) + content + struct.pack("<I", masked_crc(content))
    return out


def png(colour) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (3, 2), colour).save(stream, "png")
    return stream.getvalue()


def test_the_checksum_is_the_one_that_is_published():
    crc = ((masked_crc(b"123456789") - 0xA282EAD8) & 0xFFFFFFFF) << 15 & 0xFFFFFFFF
    rotated = (masked_crc(b"123456789") - 0xA282EAD8) & 0xFFFFFFFF

    assert crc | rotated >> 17 == 0xE3069283  # RFC 3720's check value of CRC-32C


def test_a_tfrecord_of_images_has_images_and_class_numbers(tmp_path):
    path = tmp_path / "train-00000-of-00002.tfrecord"
    features = [
        {"image__encoded": png((i, 2, 3)), "image__class__label": [i], "image__format": b"png"} for i in range(3)
    ]
    path.write_bytes(framed(*(example(**each) for each in features)))
    read = read_samples(path, with_labels=True)

    assert read.arrays["x"].shape == (3, 2, 3, 3)
    assert read.arrays["x"][2, 0, 0].tolist() == [2, 2, 3]
    assert read.labels.tolist() == [0, 1, 2]


def test_a_tfrecord_of_numbers_has_them_by_name(tmp_path):
    path = tmp_path / "s.tfrecord"
    path.write_bytes(framed(*(example(wave=[0.5, i / 2], tokens=[i, -1], label=[i % 2]) for i in range(4))))
    read = read_samples(path, with_labels=True, most=2)

    assert read.arrays["wave"].tolist() == [[0.5, 0.0], [0.5, 0.5]]
    assert read.arrays["tokens"].tolist() == [[0, -1], [1, -1]]
    assert read.labels.tolist() == [0, 1]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda whole: whole[:-1], "record 1 is cut off"),
        (lambda whole: whole[:5], "record 0 is cut off"),
        (lambda whole: whole[:20] + b"?" + whole[21:], "record 0 is damaged"),
        (lambda whole: b"hello, this is some text", "or this is not a TFRecord file"),
        (lambda whole: b"", "it has no records"),
        (lambda whole: b"\x1f\x8b" + whole, "is compressed"),
        (lambda whole: whole + framed(example(other=[1.0])), "record 2 has other features than record 0"),
        (lambda whole: framed(b"\xff\xff\xff", b"\x0a"), "no tf.train.Example"),
    ],
)
def test_a_damaged_tfrecord_is_refused_with_the_record(tmp_path, change, told):
    path = tmp_path / "s.tfrecord"
    path.write_bytes(change(framed(example(x=[1.0, 2.0]), example(x=[3.0, 4.0]))))

    with pytest.raises(SamplesError, match=told):
        read_samples(path, with_labels=False)


@given(
    st.dictionaries(
        st.text(min_size=1, max_size=8),
        st.one_of(
            st.binary(),
            st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1),
            st.lists(st.floats(width=32, allow_nan=False), min_size=1),
        ),
    )
)
def test_what_is_written_as_an_example_is_read_again(features):
    entries = {name.replace("__", "-"): value for name, value in features.items()}

    (record,) = records(framed(example(**entries)))
    found = parse_example(record)

    assert {name: [*value] for name, value in found.items()} == {
        name: [value] if isinstance(value, bytes) else value for name, value in entries.items()
    }


@given(st.binary(max_size=80))
def test_no_bytes_make_the_example_reader_crash(content):
    try:
        parse_example(content)
    except ValueError:
        return


@given(st.binary(max_size=80), st.integers(0, 200), st.integers(1, 255))
def test_no_flipped_byte_in_a_tfrecord_goes_unnoticed(content, place, change):
    whole = bytearray(framed(content, b"second"))
    whole[place % len(whole)] ^= change

    with pytest.raises(ValueError, match="record"):
        list(records(bytes(whole)))


# --- functions ------------------------------------------------------------------------------------------------------


def function(tmp_path, body: str, name: str = "make") -> Path:
    file = tmp_path / "gen.py"
    file.write_text(f"import numpy as np\n{body}\n")
    return Path(f"{file}:{name}")


@pytest.mark.parametrize(
    ("body", "shapes", "labels"),
    [
        ("def make():\n for i in range(3): yield np.full((2, 2), i)", {"x": (3, 2, 2)}, None),
        ("def make():\n for i in range(3): yield np.full((2, 2), i), i", {"x": (3, 2, 2)}, [0, 1, 2]),
        ("def make():\n for i in range(3): yield {'a': np.zeros(2), 'b': [1.0]}", {"a": (3, 2), "b": (3, 1)}, None),
        ("def make():\n return [({'a': np.zeros(2)}, i) for i in range(3)]", {"a": (3, 2)}, [0, 1, 2]),
        ("def make():\n return np.zeros((3, 4))", {"x": (3, 4)}, None),
        ("def make():\n return {'a': np.zeros((3, 4)), 'b': np.zeros((3, 1))}", {"a": (3, 4), "b": (3, 1)}, None),
        ("make = lambda: (np.zeros(4) for _ in range(3))", {"x": (3, 4)}, None),
    ],
)
def test_a_function_gives_samples_in_any_of_the_usual_ways(tmp_path, body, shapes, labels):
    read = read_samples(function(tmp_path, body), with_labels=labels is not None)

    assert {name: array.shape for name, array in read.arrays.items()} == shapes
    assert (None if read.labels is None else read.labels.tolist()) == labels


def test_only_as_many_samples_as_are_wanted_are_asked_of_a_function(tmp_path):
    endless = "import itertools\ndef make():\n for i in itertools.count(): yield [i]"

    assert read_samples(function(tmp_path, endless), with_labels=False, most=5).arrays["x"].tolist() == [
        [0],
        [1],
        [2],
        [3],
        [4],
    ]


def test_what_a_function_raises_is_told_with_its_line(tmp_path):
    broken = function(tmp_path, "def make():\n yield [1]\n raise KeyError('gone')")

    with pytest.raises(SamplesError, match=r"gen\.py:make raised KeyError, line 4: 'gone'"):
        read_samples(broken, with_labels=False)


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ("x = 1", "has no function make"),
        ("def make(): return 7", "gave int, not samples"),
        ("def make(): return []", "gave no samples"),
        ("def make(): yield [1]; yield [2], 3", "sample 1 is made of other parts than sample 0"),
        ("def make(): yield 'a'; yield 'b'", "holds <U1, not numbers"),
        ("def make(: pass", "raised SyntaxError"),
        ("import sys\nsys.exit(3)", "raised SystemExit"),
    ],
)
def test_a_function_that_gives_no_samples_is_refused(tmp_path, body, told):
    with pytest.raises(InputError, match=told):
        read_samples(function(tmp_path, body), with_labels=False)


def test_a_file_of_functions_that_is_not_there_is_told(tmp_path):
    with pytest.raises(InputError, match=r"gone\.py does not exist"):
        read_samples(tmp_path / "gone.py:make", with_labels=False)


def test_the_file_of_a_function_is_what_says_where_samples_come_from(tmp_path):
    assert source_file(tmp_path / "gen.py:make") == tmp_path / "gen.py"
    assert source_file(tmp_path / "s.npz") == tmp_path / "s.npz"


def test_a_preprocessing_finds_a_folders_only_array(photos):
    read = read_samples(photos, with_labels=False)

    assert specs_by_array({"image": SMALL}, read) == {"x": SMALL}


def test_an_archive_with_something_else_in_it_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "s.npz", "w") as archive:
        archive.writestr("x.npy", b"hello")

    with pytest.raises(InputError, match="it holds something else"):
        read_samples(tmp_path / "s.npz", with_labels=False)


@pytest.mark.parametrize("suffix", [".npz", ".npy", ".csv", ".tfrecord"])
def test_a_pipe_is_not_waited_for(tmp_path, suffix):
    os.mkfifo(tmp_path / f"s{suffix}")

    with pytest.raises(InputError, match="is not a file"):
        read_samples(tmp_path / f"s{suffix}", with_labels=False)


@pytest.mark.parametrize(
    ("field", "value", "told"), [(24, b"\xfe\xff\xff\xff", "GiB can be worked with"), (8, b"\1\0", "encrypted")]
)
def test_an_archive_that_claims_or_hides_too_much_is_refused(tmp_path, monkeypatch, field, value, told):
    monkeypatch.setattr("edgekit.convert.samples.memory_bytes", lambda: 4 << 30)  # the claim is of 4 GiB
    np.savez(tmp_path / "s.npz", x=np.zeros((3, 4)))
    content = bytearray((tmp_path / "s.npz").read_bytes())
    place = content.find(b"PK\x01\x02") + field  # of its directory's only entry
    content[place : place + len(value)] = value
    (tmp_path / "s.npz").write_bytes(content)

    with pytest.raises(InputError, match=told):
        read_samples(tmp_path / "s.npz", with_labels=False)


def test_an_array_larger_than_any_memory_is_refused(tmp_path):
    header = b"{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000000, 8), }".ljust(117) + b"\n"
    (tmp_path / "s.npy").write_bytes(b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header)

    with pytest.raises(InputError, match=r"not a \.npz or \.npy file of plain numbers"):
        read_samples(tmp_path / "s.npy", with_labels=False)
