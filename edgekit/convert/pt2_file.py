"""What a .pt2 file holds, read before PyTorch loads it: whether loading could run code that the file brings.

torch.export.load evaluates symbolic sizes as Python, calls what a node names as its target, unpickles, and loads shared
libraries. With TORCH_FORCE_WEIGHTS_ONLY_LOAD its pickles are harmless; the other three are looked at here.
"""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from edgekit.convert.damaged import ARCHIVE_ERRORS
from edgekit.errors import NotAModel

WEIGHTS_ONLY = {"TORCH_FORCE_WEIGHTS_ONLY_LOAD": "1"}  # read by torch.load, whatever its caller asks for
_PROGRAM_LIMIT = 1 << 28  # bytes of one JSON file, unpacked: the graph without weights; large networks have some MB
_MEMBERS = re.compile(
    r"(data/(weights|constants|sample_inputs)/[^/]+|models/[^/]+\.json|archive_(format|version)|byteorder|version"
    r"|\.data/[^/]+|extra/[^/]*|.*\.format_version"
    r"|serialized_(exported_program\.json|(state_dict|constants|example_inputs)\.(pt|json)))"
)
_TARGETS = re.compile(
    r"torch\.ops\.[a-z]\w*(\.\w+){1,2}|torch\.sym_\w+|torch\._sym_\w+"
    r"|_operator\.(getitem|add|sub|mul|truediv|floordiv|mod|pow|neg|pos|abs|eq|ne|lt|le|gt|ge|and_|or_|not_)"
    r"|math\.(ceil|floor|trunc|sqrt)"
)
_NAMES = {"Symbol", "Integer", "Rational", "Add", "Mul", "Pow", "Max", "Min", "Eq", "Ne", "Lt", "Le", "Gt", "Ge"} | {
    *("And", "Or", "Not", "True", "False", "integer", "positive", "nonnegative", "negative", "real", "oo", "int_oo"),
    *("FloorDiv", "ModularIndexing", "Where", "PythonMod", "Mod", "CleanDiv", "CeilDiv", "CeilToInt", "FloorToInt"),
    *("IntTrueDiv", "FloatTrueDiv", "PowByNatural", "TruncToInt", "ToFloat", "floor", "ceiling", "Piecewise"),
}
_SYMBOL = re.compile(r"(s|u|zf|zuf)\d+")
_HINT = "make it again with torch.export.save; --trust loads it all the same, and runs what it brings"


def check_pt2(path: Path) -> None:
    """NotAModel if the file is damaged, or if loading it could run code that is not PyTorch's own."""
    try:
        with zipfile.ZipFile(path) as archive:
            for member in archive.infolist():
                _check_member(archive, member)
    except ARCHIVE_ERRORS as error:
        raise NotAModel(f"it is damaged or not a .pt2 file ({error})", hint="was it copied completely?") from error


def _check_member(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> None:
    name = member.filename
    inner = name.partition("/")[2]
    if ".." in name.split("/") or not (_MEMBERS.fullmatch(name) or _MEMBERS.fullmatch(inner)):
        raise NotAModel(f"it holds {name[:80]!r}, which an exported program does not need", hint=_HINT)
    if not name.endswith(".json"):
        return
    if member.file_size > _PROGRAM_LIMIT:
        raise NotAModel(f"{name[:80]!r} has {member.file_size:,} bytes", hint="weights do not belong there")
    for key, text in _texts(json.loads(archive.read(member))):
        if key == "target" and not _TARGETS.fullmatch(text):
            raise NotAModel(f"it calls {text[:80]!r}, which is no PyTorch operator", hint=_HINT)
        if key == "expr_str" and not _is_plain(text):
            raise NotAModel(f"it has the size {text[:80]!r}, which is no formula of sizes", hint=_HINT)


def _texts(fields: Any) -> Iterator[tuple[str, str]]:
    """Every `key: text` in it, however deep."""
    waiting = [fields]
    while waiting:
        item = waiting.pop()
        if isinstance(item, list):
            waiting += item
        elif isinstance(item, dict):
            yield from ((key, value) for key, value in item.items() if isinstance(value, str))
            waiting += item.values()


def _is_plain(formula: str) -> bool:
    """Whether it is made of numbers, symbols as PyTorch names them, and functions of sizes."""
    bare = re.sub(r"'(\w+)'", r" \1 ", formula)
    names = re.findall(r"[^\W\d]\w*", bare)
    return re.fullmatch(r"[\w\s+\-*/%(),=<>!&|~]*", bare) is not None and all(
        name in _NAMES or _SYMBOL.fullmatch(name) for name in names
    )
