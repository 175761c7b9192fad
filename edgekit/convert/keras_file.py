"""What a .keras or .h5 file holds, looked at before anything in it is believed; imported only by the child process.

Keras has checks of its own (`safe_mode`). These come first, say which layer it is, and cost no import of TensorFlow.
"""

from __future__ import annotations

import io
import json
import stat
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

from edgekit.convert.damaged import ARCHIVE_ERRORS
from edgekit.errors import NotAModel, first_line

# Keras stores weights as they are. What unpacks to more than this, and to so many times its size, is a bomb.
ROOMY = 256 << 20
EXPANSION = 20
CONFIG_BYTES = 64 << 20  # of a configuration, at most: that of the largest Keras application has 0.5 MB
MEMBERS = 10_000  # files of an archive, or objects of an HDF5 file, at most
_AGAIN = "save it again with model.save()"


def read_configuration(path: Path) -> Any:
    """The configuration of the model, after archive and weights were found to be what they claim.

    Raises NotAModel for a file that is damaged, that would unpack to far more than it is, that reaches for other files,
    or that holds no model.
    """
    try:
        if path.suffix.lower() == ".keras":
            return _of_archive(path)
        import h5py

        with h5py.File(path, "r") as file:
            _check_hdf5(file, path.stat().st_size)
            if "model_config" not in file.attrs:
                raise NotAModel("it holds weights without a model", hint="save the whole model: model.save(...)")
            return json.loads(file.attrs["model_config"])
    except NotAModel:
        raise
    except ARCHIVE_ERRORS as error:
        raise NotAModel(f"it is damaged or not a Keras model ({first_line(error)})", hint=_AGAIN) from error


def _of_archive(path: Path) -> Any:
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        _check_members(members, path.stat().st_size)
        if archive.getinfo("config.json").file_size > CONFIG_BYTES:
            raise NotAModel("its configuration is larger than any model's", hint=_AGAIN)
        configuration = json.loads(archive.read("config.json"))
        for member in members:
            if member.filename.endswith(".h5"):
                import h5py

                content: BinaryIO = io.BytesIO(archive.read(member))
                with h5py.File(content, "r") as file:
                    _check_hdf5(file, member.file_size)
    return configuration


def _check_members(members: list[zipfile.ZipInfo], size: int) -> None:
    """NotAModel for an archive that no Keras wrote: a bomb, a trap, or damaged."""
    if len(members) > MEMBERS:
        raise NotAModel(f"it is an archive of {len(members)} files", hint=_AGAIN)
    names = [member.filename for member in members]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise NotAModel(f"it holds {twice!r} twice", hint=_AGAIN)
    for member in members:
        place = PurePosixPath(member.filename.replace("\\", "/"))
        if place.is_absolute() or ".." in place.parts or ":" in member.filename or "\0" in member.filename:
            raise NotAModel(f"it holds a file that wants to be elsewhere: {member.filename!r}", hint=_AGAIN)
        if stat.S_ISLNK(member.external_attr >> 16):
            raise NotAModel(f"it holds a link: {member.filename!r}", hint=_AGAIN)
    end = 0
    for member in sorted(members, key=lambda member: member.header_offset):
        if member.header_offset < end:
            raise NotAModel(f"it holds {member.filename!r} over another file", hint=_AGAIN)
        end = member.header_offset + 30 + len(member.orig_filename.encode()) + member.compress_size
    _check_size(sum(member.file_size for member in members), size)


def _check_hdf5(file: Any, size: int) -> None:
    """NotAModel for an HDF5 file with data elsewhere, or that claims far more than it stores."""
    import h5py

    claimed, seen, left = 0, set(), [file]
    while left:
        group = left.pop()
        for name in group:
            if not isinstance(group.get(name, getlink=True), h5py.HardLink):
                raise NotAModel(f"{name!r} in it is a link to elsewhere", hint=_AGAIN)
            found = group[name]
            address = h5py.h5o.get_info(found.id).addr
            if address in seen:
                continue
            seen.add(address)
            if len(seen) > MEMBERS:
                raise NotAModel(f"it holds more than {MEMBERS} arrays", hint=_AGAIN)
            if isinstance(found, h5py.Group):
                left.append(found)
            elif isinstance(found, h5py.Dataset):
                if found.external or found.is_virtual:
                    raise NotAModel(f"the data of {found.name!r} in it is in another file", hint=_AGAIN)
                claimed += found.nbytes
    _check_size(claimed, size)


def _check_size(claimed: int, size: int) -> None:
    if claimed > max(ROOMY, EXPANSION * size):
        raise NotAModel(
            f"it would unpack to {claimed / 2**20:,.0f} MiB, from {size / 2**20:.1f}",
            hint=f"{_AGAIN}, which does not compress",
        )


# --- code -----------------------------------------------------------------------------------------------------------


def check_code(configuration: Any, *, trust: bool, custom: Mapping[str, Any]) -> dict[str, Any]:
    """Those of `custom` (what --custom brought, by name) that the file needs, by the names that it has for them.

    NotAModel if loading would run code from the file, without `trust`, or needs classes that nobody has.
    """
    runs, needed, missing = [], {}, []
    for layer, name, is_code in _foreign(configuration, ""):
        if is_code:
            runs.append(f"layer {layer!r}" if layer else name)
        elif (plain := name if name in custom else name.rpartition(">")[2]) in custom:
            needed[name] = needed[plain] = custom[plain]
        else:
            missing.append(name)
    if runs and not trust:
        raise NotAModel(
            f"it carries code of its own, which is not run: {', '.join(dict.fromkeys(runs))}",
            hint="write a Lambda as a layer of keras.ops, or save a SavedModel with model.export('folder'), which holds "
            "the graph itself; --trust runs the code: only if you know who made the file",
        )
    if missing:
        raise NotAModel(
            f"it has custom layers whose code is not in the file: {', '.join(sorted(set(missing)))}",
            hint="give the file that defines them, which is run: --custom FILE.py; or save a SavedModel with "
            "model.export('folder') where the code is at hand",
        )
    return needed


# Classes of Keras that run what they find: marshalled code, a pickle, other files
_RUNS_CODE = {"Lambda", "TorchModuleWrapper", "TFSMLayer", "JaxLayer", "FlaxLayer"}


def _foreign(configuration: Any, layer: str) -> Iterator[tuple[str, str, bool]]:
    """(layer it is in, name, whether it is code in the file) of what Keras does not have, or should not load."""
    left = [(configuration, layer)]  # no recursion: a file may be nested as deeply as it likes
    while left:
        here, layer = left.pop()
        if isinstance(here, list):
            left += [(item, layer) for item in reversed(here)]
        if not isinstance(here, Mapping):
            continue
        name, module, inside = here.get("class_name"), here.get("module"), here.get("config")
        if isinstance(name, str) and "config" in here:
            if isinstance(inside, Mapping) and isinstance(inside.get("name"), str):
                layer = inside["name"]
            if name == "__lambda__" or (name in _RUNS_CODE and _has_code(name, inside)):
                yield layer, name, True
            elif name == "function":
                if not _is_function_of_keras(inside, module):
                    yield layer, str(inside), False
            elif name == "__typespec__" or (not name.startswith("__") and not _is_of_keras(name, module)):
                registered = here.get("registered_name")
                yield layer, registered if isinstance(registered, str) else name, False
        # losses and optimizers are not loaded, they may be anybody's
        left += [(value, layer) for key, value in reversed(list(here.items())) if key != "compile_config"]


def _has_code(name: str, inside: Any) -> bool:
    """Whether such a layer runs code of the file: a Lambda may also name a function of ours."""
    if name != "Lambda" or not isinstance(inside, Mapping):
        return True
    function = inside.get("function")
    named = isinstance(function, Mapping) and function.get("class_name") == "function"
    return not named and not (isinstance(function, str) and inside.get("function_type") == "function")


def _is_function_of_keras(name: Any, module: Any) -> bool:
    """Activations are what Keras's own layers name; the rest of its functions read files, for example."""
    import keras

    return module in ("builtins", "keras.activations") and isinstance(name, str) and hasattr(keras.activations, name)


def _is_of_keras(name: str, module: Any) -> bool:
    """Whether Keras has the class; .keras files say which module it is from, .h5 files do not."""
    import keras

    if isinstance(module, str) and module.startswith("keras.src."):
        return True  # Functional, and what else has no public place: Keras itself takes only its own saveable classes
    if isinstance(module, str) and module.split(".")[0] != "keras":
        return False
    places = [keras, keras.layers, keras.models, keras.initializers, keras.regularizers, keras.constraints]
    places += [keras.activations, keras.dtype_policies, keras.quantizers]
    return name in ("Functional", "Policy") or any(hasattr(place, name) for place in places)
