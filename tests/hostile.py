"""Malformed and hostile inputs, hundreds of them, and two ways to give them to edgekit.

    python tests/hostile.py FOLDER            all of them, each through the real command: half an hour
    run_forked(cases, ...)                    in forks of one process that has everything imported: minutes

Nothing may end otherwise than well or in an EdgekitError; nothing in them may run: `CANARY` is the folder that it would make.
"""

from __future__ import annotations

import io
import json
import os
import random
import re
import signal
import struct
import subprocess
import sys
import time
import traceback
import warnings
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

LIMIT = 3 << 30  # bytes that a fork may have
SECONDS = 100.0  # after which it counts as hanging
PATIENCE = (SECONDS, 5 * SECONDS)  # the same for a process of its own, which is asked twice: a machine may be busy

MAKE_MODELS = r"""
import os, shutil, sys
from pathlib import Path
import keras, numpy as np, tensorflow as tf
keras.utils.set_random_seed(1)
L, out, canary = keras.layers, Path(sys.argv[1]), sys.argv[2]
start = keras.Input((6, 6, 1), name="image")
h = L.Conv2D(4, 3, activation="relu", padding="same")(start)
h = L.LayerNormalization()(L.DepthwiseConv2D(3, activation="relu6")(h))
net = keras.Model(start, L.Dense(3, activation="softmax")(L.Flatten()(h)))
net.save(out / "net.keras"); net.save(out / "net.h5"); net.save_weights(out / "net.weights.h5")
net.export(out / "net_saved", format="tf_saved_model", verbose=False)
code = eval(f"lambda x: (__import__('os').makedirs({canary!r}, exist_ok=True), x)[1]")
bad = keras.Model(start, L.Lambda(code, name="trap")(L.Flatten()(start)))
bad.save(out / "lambda.keras"); bad.save(out / "lambda.h5")
shutil.rmtree(canary)
class Reaches(tf.Module):
    @tf.function(input_signature=[tf.TensorSpec((None, 6, 6, 1), tf.float32, name="image")])
    def py(self, image): return {"y": tf.py_function(lambda x: x, [image], tf.float32)}
    @tf.function(input_signature=[tf.TensorSpec((None, 6, 6, 1), tf.float32, name="image")])
    def write(self, image):
        tf.io.write_file(canary, "x")
        return {"y": image}
reaches = Reaches()
tf.saved_model.save(reaches, out / "py_saved", signatures={"serving_default": reaches.py})
tf.saved_model.save(reaches, out / "write_saved", signatures={"serving_default": reaches.write})
converter = tf.lite.TFLiteConverter.from_saved_model(str(out / "net_saved"))
(out / "net.tflite").write_bytes(converter.convert())
"""


@dataclass(frozen=True)
class Case:
    """A model and samples, one of them not as it should be."""

    name: str
    model: Path
    samples: Path


def make_seeds(folder: Path, canary: Path) -> Path:
    """Models that are as they should be, in `folder`; made by TensorFlow, in a process of its own."""
    folder.mkdir(parents=True, exist_ok=True)
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "-1"}
    subprocess.run(
        [sys.executable, "-c", MAKE_MODELS, str(folder), str(canary)], check=True, env=environment, capture_output=True
    )
    return folder


def make_cases(seeds: Path, folder: Path) -> list[Case]:
    """All of them. Without `seeds` those that need no TensorFlow to be made."""
    folder.mkdir(parents=True, exist_ok=True)
    good = folder / "good.npz"
    np.savez(good, x=np.random.default_rng(1).normal(size=(12, 6, 6, 1)).astype("f"))
    rng = random.Random(1)
    cases = [Case(path.name, path, good) for path in _models(seeds, folder, rng)]
    model = seeds / "net.tflite"
    cases += [Case(path.name, model, path) for path in _samples(folder, rng)]
    return cases


# --- models ---------------------------------------------------------------------------------------------------------


def _models(seeds: Path, folder: Path, rng: random.Random) -> Iterator[Path]:
    for suffix, cut, flipped in ((".keras", 12, 20), (".h5", 12, 25), (".tflite", 20, 50)):
        whole = (seeds / f"net{suffix}").read_bytes()
        yield from _damaged(folder, "net", suffix, whole, rng, cut, flipped)
        for name, content in _junk(rng):
            yield _write(folder / f"{name}{suffix}", content)
        yield _write(folder / f"other{suffix}", (seeds / ("net.h5" if suffix != ".h5" else "net.keras")).read_bytes())
        yield from _no_files(folder, suffix)
    yield from _keras_files(seeds, folder, rng)
    yield from _hdf5_files(seeds, folder, rng)
    yield from _saved_models(seeds, folder, rng)
    yield from (seeds / name for name in ("lambda.keras", "lambda.h5", "net.weights.h5", "py_saved", "write_saved"))
    yield _write(folder / "frozen.pb", (seeds / "net_saved" / "saved_model.pb").read_bytes())
    yield _write(folder / "pickle.pt", b"\x80\x04cos\nsystem\n.")


def _damaged(
    folder: Path, stem: str, suffix: str, whole: bytes, rng: random.Random, cut: int, flipped: int
) -> Iterator[Path]:
    for number in range(cut):
        size = min(len(whole) - 1, (2, 8, 30)[number] if number < 3 else rng.randrange(len(whole)))
        yield _write(folder / f"{stem}-cut{number}{suffix}", whole[:size])
    for number in range(flipped):  # every second one near the beginning or the end, where the structure is
        content = bytearray(whole)
        for _ in range(rng.choice((1, 3, 8))):
            near = min(600, len(content))
            place = (
                rng.choice((rng.randrange(near), -1 - rng.randrange(near)))
                if number % 2
                else rng.randrange(len(content))
            )
            content[place] ^= 1 << rng.randrange(8)
        yield _write(folder / f"{stem}-flip{number}{suffix}", bytes(content))


def _junk(rng: random.Random) -> Iterator[tuple[str, bytes]]:
    yield "empty", b""
    yield "zeros", bytes(4096)
    yield "noise", rng.randbytes(4096)
    yield "pickle", b"\x80\x04cos\nmkdir\n\x85R."
    yield "hdf5-head", b"\x89HDF\r\n\x1a\n" + rng.randbytes(2000)
    yield "zip-head", b"PK\x03\x04" + rng.randbytes(2000)
    yield "tflite-head", b"\x1c\0\0\0TFL3" + rng.randbytes(2000)
    yield "far-root", struct.pack("<I", 0xFFFFFFF0) + b"TFL3" + bytes(64)


def _no_files(folder: Path, suffix: str) -> Iterator[Path]:
    """What lies there and is not a file, or not there."""
    (folder / f"folder{suffix}").mkdir()
    yield folder / f"folder{suffix}"
    os.mkfifo(folder / f"pipe{suffix}")
    yield folder / f"pipe{suffix}"
    for name, target in (("loop", f"loop{suffix}"), ("zero", "/dev/zero"), ("nothing", "not-there")):
        (folder / f"{name}{suffix}").symlink_to(target)
        yield folder / f"{name}{suffix}"


def _rezipped(members: dict[str, bytes], path: Path, compression: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def _keras_files(seeds: Path, folder: Path, rng: random.Random) -> Iterator[Path]:
    with zipfile.ZipFile(seeds / "net.keras") as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    config = json.loads(parts["config.json"])

    def with_config(name: str, value: object) -> Path:
        content = value if isinstance(value, bytes) else json.dumps(value).encode()
        return _rezipped({**parts, "config.json": content}, folder / f"config-{name}.keras")

    for number in range(30):  # valid JSON, valid archive, something else in it
        yield with_config(f"edit{number}", _edited(config, rng))
    for name, value in (("list", []), ("null", None), ("number", 3), ("text", b"hello"), ("latin", b"\xff\xfe{}")):
        yield with_config(name, value)
    yield with_config("deep", b'{"a":' * 5000 + b"1" + b"}" * 5000)
    yield with_config("deep-list", b"[" * 100_000)
    yield with_config("no-class", {"config": config["config"]})
    for name, kind, inside, module in (
        ("os-system", "function", "system", "os"), ("get-file", "function", "get_file", "keras.utils"),
        ("eval", "function", "eval", "builtins"), ("src", "function", "get_file", "keras.src.utils.file_utils"),
        ("tfsm", "TFSMLayer", {"filepath": "/", "name": "t"}, "keras.layers"),
        ("torch", "TorchModuleWrapper", {"module": "gASVIA==", "name": "t"}, "keras.layers"),
        ("popen", "Popen", {"args": "id"}, "subprocess"), ("code", "__lambda__", {"code": "4wAA", "defaults": None}, "builtins"),
    ):  # fmt: skip
        evil = json.loads(parts["config.json"])
        activation = {"module": module, "class_name": kind, "config": inside, "registered_name": kind}
        evil["config"]["layers"][1]["config"]["activation"] = activation
        yield with_config(name, evil)
    huge = json.loads(parts["config.json"])
    huge["config"]["layers"][-1]["config"]["units"] = 10**9
    yield with_config("huge-layer", huge)

    weights = parts["model.weights.h5"]
    for number in range(20):
        content = bytearray(weights)
        for _ in range(4):
            content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
        yield _rezipped({**parts, "model.weights.h5": bytes(content)}, folder / f"weights-flip{number}.keras")
    yield _rezipped({**parts, "model.weights.h5": weights[:700]}, folder / "weights-cut.keras")
    yield _rezipped({**parts, "model.weights.h5": b""}, folder / "weights-empty.keras")
    yield _rezipped({n: c for n, c in parts.items() if "weights" not in n}, folder / "weights-none.keras")
    yield _rezipped({n: c for n, c in parts.items() if n != "config.json"}, folder / "config-none.keras")
    no_arrays = io.BytesIO()
    np.savez(no_arrays, x=np.array([object()], object), allow_pickle=True)
    rest = {n: c for n, c in parts.items() if "weights" not in n}
    yield _rezipped({**rest, "model.weights.npz": no_arrays.getvalue()}, folder / "weights-pickled.keras")
    for name, value in (("nan", np.nan), ("inf", np.inf)):
        yield _rezipped({**parts, "model.weights.h5": _weights_with(weights, value)}, folder / f"weights-{name}.keras")

    bomb = {**parts, "model.weights.h5": bytes(400 << 20)}
    yield _rezipped(bomb, folder / "bomb.keras", zipfile.ZIP_DEFLATED)
    yield _rezipped({**parts, "assets/bomb": bytes(400 << 20)}, folder / "bomb-asset.keras", zipfile.ZIP_DEFLATED)
    yield _rezipped({**parts, "config.json": b" " * (80 << 20)}, folder / "bomb-config.keras", zipfile.ZIP_DEFLATED)
    yield _rezipped({**parts, "assets/nested.zip": (folder / "bomb.keras").read_bytes()}, folder / "nested.keras")
    yield _rezipped({f"{i}": b"" for i in range(10_001)} | parts, folder / "many.keras")
    for number, name in enumerate(("../escaped", "/tmp/escaped", "a/../../escaped", "..\\escaped", "C:/escaped")):
        yield _rezipped({**parts, name: b"x"}, folder / f"traversal{number}.keras")
    with warnings.catch_warnings(), zipfile.ZipFile(folder / "twice.keras", "w") as archive:
        warnings.simplefilter("ignore")
        for name in (*parts, "config.json"):
            archive.writestr(name, parts[name])
    yield folder / "twice.keras"
    with zipfile.ZipFile(folder / "link.keras", "w") as archive:
        for name, content in parts.items():
            archive.writestr(name, content)
        link = zipfile.ZipInfo("assets/link")
        link.external_attr = 0o120777 << 16
        archive.writestr(link, "/etc/passwd")
    yield folder / "link.keras"
    whole = (seeds / "net.keras").read_bytes()
    yield _patched(whole, folder / "claims.keras", field=24, value=0xFFFFFF00)  # its unpacked size, in the directory
    yield _patched(whole, folder / "overlap.keras", field=42, value=0)  # where it begins
    yield _patched(whole, folder / "encrypted.keras", field=8, value=1, size=2)
    yield _patched(whole, folder / "packed.keras", field=10, value=97, size=2)  # in a way that nobody knows


def _patched(whole: bytes, path: Path, *, field: int, value: int, size: int = 4) -> Path:
    """With another value in every second entry of the archive's directory."""
    content, places = bytearray(whole), [match.start() for match in re.finditer(rb"PK\x01\x02", whole)]
    for start in places[1::2] or places:
        content[start + field : start + field + size] = value.to_bytes(size, "little")
    return _write(path, bytes(content))


def _edited(value: object, rng: random.Random) -> object:
    """The same with one to three things in it changed."""
    copy = json.loads(json.dumps(value))
    for _ in range(rng.choice((1, 1, 3))):
        places: list[tuple[dict | list, str | int]] = []
        left: list[object] = [copy]
        while left:
            here = left.pop()
            inner = here.items() if isinstance(here, dict) else enumerate(here) if isinstance(here, list) else ()
            for key, item in inner:
                places.append((here, key))  # type: ignore[arg-type]
                left.append(item)
        where, key = rng.choice(places)
        if rng.random() < 0.3:
            del where[key]  # type: ignore[arg-type]
        else:
            where[key] = rng.choice([None, -1, 0, 1 << 40, 1e300, "", "relu", [], {}, [None], True, "keras.layers"])  # type: ignore[index]
    return copy


def _weights_with(weights: bytes, value: float) -> bytes:
    import h5py

    stream = io.BytesIO(weights)
    with h5py.File(stream, "r+") as file:
        found: list[h5py.Dataset] = []
        file.visititems(lambda _, item: found.append(item) if isinstance(item, h5py.Dataset) else None)
        found[0][...] = value
    return stream.getvalue()


def _hdf5_files(seeds: Path, folder: Path, rng: random.Random) -> Iterator[Path]:
    import h5py

    def changed(name: str, change: Callable[[h5py.File], None]) -> Path:
        path = _write(folder / f"{name}.h5", (seeds / "net.h5").read_bytes())
        with h5py.File(path, "r+") as file:
            change(file)
        return path

    with h5py.File(seeds / "net.h5", "r") as file:
        config = json.loads(file.attrs["model_config"])
    for number in range(15):
        edited = json.dumps(_edited(config, rng))
        yield changed(f"edit{number}", lambda file, text=edited: file.attrs.__setitem__("model_config", text))
    yield changed("config-text", lambda file: file.attrs.__setitem__("model_config", "hello"))
    yield changed("config-number", lambda file: file.attrs.__setitem__("model_config", 3))
    group = "model_weights"
    yield changed("external", lambda f: f[group].__setitem__("e", h5py.ExternalLink("/etc/passwd", "/")))
    yield changed("soft", lambda f: f[group].__setitem__("s", h5py.SoftLink("/model_weights")))
    yield changed("cycle", lambda f: f[group].__setitem__("c", f["/"]))
    yield changed(
        "outside", lambda f: f[group].create_dataset("o", (9,), "u1", external=[("/etc/passwd", 0, 9)]) and None
    )
    yield changed(
        "unallocated", lambda f: f[group].create_dataset("u", (1 << 20, 1 << 20), "f4", chunks=(64, 64)) and None
    )
    yield changed("many", lambda f: [f.create_group(f"g{i}") for i in range(10_001)] and None)
    layout = h5py.VirtualLayout((4,), "f4")
    layout[:] = h5py.VirtualSource("/etc/passwd", "x", (4,))
    yield changed("virtual", lambda f: f[group].create_virtual_dataset("v", layout) and None)
    for name, content in (
        ("strings", np.array([b"a", b"b"])),
        ("shape", np.zeros((2, 2), "f")),
        ("ints", np.zeros(3, int)),
    ):
        yield changed(f"weights-{name}", lambda f, c=content: _replace_first(f[group], c))


def _replace_first(group: object, content: np.ndarray) -> None:
    import h5py

    found: list[str] = []
    group.visititems(lambda name, item: found.append(name) if isinstance(item, h5py.Dataset) else None)  # type: ignore[attr-defined]
    del group[found[0]]  # type: ignore[attr-defined]
    group[found[0]] = content  # type: ignore[index]


def _saved_models(seeds: Path, folder: Path, rng: random.Random) -> Iterator[Path]:
    import shutil

    source = seeds / "net_saved"
    whole = {path.relative_to(source).as_posix(): path.read_bytes() for path in source.rglob("*") if path.is_file()}

    def saved(name: str, changes: dict[str, bytes | None]) -> Path:
        for part, content in {**whole, **changes}.items():
            if content is not None:
                _write(folder / name / part, content)
        return folder / name

    graph = whole["saved_model.pb"]
    data = next(name for name in whole if ".data-" in name)
    for number in range(10):
        yield saved(f"saved-cut{number}", {"saved_model.pb": graph[: rng.randrange(len(graph))]})
    for number in range(24):
        content = bytearray(graph)
        for _ in range(rng.choice((1, 4))):
            content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
        yield saved(f"saved-flip{number}", {"saved_model.pb": bytes(content)})
    for number in range(8):
        name = ("variables/variables.index", data)[number % 2]
        content = bytearray(whole[name])
        content[rng.randrange(len(content))] ^= 0xFF
        yield saved(f"saved-vars{number}", {name: bytes(content)})
    yield saved("saved-no-index", {"variables/variables.index": None})
    yield saved("saved-no-data", {data: None})
    yield saved("saved-short-data", {data: whole[data][:10]})
    yield saved("saved-empty", {"saved_model.pb": b""})
    yield saved("saved-noise", {"saved_model.pb": rng.randbytes(3000)})
    yield saved("saved-text", {"saved_model.pb": b"hello"})
    os.mkfifo(saved("saved-pipe", {data: None}) / data)
    yield folder / "saved-pipe"
    (saved("saved-loop", {}) / "loop").symlink_to(folder / "saved-loop" / "loop")
    yield folder / "saved-loop"
    (saved("saved-into-itself", {}) / "assets").symlink_to(folder / "saved-into-itself")
    yield folder / "saved-into-itself"
    shutil.rmtree(saved("saved-no-variables", {}) / "variables")
    yield folder / "saved-no-variables"


# --- samples --------------------------------------------------------------------------------------------------------


def _samples(folder: Path, rng: random.Random) -> Iterator[Path]:
    folder = folder / "samples"
    folder.mkdir()
    whole = io.BytesIO()
    np.savez(whole, x=np.zeros((12, 6, 6, 1), "f"))
    yield from _damaged(folder, "x", ".npz", whole.getvalue(), rng, 8, 14)
    array = io.BytesIO()
    np.save(array, np.zeros((12, 6, 6, 1), "f"))
    yield from _damaged(folder, "x", ".npy", array.getvalue(), rng, 8, 14)
    for suffix in (".npz", ".npy", ".csv", ".tfrecord"):
        for name, content in _junk(rng):
            yield _write(folder / f"{name}{suffix}", content)
        yield from _no_files(folder, suffix)
    for name, shape in (
        ("huge", "(1000000000000, 8)"),
        ("negative", "(-5, 6)"),
        ("many", "(2,)*99999"),
        ("code", "__import__('os').getpid()"),
    ):
        header = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}".encode().ljust(117) + b"\n"
        yield _write(folder / f"{name}.npy", b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header)
    yield _write(folder / "header.npy", b"\x93NUMPY\x02\x00" + struct.pack("<I", 0xFFFFFFFF) + b"{")
    for name, value in (
        ("objects", np.array([{}, {}], object)),
        ("text", np.array(["a", "b"])),
        ("nan", np.full((4, 6, 6, 1), np.nan)),
    ):
        np.savez(folder / f"{name}.npz", x=value, allow_pickle=True)
        yield folder / f"{name}.npz"
    packed = _rezipped({"x.npy": bytes(300 << 20)}, folder / "bomb.npz", zipfile.ZIP_DEFLATED).read_bytes()
    yield folder / "bomb.npz"
    yield _patched(packed, folder / "claims.npz", field=24, value=0xFFFFFF00)
    yield _patched(packed, folder / "encrypted.npz", field=8, value=1, size=2)
    yield from _folders(folder, rng)
    for name, text in (
        ("ragged", "a,b\n1,2\n3\n"),
        ("words", "a\nx\ny\n"),
        ("quote", 'a,b\n"1,2\n'),
        ("wide", "a," * 200_000 + "\n1"),
        ("inf", "a\ninf\nnan\n"),
    ):
        yield _write(folder / f"{name}.csv", text.encode())
    yield _write(folder / "code.py", b"raise SystemExit(3)")
    yield folder / "code.py:samples"
    yield _write(folder / "record.tfrecord", struct.pack("<Q", 1 << 62) + rng.randbytes(40))


def _folders(folder: Path, rng: random.Random) -> Iterator[Path]:
    """One bad image or recording beside a good one."""
    import wave

    from PIL import Image

    good = io.BytesIO()
    Image.fromarray(np.zeros((6, 6), np.uint8)).save(good, "PNG")
    png = good.getvalue()
    giant = bytearray(png)
    giant[16:24] = struct.pack(">II", 1 << 30, 1 << 30)
    images = {"cut": png[:40], "empty": b"", "noise": rng.randbytes(300), "giant": bytes(giant), "text": b"GIF89a"}
    sound = io.BytesIO()
    with wave.open(sound, "wb") as stream:
        stream.setparams((1, 2, 16000, 0, "NONE", ""))
        stream.writeframes(bytes(2000))
    wav = sound.getvalue()
    claims = wav[:40] + b"\xff\xff\xff\x7f" + wav[44:]
    sounds = {
        "cut": wav[:30],
        "empty": b"",
        "claims": claims,
        "odd": wav[:22] + b"\0\0" + wav[24:],
        "noise": rng.randbytes(200),
    }
    for kind, first, suffix in ((images, png, ".png"), (sounds, wav, ".wav")):
        for name, content in kind.items():
            place = folder / f"{name}{suffix}s"
            _write(place / f"a{suffix}", first)
            yield _write(place / f"b{suffix}", content).parent
    (folder / "loops").mkdir()
    (folder / "loops" / "a.png").symlink_to(folder / "loops" / "a.png")
    (folder / "loops" / "inner").symlink_to(folder / "loops")
    os.mkfifo(folder / "loops" / "b.png")
    yield folder / "loops"


def _write(path: Path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


# --- what becomes of them -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Ending:
    """How one case ended: "fine", "error: ...", "died of SIGSEGV", "hung" or "bug: ..."."""

    case: Case
    how: str
    seconds: float


def run_forked(cases: list[Case], folder: Path) -> list[Ending]:
    """Each case in a fork of this process, by the code that edgekit's own processes run; TensorFlow is imported once."""
    import keras  # noqa: F401
    import tensorflow  # noqa: F401

    import edgekit.convert.settle
    import edgekit.convert.tensorflow_child  # noqa: F401

    endings = []
    for number, case in enumerate(cases):
        scratch = folder / str(number)
        scratch.mkdir(parents=True)
        start = time.monotonic()
        pid = os.fork()
        if pid == 0:
            _in_fork(case, scratch)
        code = _wait(pid)
        said = (scratch / "said").read_text("utf-8", "replace") if (scratch / "said").exists() else ""
        if code is None:
            how = "hung"
        elif code < 0:
            how = f"died of {signal.Signals(-code).name}"
        else:
            how = said or f"bug: exit code {code}"
        endings.append(Ending(case, how, time.monotonic() - start))
    return endings


def _wait(pid: int) -> int | None:
    """The exit code (a signal's number, negative), None after killing what takes too long."""
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.005)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return None


def _in_fork(case: Case, scratch: Path) -> None:
    import resource

    from edgekit.errors import EdgekitError

    code = 0
    try:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 1)
        os.dup2(null, 2)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_DATA, (LIMIT, LIMIT))
        try:
            said = _work(case, scratch)
        except EdgekitError as error:
            said = f"error: {type(error).__name__}: {error} | {error.hint}"
        except MemoryError:
            said = "error: MemoryError"  # apart.py makes an InputError of it
    except BaseException:
        said, code = f"bug: {case.name}\n{traceback.format_exc()}", 1
    (scratch / "said").write_text(said, "utf-8")
    os._exit(code)


def _work(case: Case, scratch: Path) -> str:
    """What `edgekit convert` does until there is a float .tflite and its samples went through it."""
    from edgekit.convert import tensorflow_child
    from edgekit.convert.frontend import model_kind
    from edgekit.convert.samples import check_fit, preprocessed, read_samples
    from edgekit.convert.settle import settle
    from edgekit.convert.tflite_file import take_tflite

    kind = model_kind(case.model)
    raw = read_samples(case.samples, with_labels=False, most=50)
    check_fit(raw, {})
    seen = preprocessed(raw.arrays, {})
    if kind == "tflite":
        float_model, _ = take_tflite(case.model, scratch, timeout_s=60)
    else:
        np.savez(scratch / "samples.npz", **seen)
        (scratch / "loading.json").write_text("{}")
        tensorflow_child.convert(kind, case.model, scratch)
        float_model = scratch / "float.tflite"
    settle(float_model, raw, {}, np.arange(raw.count), until_settled=False)
    return "fine"


def run_command(case: Case, folder: Path, patience: tuple[float, ...] = PATIENCE) -> Ending:
    """The case through `edgekit convert`, as a person would; once more, with more time, if it did not end."""
    start = time.monotonic()
    words = ["convert", str(case.model), "--samples", str(case.samples), "-o", str(folder / "b"), "--max-drop", "100"]
    for seconds in patience:
        try:
            done = subprocess.run(
                [sys.executable, "-m", "edgekit.cli.main", *words], capture_output=True, text=True, timeout=seconds
            )
            break
        except subprocess.TimeoutExpired:
            continue
    else:
        return Ending(case, "hung", time.monotonic() - start)
    how = f"bug: exit code {done.returncode}: {done.stderr}"
    if done.returncode == 0:
        how = "fine"
    elif done.returncode in (1, 2, 3, 6) and done.stderr.startswith("edgekit: ") and "Traceback" not in done.stderr:
        how = f"error: {done.stderr}"
    return Ending(case, how, time.monotonic() - start)


def main(folder: Path) -> int:
    """Every case through the real command; the exit code says whether all of them ended as they should."""
    canary = folder / "canary"
    cases = make_cases(make_seeds(folder / "seeds", canary), folder / "cases")
    wrong = 0
    for number, case in enumerate(cases):
        ending = run_command(case, folder / "out")
        wrong += not ending.how.startswith(("fine", "error"))
        print(
            f"{number + 1}/{len(cases)}  {ending.seconds:5.1f} s  {case.name}: {ending.how.splitlines()[0][:150]}",
            flush=True,
        )
    print(f"{len(cases)} inputs, {wrong} ended wrongly, code in them {'ran' if canary.exists() else 'never ran'}")
    return int(bool(wrong or canary.exists()))


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]).absolute()))
