"""What is refused of a .keras or .h5 file before anything in it is loaded: needs neither Keras nor TensorFlow."""

from __future__ import annotations

import contextlib
import io
import json
import zipfile
from pathlib import Path

import pytest

h5py = pytest.importorskip("h5py", reason="comes with tensorflow: pip install 'edgekit[convert]'")

from hypothesis import given
from hypothesis import strategies as st

from edgekit.convert.keras_file import read_configuration
from edgekit.convert.saved_model_file import check_folder
from edgekit.errors import NotAModel

CONFIG = {"class_name": "Sequential", "config": {"layers": []}}


def hdf5(change=lambda file: None) -> bytes:
    stream = io.BytesIO()
    with h5py.File(stream, "w") as file:
        file.attrs["model_config"] = json.dumps(CONFIG)
        file.create_group("layers")["kernel"] = [[1.0, 2.0]]
        change(file)
    return stream.getvalue()


def archive(path: Path, **members: bytes) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("config.json", json.dumps(CONFIG))
        for name, content in {"model.weights.h5": hdf5(), **members}.items():
            file.writestr(name, content)
    return path


def test_what_is_as_keras_wrote_it_gives_its_configuration(tmp_path):
    (tmp_path / "net.h5").write_bytes(hdf5())

    assert read_configuration(archive(tmp_path / "net.keras")) == CONFIG
    assert read_configuration(tmp_path / "net.h5") == CONFIG


@pytest.mark.parametrize(
    ("members", "told"),
    [
        ({"../up": b""}, r"wants to be elsewhere: '\.\./up'"),
        ({"/etc/x": b""}, "wants to be elsewhere"),
        ({"a\\..\\..\\x": b""}, "wants to be elsewhere"),
        ({"assets/zeros": bytes(300 << 20)}, r"it would unpack to 300 MiB, from 0\.\d"),
        ({"config.json": b"{}"}, "holds 'config.json' twice"),
        ({"model.weights.h5": b"hello"}, "damaged or not a Keras model"),
        ({str(number): b"" for number in range(10_001)}, "archive of 10003 files"),
    ],
    ids=["up", "absolute", "backslash", "bomb", "twice", "no weights", "many"],
)
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_an_archive_that_no_keras_wrote_is_refused(tmp_path, members, told):
    with pytest.raises(NotAModel, match=told) as caught:
        read_configuration(archive(tmp_path / "net.keras", **members))

    assert "model.save()" in caught.value.hint


def test_a_directory_that_lies_is_refused(tmp_path):
    path = archive(tmp_path / "net.keras")
    whole = bytearray(path.read_bytes())
    last = whole.rfind(b"PK\x01\x02")
    overlapping, claiming, linked = whole[:], whole[:], whole[:]
    overlapping[last + 42 : last + 46] = bytes(4)  # it begins where the first one does
    claiming[last + 24 : last + 28] = b"\0\0\0\xff"  # 4 GiB
    linked[last + 38 : last + 42] = (0o120777 << 16).to_bytes(4, "little")
    for content, told in (
        (overlapping, "over another file"),
        (claiming, "unpack to 4,080 MiB"),
        (linked, "holds a link"),
    ):
        path.write_bytes(content)

        with pytest.raises(NotAModel, match=told):
            read_configuration(path)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (
            lambda f: f["layers"].__setitem__("x", h5py.ExternalLink("/etc/passwd", "/")),
            "'x' in it is a link to elsewhere",
        ),
        (lambda f: f["layers"].__setitem__("x", h5py.SoftLink("/layers")), "'x' in it is a link to elsewhere"),
        (
            lambda f: f.create_dataset("x", (9,), "u1", external=[("/etc/passwd", 0, 9)]),
            "'/x' in it is in another file",
        ),
        (lambda f: f.create_dataset("x", (1 << 20, 1 << 20), "f4", chunks=(64, 64)), "would unpack to 4,194,304 MiB"),
        (lambda f: [f.create_group(str(i)) for i in range(10_001)], "more than 10000 arrays"),
        (lambda f: f.attrs.__setitem__("model_config", "hello"), "damaged or not a Keras model"),
        (lambda f: f.attrs.__delitem__("model_config"), "weights without a model"),
    ],
    ids=["external link", "soft link", "external data", "unallocated", "many", "no JSON", "weights"],
)
def test_an_hdf5_file_that_reaches_elsewhere_or_claims_too_much_is_refused(tmp_path, change, told):
    content = hdf5(change)
    (tmp_path / "net.h5").write_bytes(content)

    with pytest.raises(NotAModel, match=told):
        read_configuration(tmp_path / "net.h5")
    if "model_config" not in told and "weights without" not in told and "Keras model" not in told:
        with pytest.raises(NotAModel, match=told):
            read_configuration(archive(tmp_path / "net.keras", **{"model.weights.h5": content}))


def test_a_file_that_holds_itself_ends(tmp_path):
    (tmp_path / "net.h5").write_bytes(hdf5(lambda file: file["layers"].__setitem__("again", file["/"])))

    assert read_configuration(tmp_path / "net.h5") == CONFIG


def test_a_configuration_nested_too_deeply_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "net.keras", "w") as file:
        file.writestr("config.json", "[" * 200_000)

    with pytest.raises(NotAModel, match="damaged or not a Keras model"):
        read_configuration(tmp_path / "net.keras")


@given(st.data())
def test_a_damaged_file_is_refused_or_read_never_anything_else(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("flips")
    content = bytearray(archive(folder / "net.keras").read_bytes())
    for place in data.draw(st.lists(st.integers(0, len(content) - 1), max_size=8)):
        content[place] ^= 1 << data.draw(st.integers(0, 7))
    (folder / "net.keras").write_bytes(content[: data.draw(st.integers(0, len(content)))])
    with contextlib.suppress(NotAModel):
        read_configuration(folder / "net.keras")


# --- SavedModels ----------------------------------------------------------------------------------------------------

GRAPH = b"\x08\x01\x12\x02\x0a\x00"  # schema version 1, one graph


@pytest.mark.parametrize("content", [b"", b"hello", GRAPH[:-1], b"\x08\x01", b"\x12\xff\xff\xff\xff\x7f"])
def test_a_saved_model_that_is_cut_off_is_refused_by_its_framing(tmp_path, content):
    (tmp_path / "saved_model.pb").write_bytes(content)

    with pytest.raises(NotAModel, match=r"saved_model\.pb (is damaged or cut off|holds no graph)"):
        check_folder(tmp_path)


def test_a_pipe_or_a_dangling_link_in_a_saved_model_is_refused(tmp_path):
    import os

    (tmp_path / "saved_model.pb").write_bytes(GRAPH)
    check_folder(tmp_path)
    (tmp_path / "variables").mkdir()
    os.mkfifo(tmp_path / "variables" / "variables.index")

    with pytest.raises(NotAModel, match=r"variables/variables\.index in it is not a file"):
        check_folder(tmp_path)


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_damage_in_compressed_data_is_told_whatever_compressed_it(tmp_path, method):
    path = tmp_path / "net.keras"
    with zipfile.ZipFile(path, "w", method) as file:
        file.writestr("config.json", json.dumps({"class_name": "Functional", "config": {"layers": ["x"] * 50}}))
    whole = path.read_bytes()
    told = set()
    for place in range(30 + len("config.json"), whole.index(b"PK\x01\x02")):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x5A]) + whole[place + 1 :])
        with contextlib.suppress(NotAModel):
            read_configuration(path)
            continue
        told.add(place)
    assert told
