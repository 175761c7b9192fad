"""Which operators of a `mixed` variant stay float: a TOML file that people write, read, and compare with diff.

    schema = 1

    [[float]]
    operator = "SOFTMAX"          # every operator of this kind

    [[float]]
    name = "*block_12*"           # every operator whose first output is called so
    operator = "CONV_2D"          # and that is of this kind

Patterns are fnmatch's: * ? [abc]. Names are the float .tflite's (`edgekit inspect --operators`).
"""

from __future__ import annotations

import difflib
import glob
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from edgekit.errors import InputError
from edgekit.toml import read_toml

SCHEMA = 1
_HINT = 'schema = 1, then tables [[float]] with operator = "KIND" or name = "*pattern*", or both'


@dataclass(frozen=True)
class Rule:
    """Operators whose kind and name both match."""

    operator: str = "*"
    name: str = "*"

    def matches(self, name: str, kind: str) -> bool:
        return fnmatchcase(kind, self.operator) and fnmatchcase(name, self.name)


def read_recipe(path: Path) -> tuple[Rule, ...]:
    """The rules in a recipe; InputError for anything that is not one."""
    fields = read_toml(path)
    if fields.get("schema") != SCHEMA:
        raise InputError(f"{path}: schema is {fields.get('schema')!r}, edgekit reads {SCHEMA}", hint=_HINT)
    tables = fields.get("float")
    if set(fields) != {"schema", "float"} or not isinstance(tables, list) or not tables:
        raise InputError(f"{path} is no recipe: {', '.join(fields)}", hint=_HINT)
    return tuple(_rule(path, number, table) for number, table in enumerate(tables, 1))


def _rule(path: Path, number: int, table: object) -> Rule:
    known = isinstance(table, dict) and table and set(table) <= {"operator", "name"}
    if not known or not isinstance(table, dict) or not all(isinstance(v, str) and v for v in table.values()):
        raise InputError(f"{path}: [[float]] number {number} is no rule: {table}", hint=_HINT)
    return Rule(**table)


def pick(rules: Iterable[Rule], operators: Mapping[str, str]) -> tuple[str, ...]:
    """The names of the operators (name -> kind) that the rules mean, as they run; InputError for a rule that means none."""
    for rule in rules:
        if not any(rule.matches(name, kind) for name, kind in operators.items()):
            near = difflib.get_close_matches(rule.name.strip("*"), operators, n=1, cutoff=0.3)
            kinds = ", ".join(sorted(set(operators.values())))
            raise InputError(
                f"no operator is a {rule.operator} called {rule.name}",
                hint=f"kinds: {kinds}" + (f"; a name: {near[0]}" if near else ""),
            )
    return tuple(
        name for name, kind in operators.items() if any(rule.matches(name, kind) for rule in rules)
    )  # fmt: skip


def recipe_text(names: Iterable[str], operators: Mapping[str, str]) -> str:
    """A recipe that means just these operators, one rule for each."""
    rules = (
        f"\n[[float]]\noperator = {_quoted(operators[name])}\nname = {_quoted(glob.escape(name))}\n" for name in names
    )
    return f"# operators that stay float; the others are int8\nschema = {SCHEMA}\n" + "".join(rules)


def _quoted(text: str) -> str:
    """A basic string of TOML: JSON's, but for characters beyond 16 bits and DEL (https://toml.io/en/v1.0.0#string)."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
