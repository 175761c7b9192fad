"""A second opinion: LiteRT's plain C++ kernels, in a child process, because they abort where XNNPACK does not."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import NoReturn

import numpy as np

from edgekit import preprocess
from edgekit.convert.child import run_child, run_to_end
from edgekit.convert.quality import answers
from edgekit.errors import ConversionError, EdgekitError
from edgekit.runner.interpreter import open_interpreter
from edgekit.runner.model import Model, describe_variant


def reference_answers(path: Path, model: Model, inputs: Mapping[str, np.ndarray], folder: Path) -> list[np.ndarray]:
    """What the reference kernels answer with the file in `path` to raw inputs, in the tensors' own units.

    ConversionError if they do not run it.
    """
    specs = {name: preprocess.spec_fields(spec) for name, spec in model.specs.items()}
    (folder / "job.json").write_text(json.dumps({"model": str(path.absolute()), "specs": specs}), "utf-8")
    np.savez(folder / "inputs.npz", **inputs)  # type: ignore[arg-type]  # numpy's stub takes the names for options
    run_child(
        "edgekit.convert.reference_child",
        [str(folder)],
        folder,
        timeout_s=600,
        who="the reference interpreter",
        doing="answering",
        hint="",
    )
    with np.load(folder / "answers.npz") as arrays:
        return [arrays[name] for name in arrays.files]


def main(folder: Path) -> NoReturn:
    """Answers what lies in `folder`."""
    run_to_end(folder, lambda: _answer(folder))


def _answer(folder: Path) -> dict[str, str]:
    job = json.loads((folder / "job.json").read_text("utf-8"))
    specs = {name: preprocess.parse_spec(fields) for name, fields in job["specs"].items()}
    try:
        interpreter = open_interpreter(job["model"], threads=1, reference=True)
        model = Model(describe_variant(interpreter, "", quantization=""), [interpreter], specs)
        with np.load(folder / "inputs.npz") as arrays:
            found = answers(model, dict(arrays), raw_out=True)
    except EdgekitError as error:
        raise ConversionError(str(error), hint=error.hint) from error
    np.savez(folder / "answers.npz", *found)
    return {}


if __name__ == "__main__":
    main(Path(sys.argv[1]))
