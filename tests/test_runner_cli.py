"""`python3 -m edgekit.runner`: what it reads, what it prints, and how it ends."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import wave

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

pytest.importorskip("ai_edge_litert", reason="the runner needs an interpreter")

from handmade_model import classifier, identity, make_bundle, sum_and_product

from edgekit.errors import EdgekitError, InputError
from edgekit.preprocess import Generic, parse_spec
from edgekit.runner import load
from edgekit.runner.__main__ import main
from edgekit.runner.inputs import read_input

DIGITS = np.random.default_rng(3).integers(0, 17, (4, 8, 8, 1)).astype(np.uint8)
LABELS = ["zero", "one", "two", "three", "four", "five", "six", "séven", "eight"]  # one too few
GRAY = {"kind": "image", "height": 8, "width": 8, "range": [0, 1], "colour": "gray", "antialias": True}


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cli")
    return make_bundle(folder / "b", classifier(), raw=DIGITS, spec=Generic(scale=1 / 16), labels=LABELS).path


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    raw = np.random.default_rng(0).integers(0, 256, (2, 20, 30, 3)).astype(np.uint8)
    return make_bundle(tmp_path_factory.mktemp("cli") / "b", classifier(), raw=raw, spec=parse_spec(GRAY)).path


@pytest.fixture(scope="module")
def sounds(tmp_path_factory):
    fields = {"kind": "audio", "feature": "mfcc", "sample_rate": 8000, "window": 64, "hop": 64, "frames": 8}
    spec = parse_spec({**fields, "coefficients": 8, "mel_bins": 8, "fmin": 100})
    raw = [np.zeros(512, np.int16)] * 2
    return make_bundle(tmp_path_factory.mktemp("cli") / "b", classifier((1, 8, 8)), raw=raw, spec=spec).path


@pytest.fixture
def run(capfd):
    """Runs the command line in this process: exit code, stdout, stderr."""

    def run(*arguments):
        capfd.readouterr()
        code = main([str(argument) for argument in arguments])
        return code, *capfd.readouterr()

    return run


def save(path, array):
    np.save(path, array)
    return path


# --- infer ---------------------------------------------------------------------------------------------------------


def test_infer_prints_one_line_for_each_sample_of_each_file(run, digits, tmp_path):
    one, many = save(tmp_path / "one.npy", DIGITS[0]), save(tmp_path / "many.npy", DIGITS)
    best = load(digits)(DIGITS[0]).argsort()[::-1][:2]
    code, out, err = run("infer", digits, one, many, "--top", 2)

    assert (code, err) == (0, "")
    assert [line.split("  ")[0] for line in out.splitlines()] == [f"{one}[0]", *(f"{many}[{i}]" for i in range(4))]
    assert [word.split()[0] for word in out.splitlines()[0].split("  ")[1:]] == [[*LABELS, "9"][i] for i in best]


def test_infer_json_has_the_classes_with_labels_and_scores(run, digits, tmp_path):
    answer = load(digits)(DIGITS)
    found = json.loads(run("infer", digits, save(tmp_path / "x.npy", DIGITS), "--json", "--top", 10)[1])

    assert found.keys() == {"variant", "placement", "answers"}
    assert (found["placement"]["unit"], found["placement"]["requested"]) == ("cpu", "cpu")
    assert found["variant"] == "int8"
    assert [row["index"] for row in found["answers"]] == [0, 1, 2, 3]
    for row, scores in zip(found["answers"], answer, strict=True):
        assert row.keys() == {"input", "index", "top"}
        assert [item["score"] for item in row["top"]] == sorted(scores.tolist(), reverse=True)
        assert all(scores[item["class"]] == item["score"] for item in row["top"])
        assert {item["label"] for item in row["top"]} == {*LABELS, "9"}


def test_several_outputs_are_all_told_by_name(run, tmp_path):
    (tmp_path / "m.tflite").write_bytes(sum_and_product())
    np.savez(tmp_path / "x.npz", a=np.float32([[1, 2, 3], [4, 5, 6]]), b=np.float32([[2, 2, 2]] * 2))
    _, said, _ = run("infer", tmp_path / "m.tflite", tmp_path / "x.npz")
    found = json.loads(run("infer", tmp_path / "m.tflite", tmp_path / "x.npz", "--json")[1])

    assert said.splitlines()[1].endswith("[1]  sum [6.000 7.000 8.000]  product [8.000 10.000 12.000]")
    assert found["answers"][0]["outputs"] == {"sum": [3, 4, 5], "product": [2, 4, 6]}


def test_an_answer_that_is_no_vector_is_told_whole(run, tmp_path):
    (tmp_path / "m.tflite").write_bytes(identity("float32", (1, 2, 2), scale=None))
    code, out, _ = run("infer", tmp_path / "m.tflite", save(tmp_path / "x.npy", np.eye(2)), "--json")

    assert code == 0
    assert json.loads(out)["answers"][0]["outputs"] == {"out": [[1, 0], [0, 1]]}


def test_an_answer_that_is_not_finite_is_null_in_json(run, tmp_path):
    (tmp_path / "m.tflite").write_bytes(sum_and_product())
    np.savez(tmp_path / "x.npz", a=np.float32([3e38, 1, 0]), b=np.float32([3e38, 1, 0]))
    found = json.loads(run("infer", tmp_path / "m.tflite", tmp_path / "x.npz", "--json")[1])

    assert found["answers"][0]["outputs"] == {"sum": [None, 2, 0], "product": [None, 1, 0]}
    assert "sum [nan 2.000 0.000]" in run("infer", tmp_path / "m.tflite", tmp_path / "x.npz")[1]


def test_a_variant_and_threads_can_be_chosen(run, digits, tmp_path):
    one = save(tmp_path / "one.npy", DIGITS[0])

    assert run("infer", digits, one, "--variant", "int8", "--threads", 1)[0] == 0
    assert run("infer", digits, one, "--variant", "fp16")[::2] == (
        2,
        "edgekit.runner: this bundle has no variant 'fp16'\n  it has: int8\n",
    )


# --- the files it reads --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("names", [{"image": DIGITS}, {"x": DIGITS, "y": np.arange(4)}, {"anything": DIGITS}])
def test_npz_arrays_are_found_by_the_inputs_name_or_as_x_or_alone(digits, tmp_path, names):
    np.savez(tmp_path / "x.npz", **names)

    assert np.array_equal(read_input(str(tmp_path / "x.npz"), load(digits)), DIGITS)


def test_npz_arrays_of_other_names_are_refused_with_the_models(run, digits, tmp_path):
    np.savez(tmp_path / "x.npz", a=DIGITS, b=DIGITS)
    code, _, err = run("infer", digits, tmp_path / "x.npz")

    assert code == 2
    assert "has the arrays a, b" in err
    assert "image" in err


def write_wav(path, sound, *, rate=8000, width=2):
    with wave.open(str(path), "wb") as stream:
        stream.setnchannels(1 if sound.ndim == 1 else sound.shape[1])
        stream.setsampwidth(width)
        stream.setframerate(rate)
        stream.writeframes(sound.tobytes())
    return path


@pytest.mark.parametrize("channels", [1, 2])
def test_wav_is_read_to_the_sample(sounds, tmp_path, channels):
    sound = np.random.default_rng(0).integers(-9999, 9999, (600, channels)).astype("<i2")
    read = read_input(str(write_wav(tmp_path / "s.wav", sound)), load(sounds))

    assert read.dtype == np.int16
    assert np.array_equal(read.reshape(600, channels), sound)


@pytest.mark.parametrize(
    ("options", "said"), [({"rate": 16000}, "16000 samples a second, the model wants 8000"), ({"width": 1}, "8-bit")]
)
def test_wav_of_another_rate_or_width_is_refused(run, sounds, tmp_path, options, said):
    code, _, err = run("infer", sounds, write_wav(tmp_path / "s.wav", np.zeros(600, np.int16), **options))

    assert code == 2
    assert said in err


def draw(path, array, mode=None):
    image = pytest.importorskip("PIL.Image", reason="pictures need Pillow")
    picture = image.fromarray(array)
    (picture.convert(mode) if mode else picture).save(path)
    return path


PHOTO = np.random.default_rng(1).integers(0, 256, (20, 30, 3)).astype(np.uint8)


def test_png_is_read_to_the_pixel(photos, tmp_path):
    assert np.array_equal(read_input(str(draw(tmp_path / "p.png", PHOTO)), load(photos)), PHOTO)


def test_png_in_grey_or_with_alpha_or_a_palette_is_what_it_shows(photos, tmp_path):
    model, gray = load(photos), PHOTO[:, :, 0]
    alpha = np.dstack([PHOTO, gray])

    assert np.array_equal(read_input(str(draw(tmp_path / "l.png", gray)), model), gray)
    assert np.array_equal(read_input(str(draw(tmp_path / "a.png", alpha)), model), PHOTO)
    assert np.array_equal(read_input(str(draw(tmp_path / "p.png", gray, "P")), model)[:, :, 0], gray)
    assert read_input(str(draw(tmp_path / "1.png", gray, "1")), model).max() == 255


def test_png_of_16_bits_keeps_its_upper_8_and_is_not_clipped(photos, tmp_path):
    deep = np.arange(600, dtype=np.uint16).reshape(20, 30) * 100

    assert np.array_equal(read_input(str(draw(tmp_path / "d.png", deep)), load(photos)), deep >> 8)


def test_png_is_inferred_from(run, photos, tmp_path):
    code, out, err = run("infer", photos, draw(tmp_path / "p.png", PHOTO))

    assert (code, err) == (0, "")
    assert out.startswith(f"{tmp_path / 'p.png'}[0]  {np.argmax(load(photos)(PHOTO))} ")


def test_without_pillow_a_picture_is_refused_with_what_to_do(run, photos, tmp_path, monkeypatch):
    picture = draw(tmp_path / "p.png", PHOTO)
    monkeypatch.setitem(sys.modules, "PIL", None)  # how Python marks what cannot be imported
    code, _, err = run("infer", photos, picture)

    assert code == 1
    assert err == (
        "edgekit.runner: reading pictures needs Pillow, which is not on this board\n"
        "  deploy again with --with-pillow, or give .npy arrays\n"
    )


SUFFIXES = [".npy", ".npz", ".wav", ".png", ".jpg"]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_file_that_is_cut_off_is_refused_in_two_lines(run, digits, tmp_path, suffix):
    whole = tmp_path / f"whole{suffix}"
    if suffix == ".npy":
        save(whole, DIGITS)
    elif suffix == ".npz":
        np.savez_compressed(whole, x=DIGITS)
    elif suffix == ".wav":
        write_wav(whole, np.zeros(600, np.int16))
    else:
        draw(whole, PHOTO)
    for keep in (0, 10, whole.stat().st_size // 2):
        cut = tmp_path / f"cut{suffix}"
        cut.write_bytes(whole.read_bytes()[:keep])
        code, out, err = run("infer", digits, cut)
        assert (code, out) == (2, "")
        assert len(err.splitlines()) == 2


@pytest.mark.filterwarnings("ignore")
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(suffix=st.sampled_from(SUFFIXES), content=st.binary(max_size=60), with_magic=st.booleans())
def test_hostile_files_are_refused_and_nothing_else(digits, tmp_path, suffix, content, with_magic):
    magic = {
        ".npy": b"\x93NUMPY\x01\x00",
        ".npz": b"PK\x03\x04",
        ".wav": b"RIFF\x24\x08\x00\x00WAVEfmt ",
        ".png": b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR",
        ".jpg": b"\xff\xd8\xff\xe0\x00\x10JFIF\x00",
    }
    file = tmp_path / f"hostile{suffix}"
    file.write_bytes((magic[suffix] if with_magic else b"") + content)

    with pytest.raises(EdgekitError):
        read_input(str(file), load(digits))


@pytest.mark.parametrize(
    "array",
    [
        np.array(["text"] * 4),
        np.array([1j]),
        np.array([{}], object),
        np.array([np.nan]),
        np.array([np.inf]),
        np.zeros(2, [("a", "i4")]),
    ],
    ids=lambda array: str(array.dtype),
)
def test_an_array_that_holds_no_finite_numbers_is_refused(digits, tmp_path, array):
    file = save(tmp_path / "x.npy", array)

    with pytest.raises(InputError):
        read_input(str(file), load(digits))


def test_a_npy_that_claims_more_than_there_is_memory_is_refused(run, digits, tmp_path):
    header = b"{'descr': '|u1', 'fortran_order': False, 'shape': (99999999999999,), }\n"
    (tmp_path / "x.npy").write_bytes(b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header)

    assert run("infer", digits, tmp_path / "x.npy")[0] == 2


@pytest.mark.parametrize("name", ["nowhere.npy", "folder", "notes.txt", "noname"])
def test_a_file_that_is_missing_or_of_no_known_kind_is_refused(run, digits, tmp_path, name):
    (tmp_path / "folder").mkdir()
    (tmp_path / "notes.txt").write_text("x")
    (tmp_path / "noname").write_text("x")
    code, out, err = run("infer", digits, tmp_path / name)

    assert (code, out) == (2, "")
    assert len(err.splitlines()) == 2


# --- check ---------------------------------------------------------------------------------------------------------


def test_check_tells_how_the_golden_answers_agree(run, digits):
    code, out, err = run("check", digits)
    found = json.loads(run("check", digits, "--json")[1])

    assert (code, err) == (0, "")
    assert out == (
        "int8: 4 of 4 golden answers equal to the bit, largest difference 0 (allowed 0)\n"
        "int8: cpu: 2 of 2 operators on XNNPACK\n"
    )
    assert found["runtime"].startswith("ai-edge-litert ")
    assert [row.pop("placement")["on_unit"] for row in found["variants"]] == [2]
    assert found["variants"] == [
        {"variant": "int8", "count": 4, "bit_equal": 4, "same_class": 4, "largest_difference": 0, "tolerance": 0}
    ]


def test_check_ends_with_5_if_an_answer_is_further_off_than_allowed(run, tmp_path):
    made = make_bundle(tmp_path / "b", identity(), raw=np.zeros((2, 4), np.uint8), tolerance=2, spoil=3)
    code, out, err = run("check", made.path)

    assert (code, out) == (5, "")
    assert err.startswith("edgekit.runner: variant int8: an answer is 3 away from the golden one, 2 is allowed\n")
    assert len(err.splitlines()) == 2


def test_check_allows_what_the_bundle_allows_and_says_so(run, tmp_path):
    made = make_bundle(tmp_path / "b", identity(), raw=np.zeros((2, 4), np.uint8), tolerance=3, spoil=3)

    assert run("check", made.path)[:2] == (
        0,
        "int8: 0 of 2 golden answers equal to the bit, largest difference 3 (allowed 3)\n"
        "int8: cpu: 1 of 1 operators on XNNPACK\n",
    )


def test_check_does_not_take_a_nan_for_agreement(run, tmp_path):
    given = np.float32([[np.nan, 1, 2, 3]] * 2)
    made = make_bundle(tmp_path / "b", identity("float32", scale=None), raw=given, tolerance=9)

    assert run("check", made.path)[0] == 3


def test_check_compares_several_outputs(run, tmp_path):
    raw = {"a": np.float32([[1, 2, 3]] * 2), "b": np.float32([[1, 2, 3]] * 2)}
    good = make_bundle(tmp_path / "good", sum_and_product(), raw=raw)
    bad = make_bundle(tmp_path / "bad", sum_and_product(), raw=raw, spoil=1)

    assert run("check", good.path)[0] == 0
    assert run("check", bad.path)[0] == 5


@pytest.mark.parametrize("raw", [np.zeros((0, 4), np.uint8)])
def test_check_refuses_a_bundle_that_has_nothing_to_compare(run, tmp_path, raw):
    code, _, err = run("check", make_bundle(tmp_path / "b", identity(), raw=raw).path)

    assert code == 3
    assert "does not hold the golden vectors" in err


def test_check_refuses_damaged_golden_vectors(run, tmp_path):
    made = make_bundle(tmp_path / "b", identity(), raw=np.zeros((2, 4), np.uint8))
    content = bytearray(made.file("golden.npz").read_bytes())
    content[-1] ^= 1
    made.file("golden.npz").write_bytes(content)

    assert run("check", made.path)[0] == 3


# --- bench, and how it ends ----------------------------------------------------------------------------------------


@pytest.mark.slow
def test_bench_measures_here(run, digits):
    (found,) = json.loads(run("bench", digits, "--runs", 20, "--json")[1])["variants"]

    assert 0 < found["median_us"] <= found["p99_us"]
    assert found["cold_start_ms"] > 1
    assert (found["variant"], found["runs"]) == ("int8", 20)
    assert "us, p99" in run("bench", digits, "--runs", 20)[1]


@pytest.mark.parametrize(
    "arguments", [[], ["fly"], ["infer"], ["infer", "b", "x.npy", "--top", "0"], ["bench", "b", "--runs", "x"]]
)
def test_wrong_usage_ends_with_2(arguments, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(arguments)

    assert stopped.value.code == 2
    assert "usage:" in capsys.readouterr().err


def test_help_has_examples_and_tells_nothing_of_the_inner_command(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])

    said = capsys.readouterr().out
    assert "infer RELEASE *.npy --json" in said
    assert all(len(line) <= 110 for line in said.splitlines())


def test_a_folder_that_is_no_release_ends_with_3(run, tmp_path):
    for command in (["infer", tmp_path, "x.npy"], ["check", tmp_path], ["bench", tmp_path]):
        code, out, err = run(*command)
        assert (code, out) == (3, "")
        assert err.startswith(f"edgekit.runner: {tmp_path} is not a bundle")


@pytest.fixture
def shell():
    """Runs a pipeline in bash, with `$runner` for the command line in a process of its own."""

    def shell(pipeline):
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "PYTHONIOENCODING": "ascii"}
        environment["runner"] = f"{sys.executable} -m edgekit.runner"
        command = ["bash", "-c", f'{pipeline}; echo "${{PIPESTATUS[*]}}"']
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)

    return shell


def test_head_may_stop_reading(shell, digits, tmp_path):
    save(tmp_path / "many.npy", np.resize(DIGITS, (4000, 8, 8, 1)))
    done = shell(f"$runner infer {digits} {tmp_path}/many.npy | head -1")

    assert done.stderr == ""
    assert len(done.stdout.splitlines()) == 2
    assert done.stdout.splitlines()[1] == "1 0"


def test_labels_of_any_language_reach_a_terminal_that_has_only_ascii(shell, digits, tmp_path):
    save(tmp_path / "one.npy", DIGITS[0])
    done = shell(f"$runner infer {digits} {tmp_path}/one.npy --top 10")

    assert done.stderr == ""
    assert "s\\xe9ven" in done.stdout
