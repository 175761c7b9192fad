"""What a SavedModel holds, looked at before TensorFlow loads it; imported only by the child process."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from edgekit.convert.samples_tfrecord import wire_fields
from edgekit.errors import NotAModel

SERVING = "serving_default"
_COPY = "was it copied completely?"
# Operators that leave the graph: Python, files, the network. SaveV2 and RestoreV2 are in every SavedModel.
_LEAVES_GRAPH = re.compile(
    r"(EagerPyFunc|PyFunc(Stateless)?"
    r"|ReadFile|WriteFile|MatchingFiles|Save|SaveSlices|Restore|RestoreSlice|DistributedSave|DumpTensor"
    r"|RecordInput|LoadAndRemapMatrix|GenerateVocabRemapping|CalibrationStatisticsSaver|FileSystemSetConfiguration"
    r"|InitializeTableFromTextFile(V2)?|CreateSummary(File|Db)Writer|(TextLine|TFRecord|WholeFile|LMDB|FixedLengthRecord)Reader(V2)?"
    r"|(Experimental)?(TFRecord|TextLine|FixedLengthRecord|CSV|Sql|LMDB|MatchingFiles|Load|Save|Generator|Snapshot\w*)Dataset(V2)?"
    r"|Snapshot\w*Reader|(Experimental)?DatasetToTFRecord|Debug(Identity|NanCount|NumericSummary)(V[23])?|Rpc\w+|RegisterDataset(V2)?)"
)


def check_folder(path: Path) -> None:
    """NotAModel for a SavedModel that cannot be one: cut off, or with something in it that is no file."""
    for part in sorted(path.rglob("*")):
        if not (part.is_file() or part.is_dir()):  # a pipe or a device would be waited for; a dangling link is missing
            raise NotAModel(f"{part.relative_to(path)} in it is not a file", hint=_COPY)
    content = (path / "saved_model.pb").read_bytes()
    try:
        fields = [number for number, _ in wire_fields(content)]
    except ValueError as error:
        raise NotAModel("saved_model.pb is damaged or cut off", hint=_COPY) from error
    if 2 not in fields:  # SavedModel.meta_graphs, tensorflow/core/protobuf/saved_model.proto
        raise NotAModel("saved_model.pb holds no graph", hint=_COPY)


def fill(model: Any, path: Path) -> None:
    """Parses the file into `model`, an empty SavedModel of TensorFlow's protocol buffers. NotAModel if it is damaged."""
    try:
        model.ParseFromString((path / "saved_model.pb").read_bytes())
    except Exception as error:  # protobuf's DecodeError
        raise NotAModel(f"saved_model.pb is damaged: {error}", hint=_COPY) from error


def choose_signature(model: Any, wanted: str | None) -> str:
    """The name of the signature to convert: `wanted`, else the one for serving, else the only one.

    Raises NotAModel, with all of them and their inputs, where that is none.
    """
    found = {
        name: sorted(signature.inputs)
        for graph in model.meta_graphs
        for name, signature in graph.signature_def.items()
        if not name.startswith("__saved_model_")  # what is run while it is loaded
    }
    if wanted is None and SERVING in found:
        return SERVING
    if wanted is None and len(found) == 1:
        return str(next(iter(found)))
    if wanted is not None and wanted in found:
        return wanted
    if not found:
        raise NotAModel(
            "it has no signatures: nothing says what to call",
            hint="save it with model.export('folder'), or tf.saved_model.save(..., signatures=function)",
        )
    told = ", ".join(f"{name} ({', '.join(inputs) or 'no inputs'})" for name, inputs in sorted(found.items()))
    begins = "it has several signatures" if wanted is None else f"it has no signature {wanted!r}, only"
    raise NotAModel(f"{begins}: {told}", hint="name one: --signature NAME")


def check_operators(model: Any, signature: str, *, trust: bool) -> None:
    """NotAModel if what runs, while it is loaded or called, reaches beyond the graph.

    `trust` allows files and the network, not Python functions: these are not in the file.
    """
    found = {op for graph in model.meta_graphs for op in _operators(graph, signature) if _LEAVES_GRAPH.fullmatch(op)}
    if any("PyFunc" in name for name in found):
        raise NotAModel(
            "it calls Python functions (tf.py_function) that are not in the file",
            hint="write them with TensorFlow's own operators and save it again",
        )
    if found and not trust:
        raise NotAModel(
            f"its graph reads or writes files, or the network: {', '.join(sorted(found))}",
            hint="save it without them; --trust runs them: only if you know who made it",
        )


def _operators(graph: Any, signature: str) -> set[str]:
    """The operators of the functions that run, and of those that these call; of TensorFlow 1's graphs of the whole graph."""
    functions = {function.signature.name: function.node_def for function in graph.graph_def.library.function}
    left = _called_first(graph.object_graph_def.nodes, signature)
    found, seen = set(), set()
    if left is None:
        found, left = {node.op for node in graph.graph_def.node}, list(functions)
    while left:
        name = left.pop()
        if name in seen:
            continue
        seen.add(name)
        for node in functions.get(name, ()):
            found.add(node.op)
            for value in node.attr.values():
                left += [called.name for called in (value.func, *value.list.func) if called.name]
            if node.op in functions:  # a call written as an operator
                left.append(node.op)
    return found


def _called_first(nodes: Any, signature: str) -> list[str] | None:
    """The functions that TensorFlow calls: the signature's, and those that make, fill and end what a model keeps.

    None if that cannot be told.
    """
    numbers = []
    for node in nodes:
        children = {child.local_name: child.node_id for child in node.children}
        numbers += [children[name] for name in _WHILE_LOADED & children.keys()]
        numbers += [saved.restore_function for saved in node.saveable_objects.values()]
        if "signatures" in children:
            of_signatures = nodes[children["signatures"]].children
            numbers += [child.node_id for child in of_signatures if child.local_name == signature]
    found: list[str] = []
    for number in numbers:
        node = nodes[number]
        found += node.function.concrete_functions
        found += filter(None, [node.bare_concrete_function.concrete_function_name])
    return found or None


_WHILE_LOADED = {"_create_resource", "_initialize", "_destroy_resource", "_restore_from_tensors"}


def without_optimizers(path: Path, model: Any, folder: Path) -> Path:
    """A copy of the SavedModel without what an optimizer remembers: TensorFlow 2.21 cannot load that of older ones.

    It fails with `'_UserObject' object has no attribute 'add_slot'`. The variables are linked to, not copied.
    """
    for graph in model.meta_graphs:
        for node in graph.object_graph_def.nodes:
            del node.slot_variables[:]
    folder.mkdir()
    (folder / "saved_model.pb").write_bytes(model.SerializeToString())
    for part in ("variables", "assets"):
        if (path / part).is_dir():
            (folder / part).symlink_to((path / part).absolute(), target_is_directory=True)
    return folder
