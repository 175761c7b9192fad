"""The report: whole in one file, the same bytes for the same comparison, and nothing in a name can become HTML."""

from __future__ import annotations

import html.parser
import io
import re
import shutil
import subprocess
from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("ai_edge_litert", reason="pip install 'edgekit[convert]'")

from handmade_model import classifier
from model_pair import inputs, labels, write_pair

from edgekit.convert.compare import compare_models
from edgekit.convert.report import About, render, report_path, write_report
from edgekit.convert.report.html import escaped, tag
from edgekit.convert.report.png import as_pictures, png
from edgekit.convert.samples import Samples
from edgekit.errors import InputError
from edgekit.runner.model import load

HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(1)>\"'&\x00\u202e"


def comparison(folder, *, count=200, timed=False, **options):
    paths = write_pair(folder, **options)
    models = [load(path) for path in paths]
    values = inputs(count)
    samples = Samples("held_out.npz", {"x": values}, labels(paths[0], values))
    return compare_models(models[0], paths[0], models[1], paths[1], samples, timed=timed)


class Page(html.parser.HTMLParser):
    """Counts elements and checks that they are nested and closed."""

    VOID = frozenset(["meta", "img", "br", "link", "input", "hr"])

    def __init__(self, text):
        super().__init__()
        self.open, self.found, self.text = [], [], []
        self.feed(text)

    def handle_starttag(self, name, attributes):
        self.found.append((name, dict(attributes)))
        if name not in self.VOID:
            self.open.append(name)

    def handle_startendtag(self, name, attributes):
        self.found.append((name, dict(attributes)))

    def handle_endtag(self, name):
        assert self.open.pop() == name

    def handle_data(self, data):
        self.text.append(data)

    def all(self, name):
        return [attributes for found, attributes in self.found if found == name]


def test_the_same_comparison_is_the_same_bytes(tmp_path):
    first, second = comparison(tmp_path), comparison(tmp_path)

    assert render(first, About("net")) == render(second, About("net"))


def test_elements_are_closed_and_named_for_those_who_do_not_see_them(tmp_path):
    page = Page(render(comparison(tmp_path, hidden_step=1 / 512), About("net")))
    headings = [name for name, _ in page.found if re.fullmatch("h[1-6]", name)]

    assert page.open == []
    assert headings[:2] == ["h1", "h2"]
    assert page.all("html") == [{"lang": "en"}]
    assert all(head.get("scope") for head in page.all("th"))
    assert all(image.get("alt") for image in page.all("img"))
    assert all(svg.get("aria-label") or svg.get("aria-hidden") for svg in page.all("svg"))
    assert len({a["id"] for _, a in page.found if "id" in a}) == len([a for _, a in page.found if "id" in a])


def test_nothing_is_loaded_from_anywhere(tmp_path):
    text = render(comparison(tmp_path, hidden_step=1 / 512), About("net"))
    page = Page(text)
    sources = [value for _, a in page.found for key, value in a.items() if key in ("src", "href")]

    assert all(source.startswith(("data:", "#")) for source in sources)
    assert "http:" not in text.replace("http-equiv", "")
    assert "https:" not in text
    assert any("default-src 'none'" in a.get("content", "") for a in page.all("meta"))


def test_names_and_labels_are_never_html(tmp_path):
    found = comparison(tmp_path, hidden_step=1 / 512)
    hostile = replace(found.layers.layers[1], name=HOSTILE, operator=HOSTILE)
    found = replace(found, layers=replace(found.layers, layers=(hostile,), unmatched=(HOSTILE,)), samples=HOSTILE)
    about = About(
        title=HOSTILE, command=(HOSTILE,), target=HOSTILE, bundle=HOSTILE, labels=(HOSTILE,) * 3,
        preprocess={HOSTILE: {HOSTILE: HOSTILE}}, made_by={HOSTILE: HOSTILE}, made_from={HOSTILE: HOSTILE},
        warnings=(HOSTILE,), policies=({"policy": HOSTILE, "variant": HOSTILE, "chosen": True}, {"policy": "x", "variant": "y"}),
        findings=({HOSTILE: HOSTILE},),
        repairs=({**REPAIRS[2], "step": HOSTILE, "what": HOSTILE, "gate": HOSTILE},), commits={HOSTILE: HOSTILE},
    )  # fmt: skip
    text = render(found, about)
    page = Page(text)

    assert len(page.all("script")) == 1
    assert not any("onerror" in a for _, a in page.found)
    assert page.all("img") == []
    assert text.count("</script>") == 1
    assert "\x00" not in text
    assert "\u202e" not in text


def test_text_that_no_file_can_hold_is_written_all_the_same(tmp_path):
    page = tmp_path / "r.html"

    write_report(page, comparison(tmp_path), About("half a pair \ud800"))

    assert "half a pair ?" in page.read_text("utf-8")


def test_attributes_are_escaped_too():
    assert tag("p", "a<b", title='"><script>', data_v=None) == '<p title="&quot;&gt;&lt;script&gt;">a&lt;b</p>'
    assert escaped(tag("b", "x")) == "<b>x</b>"


def test_the_verdict_is_on_top_in_every_case(tmp_path):
    failed = render(comparison(tmp_path, hidden_step=1 / 512), About("net"))
    unsure = render(comparison(tmp_path, count=30), About("net"))
    passed = render(comparison(tmp_path, count=2000), About("net"))

    assert ["<h2>Failed</h2>" in failed, "It loses most in" in failed, 'href="#layer-0"' in failed] == [True] * 3
    assert "<h2>Passed, but not for sure</h2>" in unsure or "<h2>Failed</h2>" in unsure
    assert passed.index('class="verdict') < passed.index('class="cards"')


POLICIES = tuple(
    {"variant": "int8", "policy": policy, "sqnr_db": db, "median_sqnr_db": db + 1, "same_class": 0.96, "count": 25,
     "chosen": policy == "min-max"}
    for policy, db in (("min-max", 27.5), ("least-error", 27.4))
)  # fmt: skip
REPAIRS = tuple(
    {
        "variant": "int8",
        "step": step,
        "what": what,
        "before_db": 8.0,
        "after_db": after,
        "gate": gate,
        "kept": bool(gate),
        "passed": bool(gate),
    }
    for step, what, after, gate in (
        ("other ranges", "least-error", 7.5, None),
        ("equalize", "3 pairs of layers", None, None),
        ("blocks in float", "2 of 40 operators", 31.25, "loses 0.2 points"),
    )
)


def test_what_was_tried_is_shown_where_there_is_anything(tmp_path):
    found = comparison(tmp_path)
    lint = ({"rule": "R1", "layer": "conv"},)
    text = render(found, About("net", policies=POLICIES, findings=lint, repairs=REPAIRS))
    plain = render(found, About("net"))
    page = Page(text)
    said = " ".join(page.text)

    for title in ("Range policies tried", "Repairs tried", "Lint"):
        assert f"<h2>{title}</h2>" in text
        assert f"<h2>{title}</h2>" not in plain
    assert "on 25 samples that made no ranges" in said
    assert re.search(r"min-max +chosen", said)
    assert text.count(">chosen<") == 1
    for word in (
        "27.5",
        "96.0%",
        "31.2",
        "kept, passed",
        "not kept",
        "nothing to do",
        "was not asked",
        "loses 0.2 points",
    ):
        assert word in said
    assert page.open == []


def test_policies_of_several_variants_say_of_which(tmp_path):
    rows = (*POLICIES, *({**row, "variant": "int16x8"} for row in POLICIES))

    assert ">int16x8<" in render(comparison(tmp_path), About("net", policies=rows))


def test_repairs_of_several_variants_say_of_which(tmp_path):
    rows = (*REPAIRS, *({**row, "variant": "int8-float-io"} for row in REPAIRS))

    several, one = (render(comparison(tmp_path), About("net", repairs=given)) for given in (rows, REPAIRS))

    assert several.count(">int8-float-io<") == len(REPAIRS)
    assert several.count(">variant<") == one.count(">variant<") + 1


def test_ranges_are_shown_to_grow_with_the_samples(tmp_path):
    found = comparison(tmp_path)
    settled = render(found, About("net", convergence=((1, 0.7), (2, 0.85), (4, 0.96), (8, 1.0))))
    growing = render(found, About("net", convergence=((1, 0.3), (2, 0.5), (4, 0.7), (5, 1.0))))
    (label,) = (svg["aria-label"] for svg in Page(settled).all("svg") if svg.get("class") == "growth")

    assert label == "Share of the final ranges by number of samples: 1: 70%, 2: 85%, 4: 96%, 8: 100%."
    assert "4 samples make 95% of them; 8 were used" in settled
    assert "still growing at the end" in growing
    assert "give more" in growing
    assert "Samples and ranges" not in render(found, About("net"))


def test_a_file_is_called_by_its_variant_not_by_where_it_lay(tmp_path):
    paths = write_pair(tmp_path)
    trial = tmp_path / "0.tflite"
    trial.write_bytes(paths[1].read_bytes())
    models = [load(paths[0]), load(trial)]
    named = replace(models[1].variant, file="models/int8.tflite")
    models[1].variant = named
    samples = Samples("s.npz", {"x": inputs()}, None)
    found = compare_models(models[0], paths[0], models[1], trial, samples, timed=False)

    assert (found.float_side.file, found.int8_side.file) == ("float.tflite", "int8.tflite")


def test_times_are_shown_only_where_they_were_measured(tmp_path):
    assert "measured here" in render(comparison(tmp_path, timed=True), About("net"))
    assert "measured here" not in render(comparison(tmp_path), About("net"))


def test_pixels_survive_the_png():
    image = pytest.importorskip("PIL.Image")
    random = np.random.default_rng(0)
    for pixels in (random.integers(0, 256, (9, 13)), random.integers(0, 256, (9, 13, 3))):
        decoded = np.asarray(image.open(io.BytesIO(png(pixels.astype(np.uint8)))))

        assert np.array_equal(decoded, pixels)


@pytest.mark.parametrize(
    ("shape", "picture"),
    [
        ((8, 8, 1), (8, 8)), ((32, 32, 3), (32, 32, 3)), ((40, 50), (40, 50)), ((3, 16, 16), (16, 16, 3)),
        ((1, 16, 16), (16, 16)), ((1, 16, 16, 3), (16, 16, 3)), ((16, 16, 4), (16, 16, 3)), ((512, 256, 3), (128, 64, 3)),
        ((49, 10, 1), (49, 10)), ((640,), None), ((2, 3), None), ((4, 16, 16, 3), None), ((16000, 2), None), ((5, 5, 7), None),
    ],
)  # fmt: skip
def test_samples_that_look_like_pictures_are_shown_as_such(shape, picture):
    values = np.random.default_rng(0).random(shape).astype(np.float32)
    found = as_pictures([values, values])

    assert (found is None) == (picture is None)
    assert found is None or (found[0].shape, found[0].dtype) == (picture, np.uint8)


def test_photographs_keep_their_brightness_and_digits_are_stretched():
    photograph = np.full((8, 8), 200, np.uint8)
    digit = np.arange(64, dtype=np.uint8).reshape(8, 8) // 4

    assert as_pictures([photograph])[0].max() == 200
    assert (as_pictures([digit])[0].min(), as_pictures([digit])[0].max()) == (0, 255)


@pytest.mark.parametrize(("shape", "shown"), [((640,), "wave"), ((4,), "wave"), ((20, 20, 1), "data:image/png")])
def test_inputs_are_pictures_waveforms_or_bars(tmp_path, shape, shown):
    path = tmp_path / "net.tflite"
    path.write_bytes(classifier((1, *shape), dtype="float32"))
    model = load(path)
    values = np.random.default_rng(0).random((40, *shape)).astype(np.float32)
    found = compare_models(model, path, model, path, Samples("s.npz", {"x": values}, None), timed=False)

    assert shown in render(found, About("net"))


def test_a_large_network_with_large_images_stays_small(tmp_path):
    path = tmp_path / "net.tflite"
    path.write_bytes(classifier((1, 224, 224, 3), dtype="float32"))
    model = load(path)
    values = np.random.default_rng(0).integers(0, 256, (20, 224, 224, 3)).astype(np.uint8)
    found = compare_models(model, path, model, path, Samples("s.npz", {"x": values}, None), timed=False)
    many = tuple(replace(found.layers.layers[1], index=i, name=f"block_{i}/" + "long_name;" * 20) for i in range(2000))
    operators = found.operators * 1000
    text = render(replace(found, layers=replace(found.layers, layers=many), operators=operators), About("net"))

    assert len(text.encode()) < 2_000_000
    assert "1400 more are not shown" in text


def test_the_report_lies_beside_the_bundle_not_in_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    assert str(report_path(tmp_path / "digits")) == f"{tmp_path}/digits.report.html"
    assert report_path(tmp_path.relative_to(tmp_path.parent) / "..").name == f"{tmp_path.name}.report.html"


def test_a_place_where_no_report_can_be_written_is_a_message(tmp_path):
    (tmp_path / "file").write_text("")

    with pytest.raises(InputError, match="cannot be written"):
        write_report(tmp_path / "file" / "r.html", comparison(tmp_path), About("net"))


def test_an_older_report_is_replaced_and_nothing_is_left_beside_it(tmp_path):
    out = tmp_path / "out"
    page = out / "r.html"
    write_report(page, comparison(tmp_path), About("one"))
    write_report(page, comparison(tmp_path), About("two"))

    assert [path.name for path in out.iterdir()] == ["r.html"]
    assert "two: int8 beside float" in page.read_text("utf-8")
    assert page.stat().st_mode & 0o044


CHECK = """
<script>
window.addEventListener("load", () => {
  const say = [];
  const chart = document.querySelector("svg.layers");
  chart.dispatchEvent(new KeyboardEvent("keydown", {key: "ArrowRight"}));
  say.push(document.getElementById("told").textContent);
  const table = document.querySelector("table[aria-label=Layers]");
  const button = [...table.querySelectorAll("button")].find((b) => b.textContent.startsWith("SQNR"));
  button.click();
  say.push(button.closest("th").getAttribute("aria-sort"));
  const values = [...table.tBodies[0].rows].map((row) => Number(row.children[4].dataset.v));
  say.push(values.every((v, i) => i === 0 || values[i - 1] <= v) ? "sorted" : "unsorted");
  say.push(document.documentElement.scrollWidth <= window.innerWidth ? "fits" : "too wide");
  document.title = say.join("|");
});
</script></body>"""


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("chromium") is None, reason="no chromium: apt-get install chromium")
@pytest.mark.parametrize("width", [500, 1200])
def test_a_real_browser_sorts_points_and_fits(tmp_path, width):
    page = tmp_path / "r.html"
    write_report(page, comparison(tmp_path, hidden_step=1 / 512, timed=True), About("net", labels=("a", "b", HOSTILE)))
    text = page.read_text("utf-8")
    # the policy lets no script run but ours, so what asks the questions needs it out of the way
    page.write_text(re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", text).replace("</body>", CHECK))
    command = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", f"--window-size={width},900", "--dump-dom"]

    done = subprocess.run([*command, page.as_uri()], capture_output=True, text=True, timeout=120)
    title = re.search(r"<title>(.*?)</title>", done.stdout)[1]

    assert re.fullmatch(r"input, in: [\d.]+ dB\|ascending\|sorted\|fits", title)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("chromium") is None, reason="no chromium: apt-get install chromium")
def test_the_policy_lets_our_script_run_and_no_other(tmp_path):
    page = tmp_path / "r.html"
    write_report(page, comparison(tmp_path), About("net"))
    page.write_text(page.read_text("utf-8").replace("</body>", "<script>document.title = 'run'</script></body>"))
    command = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--dump-dom"]

    done = subprocess.run([*command, page.as_uri()], capture_output=True, text=True, timeout=120)

    assert "<title>net: int8 beside float</title>" in done.stdout
    assert done.stderr.count("Refused to execute inline script") + done.stderr.count("violates the following") == 1


def test_another_variant_has_its_own_name_everywhere(tmp_path):
    paths = write_pair(tmp_path)
    models = [load(path) for path in paths]
    samples = Samples("s.npz", {"x": inputs()}, labels(paths[0], inputs()))
    found = compare_models(models[0], paths[0], models[1], paths[1], samples, timed=False, variant="int16x8")
    page = Page(render(found, About("net")))
    said = "".join(text for text in page.text if "{" not in text)  # not the style and the script

    assert "net: int16x8 beside float" in said
    assert "int16x8 loses" in said.replace("Int", "int")
    assert "int8" not in said.replace("int8.tflite", "").replace("int8[", "").replace("full int8", "")
