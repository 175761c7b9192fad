"""The bundle and its manifest: what is written is read back, anything else is refused, and nothing is half-written."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import gc
import json
import os
import resource
import signal
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgekit.bundle import (
    Delegate,
    File,
    Manifest,
    Quality,
    Tensor,
    Variant,
    is_safe_name,
    read_bundle,
    read_manifest,
    verify_bundle,
    write_bundle,
    write_manifest,
)
from edgekit.errors import BundleError, InputError, UnknownBundleFormat

CONTENTS = {"models/int8.tflite": b"a model", "golden.npz": b"answers", "labels.txt": b"zero\none\n"}
VARIANT = Variant(
    name="int8",
    file="models/int8.tflite",
    quantization="int8",
    ranges="min-max",
    inputs=(Tensor("image", "serving_default_image:0", (1, 8, 8, 1), "int8", 0.5, -128),),
    outputs=(Tensor("scores", "call:0", (1, 10), "float32", None, None),),
    operators={"CONV_2D": 3},
    delegates=(Delegate("cpu", {"threads": 2}),),
    qualities=(Quality("top-1 accuracy", 0.98, None, 400, "measured"),),
    golden_tolerance=2.0,
)
MANIFEST = Manifest(
    name="digits",
    target="rpi4",
    arch="aarch64",
    variants=(VARIANT,),
    preprocess={"image": {"kind": "generic", "scale": 0.0625, "offset": 0.0}},
    preprocess_sha256={"image": "0" * 64},
    labels="labels.txt",
    golden="golden.npz",
    files={name: File("0" * 64, len(content)) for name, content in CONTENTS.items()},
    made_by={"edgekit": "0.1.0"},
    made_from={"digits.keras": "1" * 64},
    commits={"digits.keras": "2" * 40},
    command=("edgekit", "convert"),
)
FIELDS = json.loads(write_manifest(MANIFEST))


def manifest_with(path, value):
    """The bytes of a good manifest with one value changed; `path` as keys and indexes."""
    fields = copy.deepcopy(FIELDS)
    inner = fields
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    return json.dumps(fields).encode()


def tree(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


# --- the manifest --------------------------------------------------------------------------------------------------


def test_a_manifest_survives_being_written_and_read():
    assert read_manifest(write_manifest(MANIFEST)) == MANIFEST


@pytest.mark.parametrize("limits", [{"p95_ms": 20.0}, {"rss_bytes": 1e8, "p95_ms": 0.5}])
def test_limits_are_kept_and_only_written_where_there_are_any(limits):
    text = write_manifest(dataclasses.replace(MANIFEST, limits=limits))

    assert read_manifest(text).limits == limits
    assert b"limits" not in write_manifest(MANIFEST)


@pytest.mark.parametrize("limits", [{}, {"p95_ms": 0}, {"p95_ms": -1}, {"p95_ms": "1"}, {"p99_ms": 1}, [], None, 1])
def test_limits_that_are_none_are_refused(limits):
    with pytest.raises(BundleError):
        read_manifest(json.dumps({**FIELDS, "limits": limits}).encode())


def test_the_same_manifest_gives_the_same_bytes_whatever_the_order_of_its_mappings():
    turned = dataclasses.replace(MANIFEST, files=dict(reversed(MANIFEST.files.items())))

    assert write_manifest(turned) == write_manifest(MANIFEST)


@pytest.mark.parametrize("version", [0, 2, "1", None, True, 1.0, [1], "x" * 999])
def test_an_unknown_format_is_refused_before_anything_else_is_looked_at(version):
    with pytest.raises(UnknownBundleFormat, match="this edgekit reads format 1") as refused:
        read_manifest(json.dumps({"edgekit_bundle": version, "nothing": "else"}).encode())

    assert refused.value.exit_code == 3
    assert len(str(refused.value)) < 100


def paths_of_keys(fields=FIELDS, path=()):
    """Every key of every object that the format defines."""
    free = {"preprocess", "preprocess_sha256", "made_by", "made_from", "commits", "operators", "options", "files"}
    if isinstance(fields, dict):
        for key, value in fields.items():
            yield (*path, key)
            if key not in free:
                yield from paths_of_keys(value, (*path, key))
    if isinstance(fields, list):
        for i, value in enumerate(fields):
            yield from paths_of_keys(value, (*path, i))


@pytest.mark.parametrize("path", list(paths_of_keys()), ids=lambda path: ".".join(map(str, path)))
def test_a_missing_key_is_refused_by_name(path):
    fields = copy.deepcopy(FIELDS)
    inner = fields
    for key in path[:-1]:
        inner = inner[key]
    del inner[path[-1]]

    with pytest.raises(BundleError, match="not a bundle manifest" if path[0] == "edgekit_bundle" else repr(path[-1])):
        read_manifest(json.dumps(fields).encode())


@pytest.mark.parametrize("where", [(), ("variants", 0), ("variants", 0, "inputs", 0), ("files", "golden.npz")])
def test_an_unknown_key_is_refused_by_name(where):
    with pytest.raises(BundleError, match="unknown keys: colour"):
        read_manifest(manifest_with((*where, "colour"), "red"))


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("name",), 3),
        (("name",), "\ud800"),
        (("command",), "edgekit"),
        (("command",), [1]),
        (("variants",), []),
        (("variants",), [FIELDS["variants"][0]] * 2),
        (("variants", 0, "golden_tolerance"), -1),
        (("variants", 0, "golden_tolerance"), True),
        (("variants", 0, "golden_tolerance"), 10**400),
        (("variants", 0, "inputs"), []),
        (("variants", 0, "inputs", 0, "dtype"), "int7"),
        (("variants", 0, "inputs", 0, "shape"), [1, -8]),
        (("variants", 0, "inputs", 0, "shape"), [1, 8.0]),
        (("variants", 0, "inputs", 0, "scale"), None),
        (("variants", 0, "inputs", 0, "scale"), 0),
        (("variants", 0, "outputs", 0, "zero_point"), 0),
        (("variants", 0, "file"), "models/float32.tflite"),
        (("labels",), "names.txt"),
        (("made_by", "edgekit"), 1),
        (("preprocess",), {}),
        (("preprocess", "sound"), {"kind": "generic"}),
        (("preprocess_sha256",), {}),
        (("files", "golden.npz", "size"), -1),
        (("files", "golden.npz", "sha256"), "x" * 64),
        (("files", "golden.npz/more"), {"sha256": "0" * 64, "size": 1}),
        (("files", "manifest.json"), {"sha256": "0" * 64, "size": 1}),
    ],
)
def test_a_value_that_does_not_fit_is_refused(path, value):
    with pytest.raises(BundleError) as refused:
        read_manifest(manifest_with(path, value))

    assert refused.value.hint


@pytest.mark.parametrize(
    "name", ["../etc/passwd", "/etc/passwd", "a/../b", "Models/x", "a//b", "a/b/c/d", ".hidden", ""]
)
def test_a_file_name_that_leaves_the_bundle_is_refused(name):
    with pytest.raises(BundleError, match="no bundle may hold"):
        read_manifest(manifest_with(("files", name), {"sha256": "0" * 64, "size": 1}))


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"\xff\xfe",
        b"[]",
        b"null",
        b"{" * 100_000,
        b"[" * 100_000,
        b'{"edgekit_bundle": 1, "edgekit_bundle": 1}',
        write_manifest(MANIFEST).replace(b'"golden_tolerance": 2.0', b'"golden_tolerance": Infinity'),
        write_manifest(MANIFEST).replace(b'"golden_tolerance": 2.0', b'"golden_tolerance": 1e999'),
    ],
    ids=["empty", "utf16", "list", "null", "deep", "deep-list", "twice", "infinity", "overflow"],
)
def test_what_is_no_manifest_is_refused(text):
    with pytest.raises(BundleError):
        read_manifest(text)


odd = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)
every_path = [*paths_of_keys(), ("files", "golden.npz", "size"), ("preprocess", "image"), ("variants", 0), ()]


@settings(max_examples=60, deadline=None)
@given(st.one_of(st.binary(max_size=60), odd.map(lambda value: json.dumps(value).encode())))
def test_hostile_bytes_are_refused_and_nothing_else(text):
    with pytest.raises(BundleError):
        read_manifest(text)


@settings(max_examples=100, deadline=None)
@given(st.sampled_from(every_path), odd)
def test_a_manifest_with_an_odd_value_is_read_or_refused_and_nothing_else(path, value):
    text = manifest_with(path, value) if path else json.dumps({**FIELDS, "more": value}).encode()
    try:
        manifest = read_manifest(text)
    except BundleError:
        return

    assert read_manifest(write_manifest(manifest)) == manifest


@settings(max_examples=200, deadline=None)
@given(st.text(st.characters(codec="utf-8") | st.sampled_from("./\\-_a0\0\n"), max_size=80))
def test_a_safe_name_stays_inside_on_any_file_system(name):
    if not is_safe_name(name):
        return

    assert not Path(name).is_absolute()
    assert ".." not in Path(name).parts
    assert name == Path(name).as_posix() == name.lower()
    assert name.isascii()
    assert name.isprintable()


@pytest.mark.parametrize("name", ["a", "models/int8.tflite", "a/b/c", "x" * 64, "0-9_z.json"])
def test_plain_names_are_safe(name):
    assert is_safe_name(name)


# --- the folder ----------------------------------------------------------------------------------------------------


def test_a_bundle_is_read_back_as_it_was_written(tmp_path):
    written = write_bundle(tmp_path / "b", MANIFEST, CONTENTS)
    found = read_bundle(tmp_path / "b")
    verify_bundle(found)

    assert found == written
    assert {name: (tmp_path / "b" / name).read_bytes() for name in CONTENTS} == CONTENTS
    assert len(found.id) == 16


def test_the_same_contents_give_a_byte_identical_bundle(tmp_path):
    a = write_bundle(tmp_path / "a", MANIFEST, CONTENTS)
    b = write_bundle(tmp_path / "b", MANIFEST, dict(reversed(CONTENTS.items())))

    assert a.digest == b.digest
    assert tree(tmp_path / "a") == tree(tmp_path / "b")


def test_names_of_three_components_are_written_too(tmp_path):
    made = write_bundle(tmp_path / "b", MANIFEST, {**CONTENTS, "docs/report/index.html": b"<p>"})

    assert made.file("docs/report/index.html").read_bytes() == b"<p>"


def test_a_folder_without_a_manifest_is_not_a_bundle(tmp_path):
    with pytest.raises(BundleError, match=r"not a bundle: manifest\.json cannot be read"):
        read_bundle(tmp_path)


def test_a_file_that_changed_is_found_by_size_or_by_hash(tmp_path):
    bundle = write_bundle(tmp_path / "b", MANIFEST, CONTENTS)
    bundle.file("models/int8.tflite").write_bytes(b"A model")

    assert read_bundle(bundle.path) == bundle
    with pytest.raises(BundleError, match=r"int8\.tflite is damaged"):
        verify_bundle(bundle)
    bundle.file("models/int8.tflite").write_bytes(b"a longer model")
    with pytest.raises(BundleError, match="has 14 bytes, the manifest says 7"):
        read_bundle(bundle.path)
    bundle.file("models/int8.tflite").unlink()
    with pytest.raises(BundleError, match="missing"):
        read_bundle(bundle.path)


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir], ids=["pipe", "folder"])
def test_a_file_that_is_something_else_is_refused_and_not_waited_for(make, tmp_path):
    bundle = write_bundle(tmp_path / "b", MANIFEST, {**CONTENTS, "empty": b""})
    bundle.file("empty").unlink()
    make(bundle.file("empty"))

    with pytest.raises(BundleError, match="is not a file"):
        read_bundle(bundle.path)


def test_a_newer_bundle_takes_the_place_of_an_older_one(tmp_path):
    write_bundle(tmp_path / "b", MANIFEST, {**CONTENTS, "notes.txt": b"of the old one"})
    write_bundle(tmp_path / "b", dataclasses.replace(MANIFEST, name="newer"), CONTENTS)

    assert read_bundle(tmp_path / "b").manifest.name == "newer"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["b"]
    assert not (tmp_path / "b" / "notes.txt").exists()


def test_an_empty_folder_may_be_used(tmp_path):
    write_bundle(tmp_path, MANIFEST, CONTENTS)

    assert read_bundle(tmp_path).manifest.name == "digits"


def test_the_folder_one_is_in_is_not_pulled_away(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    with pytest.raises(InputError, match="the folder you are in"):
        write_bundle(Path(), MANIFEST, CONTENTS)


def put_a_file(path):
    path.write_text("mine")


def put_a_folder_of_something(path):
    path.mkdir()
    (path / "thesis.txt").write_text("mine")


def put_another_programs_manifest(path):
    put_a_folder_of_something(path)
    (path / "manifest.json").write_text('{"name": "a browser extension"}')


def put_a_bundle_with_a_file_of_mine(path):
    write_bundle(path, MANIFEST, CONTENTS)
    (path / "models" / "thesis.txt").write_text("mine")


def put_a_link(path):
    path.with_name("elsewhere").mkdir()
    path.symlink_to("elsewhere")


@pytest.mark.parametrize(
    "put",
    [
        put_a_file,
        put_a_folder_of_something,
        put_another_programs_manifest,
        put_a_bundle_with_a_file_of_mine,
        put_a_link,
    ],
    ids=lambda put: put.__name__,
)
def test_what_is_not_a_bundle_is_never_overwritten(put, tmp_path):
    put(tmp_path / "b")
    before = tree(tmp_path)

    with pytest.raises(InputError):
        write_bundle(tmp_path / "b", MANIFEST, CONTENTS)
    assert tree(tmp_path) == before


def test_a_manifest_that_no_runner_would_accept_is_never_written(tmp_path):
    with pytest.raises(BundleError):
        write_bundle(tmp_path / "b", MANIFEST, {"golden.npz": b""})

    assert list(tmp_path.iterdir()) == []


@contextlib.contextmanager
def no_file_over_4096_bytes():
    """A write that fails half-way, for root too, as on a full disk. Short: pytest's own report may be such a file."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_write_that_fails_half_way_leaves_the_old_bundle_and_nothing_else(tmp_path):
    write_bundle(tmp_path / "b", MANIFEST, CONTENTS)
    before = tree(tmp_path)

    with no_file_over_4096_bytes(), pytest.raises(InputError, match="cannot be written: File too large"):
        write_bundle(tmp_path / "b", MANIFEST, {**CONTENTS, "zz": b"x" * 9999})
    assert tree(tmp_path) == before
    assert [p.name for p in tmp_path.iterdir()] == ["b"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_folder_is_said_in_one_line(tmp_path):
    tmp_path.chmod(0o500)

    with pytest.raises(InputError, match="cannot be written: Permission denied"):
        write_bundle(tmp_path / "b", MANIFEST, CONTENTS)


def test_a_file_in_the_way_of_the_folder_is_said_in_one_line(tmp_path):
    (tmp_path / "file").write_text("")

    with pytest.raises(InputError, match="cannot be written"):
        write_bundle(tmp_path / "file" / "b", MANIFEST, CONTENTS)


@pytest.mark.parametrize("delay_ms", [1, 2, 4, 8, 12, 16, 20])
def test_ctrl_c_leaves_the_old_bundle_or_the_new_one_whole(delay_ms, tmp_path):
    many = {**CONTENTS, **{f"parts/{i}": b"part" for i in range(300)}}
    old = write_bundle(tmp_path / "b", MANIFEST, CONTENTS)
    child = os.fork()  # a process of its own: the signal must hit our code, not a hook of the test runner
    if child == 0:
        gc.disable()
        signal.signal(signal.SIGALRM, signal.default_int_handler)
        try:
            signal.setitimer(signal.ITIMER_REAL, delay_ms / 1000)
            write_bundle(tmp_path / "b", MANIFEST, many)
        except KeyboardInterrupt:
            pass
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            os._exit(0)
    os.waitpid(child, 0)

    found = read_bundle(tmp_path / "b")
    verify_bundle(found)
    assert found.digest == old.digest or len(found.manifest.files) == len(many)
    assert [p.name for p in tmp_path.iterdir()] == ["b"]
