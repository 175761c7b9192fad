"""A .pt2 file is looked at before PyTorch loads it: nothing in it may run."""

from __future__ import annotations

import contextlib
import json
import zipfile
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from edgekit.convert.pt2_file import check_pt2
from edgekit.errors import NotAModel

PLAIN = {
    "graph_module": {
        "graph": {
            "nodes": [{"target": "torch.ops.aten.conv2d.default"}, {"target": "_operator.add"}],
            "sym_int_values": {"s": {"as_expr": {"expr_str": "2*Symbol('s77', positive=True, integer=True) + 1"}}},
        }
    }
}


def written(path: Path, program: object = PLAIN, **members: bytes) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("net/models/model.json", json.dumps(program))
        archive.writestr("net/data/weights/weight_0", b"\x00" * 8)
        archive.writestr("net/archive_format", b"pt2")
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def test_an_exported_program_is_let_through(tmp_path):
    check_pt2(written(tmp_path / "net.pt2"))


@pytest.mark.parametrize(
    "target",
    [
        *("torch.hub.load", "torch.load", "torch.utils.cpp_extension.load_inline", "torch.ops.load_library"),
        *(
            "_operator.methodcaller",
            "_operator.attrgetter",
            "_operator.call",
            "torch.ops.aten.add.default.__globals__.x",
        ),
        *("#extension", "os.system", "math.__loader__", "torch.ops.__class__", ""),
    ],
)
def test_a_node_that_calls_anything_but_an_operator_is_refused(tmp_path, target):
    program = {"graph_module": {"graph": {"nodes": [{"target": target}]}}}

    with pytest.raises(NotAModel, match="which is no PyTorch operator") as caught:
        check_pt2(written(tmp_path / "net.pt2", program))

    assert "--trust" in caught.value.hint


@pytest.mark.parametrize(
    "formula",
    [
        "__import__('os').system('id')",
        "().__class__",
        "Symbol('s0').__class__",
        "exec('x')",
        "eval(s0)",
        "[s0 for s0 in s1]",
        "Symbol('''s0''')",
        "lambda: s0",
        "Symbol('os')",
        "s0; s1",
        's0["x"]',
    ],
)
def test_a_size_that_is_not_a_formula_of_sizes_is_refused(tmp_path, formula):
    with pytest.raises(NotAModel, match="which is no formula of sizes"):
        check_pt2(written(tmp_path / "net.pt2", [{"deep": {"as_expr": {"expr_str": formula}}}]))


@pytest.mark.parametrize(
    "name", ["net/data/aotinductor/model/x.so", "net/../../x", "net/code/__torch__.py", "net/data.pkl", "x.py"]
)
def test_a_file_that_an_exported_program_does_not_need_is_refused(tmp_path, name):
    with pytest.raises(NotAModel, match="which an exported program does not need"):
        check_pt2(written(tmp_path / "net.pt2", **{name: b"\x7fELF"}))


def test_what_is_no_archive_or_has_no_json_is_damaged(tmp_path):
    whole = written(tmp_path / "net.pt2").read_bytes()
    (tmp_path / "cut.pt2").write_bytes(whole[: len(whole) // 2])
    written(tmp_path / "text.pt2", **{"net/models/other.json": b"{" * 100_000})

    for name in ("cut.pt2", "text.pt2"):
        with pytest.raises(NotAModel, match=r"damaged or not a \.pt2 file"):
            check_pt2(tmp_path / name)


@given(data=st.binary(max_size=300), at=st.integers(0, 400))
@example(data=b"\x02", at=29)  # EOFError: the name is shorter than it says
def test_bytes_changed_anywhere_are_let_through_or_refused_and_nothing_else(tmp_path_factory, data, at):
    path = written(tmp_path_factory.mktemp("pt2") / "net.pt2")
    whole = path.read_bytes()
    path.write_bytes(whole[:at] + data + whole[at + len(data) :])

    with contextlib.suppress(NotAModel):
        check_pt2(path)
