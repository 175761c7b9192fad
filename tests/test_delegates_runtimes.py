"""The fake delegate in tflite-runtime, and the GPU path on a software Vulkan driver."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from fake_library import fake_library
from handmade_model import classifier, compiled_classifier, make_bundle

pytestmark = pytest.mark.slow
pytest.importorskip("ai_edge_litert")
REPOSITORY = Path(__file__).resolve().parents[1]
TINY = REPOSITORY.parent / "shared" / "data" / "mlperf-tiny"
SWIFTSHADER = Path("/usr/lib/chromium")  # of Debian's package chromium: libvulkan.so.1 and a driver that is a program


def runner(*arguments, path, cache, **environment):
    """The runner's exit code, output and errors in a new process with that PYTHONPATH."""
    done = subprocess.run(
        [sys.executable, "-s", "-S", "-m", "edgekit.runner", *map(str, arguments)],
        env={"PATH": os.environ["PATH"], "PYTHONPATH": path, "XDG_CACHE_HOME": str(cache), **environment},
        capture_output=True,
        text=True,
    )
    return done.returncode, done.stdout, done.stderr


@pytest.mark.skipif(sys.version_info >= (3, 12), reason="tflite-runtime has no wheel for this Python")
def test_the_same_library_serves_in_tflite_runtime(tmp_path):
    site = tmp_path / "site"
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(site)]
    done = subprocess.run([*pip, "tflite-runtime==2.14.0", "numpy==1.26.4"], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"no wheels: {done.stderr.strip()[-200:]}")
    raw = np.random.default_rng(0).random((6, 8, 8, 1), np.float32)
    compiled = "models/int8_edgetpu.tflite"

    def check(name, library, *options):
        asked = [f"edgetpu:library={library},file={compiled}", "cpu"]
        files = {compiled: compiled_classifier()}
        made = make_bundle(tmp_path / name, classifier(), raw=raw, delegates=asked, more=files, tolerance=2)
        return runner("check", made.path, "--json", *options, path=f"{REPOSITORY}:{site}", cache=tmp_path / name / "c")

    code, out, err = check("good", fake_library(), "--require", "edgetpu")
    found = json.loads(out)

    assert (code, err) == (0, "")
    assert found["runtime"] == "tflite-runtime 2.14.0"
    assert found["variants"][0]["placement"]["on_unit"] == 1
    code, out, err = check("abi", fake_library("-DPOISON"))
    assert code == 0 and "killed by SIGSEGV: a library built for another runtime (ABI)?" in err
    assert json.loads(out)["variants"][0]["placement"]["unit"] == "cpu"


@pytest.fixture
def gpu():
    """What a process needs to find a software GPU."""
    if not (SWIFTSHADER / "libvk_swiftshader.so").exists():
        pytest.skip("no software Vulkan driver: apt install chromium")
    pytest.importorskip("ml_dtypes")
    return {"LD_LIBRARY_PATH": str(SWIFTSHADER), "VK_DRIVER_FILES": str(SWIFTSHADER / "vk_swiftshader_icd.json")}


def site_path() -> str:
    return os.pathsep.join([str(REPOSITORY), *(entry for entry in sys.path if entry.endswith("-packages"))])


@pytest.mark.parametrize(
    ("name", "shape", "precision", "most"),
    [
        ("kws_ref_model.tflite", (49, 10, 1), "f32", 2),
        ("ad01_int8.tflite", (640,), "f32", 2),
        ("pretrainedResnet.tflite", (32, 32, 3), "f32", 1e-5),
    ],
)
def test_the_gpu_gives_the_processors_answers(tmp_path, gpu, name, shape, precision, most):
    if not (TINY / name).exists():
        pytest.skip("no ../shared/data/mlperf-tiny beside this checkout")
    raw = np.random.default_rng(0).uniform(-3, 3, (3, *shape)).astype(np.float32)
    made = make_bundle(tmp_path / "b", (TINY / name).read_bytes(), raw=raw, tolerance=most)

    code, out, err = runner(
        *("check", made.path, "--json", "--delegate", f"gpu:precision={precision}", "--require", "gpu"),
        path=site_path(), cache=tmp_path / "c", **gpu,
    )  # fmt: skip
    assert (code, err) == (0, "")
    (row,) = json.loads(out)["variants"]
    assert row["largest_difference"] <= most
    assert row["placement"]["software"] and row["placement"]["unit"] == "gpu"
    assert row["placement"]["on_unit"] == row["placement"]["operators"] > 5


def test_a_gpu_that_is_not_there_or_too_coarse_falls_back_loudly(tmp_path, gpu):
    if not (TINY / "pretrainedResnet_quant.tflite").exists():
        pytest.skip("no ../shared/data/mlperf-tiny beside this checkout")
    raw = np.load(TINY / "cifar10_unlabelled_500.npz")["x"][:20].astype(np.float32)
    model = (TINY / "pretrainedResnet_quant.tflite").read_bytes()
    made = make_bundle(tmp_path / "b", model, raw=raw, tolerance=2, delegates=["gpu", "cpu"])

    for reason, environment in (
        ("refused: CompiledModel refuses", {"VK_DRIVER_FILES": "/nowhere"}),
        ("wrong: variant", gpu),
    ):
        code, out, err = runner("check", made.path, path=site_path(), cache=tmp_path / "c", **environment)
        assert code == 0 and "int8: cpu: 14 of 16 operators on XNNPACK, on plain kernels 1 x AVERAGE_POOL_2D" in out
        assert err.startswith("edgekit.runner: delegate gpu:precision=f16 was asked for, cpu serves\n")
        assert f"gpu:precision=f32 {reason}" in err and f"gpu:precision=f32,partial=true {reason}" in err


def test_an_int8_resnet_made_for_a_gpu_runs_there(tmp_path, gpu):
    if not (TINY / "pretrainedResnet_quant.tflite").exists():
        pytest.skip("no ../shared/data/mlperf-tiny beside this checkout")
    raw = np.load(TINY / "cifar10_unlabelled_500.npz")["x"][:20].astype(np.float32)
    from edgekit.convert.gpu import without_strided_pointwise

    model = without_strided_pointwise((TINY / "pretrainedResnet_quant.tflite").read_bytes())
    made = make_bundle(tmp_path / "b", model, raw=raw, tolerance=3, delegates=["gpu:precision=f32", "cpu"])

    code, out, _ = runner(
        "check", made.path, "--json", "--require", "gpu", path=site_path(), cache=tmp_path / "c", **gpu
    )
    (row,) = json.loads(out)["variants"]
    assert (code, row["placement"]["unit"]) == (0, "gpu")
    assert row["largest_difference"] <= 3


def test_the_gpu_serves_lanes_batches_and_float_answers(tmp_path, gpu):
    if not (TINY / "kws_ref_model.tflite").exists():
        pytest.skip("no ../shared/data/mlperf-tiny beside this checkout")
    raw = np.random.default_rng(0).uniform(-3, 3, (5, 49, 10, 1)).astype(np.float32)
    made = make_bundle(tmp_path / "b", (TINY / "kws_ref_model.tflite").read_bytes(), raw=raw, tolerance=2)
    np.save(tmp_path / "x.npy", raw)
    answers = [
        json.loads(runner("infer", made.path, tmp_path / "x.npy", "--json", "--delegate", text,
                          path=site_path(), cache=tmp_path / "c", **gpu)[1])["answers"]
        for text in ("cpu", "gpu:precision=f32")
    ]  # fmt: skip

    assert len(answers[0]) == 5
    assert [row["top"][0]["class"] for row in answers[0]] == [row["top"][0]["class"] for row in answers[1]]


def test_a_gpu_bundle_is_deployed_with_what_a_gpu_needs(tmp_path, gpu, device, monkeypatch):
    from edgekit.deploy.install import deploy

    if not (TINY / "kws_ref_model.tflite").exists():
        pytest.skip("no ../shared/data/mlperf-tiny beside this checkout")
    for name, value in gpu.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("XDG_CACHE_HOME", os.environ.get("XDG_CACHE_HOME", str(Path("~/.cache").expanduser())))
    raw = np.random.default_rng(0).uniform(-3, 3, (2, 49, 10, 1)).astype(np.float32)
    model = (TINY / "kws_ref_model.tflite").read_bytes()
    made = make_bundle(tmp_path / "b", model, raw=raw, tolerance=2, delegates=["gpu:precision=f32", "cpu"])
    done = deploy(made, device)

    assert any(requirement.startswith("ml-dtypes") for requirement in done.requirements)
    (row,) = done.check["variants"]
    assert (row["placement"]["unit"], row["placement"]["on_unit"]) == ("gpu", 13)


def test_deploy_says_which_unit_serves_and_what_was_asked_for(tmp_path, monkeypatch):
    from click.testing import CliRunner

    from edgekit.cli.deploy import deploy_command

    raw = np.random.default_rng(0).random((6, 8, 8, 1), np.float32)
    compiled = "models/int8_edgetpu.tflite"
    asked = [f"edgetpu:library={fake_library()},file={compiled}", "cpu"]

    def deployed(name, devices):
        monkeypatch.setenv("FAKE_DEVICES", devices)
        made = make_bundle(
            tmp_path / name, classifier(), raw=raw, delegates=asked, more={compiled: compiled_classifier()}
        )
        done = CliRunner().invoke(
            deploy_command, [str(made.path), f"local:{tmp_path / name}-device", "--service", "none"]
        )
        assert done.exception is None, done.exception
        return done.output

    served, fell_back = deployed("a", "usb"), deployed("b", "")
    assert "on FAKE edgetpu" in served and "NOT AS ASKED" not in served
    assert "NOT AS ASKED" in fell_back and "no device ':0'" in fell_back


def test_a_gpu_that_takes_a_part_says_how_many_and_why_not_the_rest(tmp_path, gpu):
    from handmade_model import T, build

    a, b, c, e = (T(name, (1, 4, 4, 8)) for name in "abce")
    rank = T("d", (), "int32")
    content = build([("LOGISTIC", [a], [b]), ("RANK", [b], [rank]), ("TANH", [b], [c]), ("FLOOR_MOD", [c, c], [e])],
                    inputs=[a], outputs=[e])  # fmt: skip
    made = make_bundle(tmp_path / "b", content, raw=np.ones((1, 4, 4, 8), np.float32), tolerance=1)

    def check(text):
        return runner("check", made.path, "--json", "--delegate", text, path=site_path(), cache=tmp_path / "c", **gpu)

    code, _, err = check("gpu:precision=f32")
    assert code == 4 and "the GPU does not take" in err and "RANK: Operation is not supported" in err
    code, out, _ = check("gpu:precision=f32,partial=true")
    placement = json.loads(out)["variants"][0]["placement"]
    assert code == 0
    assert (placement["operators"], placement["on_unit"]) == (4, 2)
    assert placement["left"] == {"RANK": 1, "FLOOR_MOD": 1}
