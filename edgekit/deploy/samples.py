"""Fetches the raw inputs that a device's runner recorded; what comes back is not trusted, and not looked into here."""

from __future__ import annotations

import base64
import shutil
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from edgekit.deploy.address import Address
from edgekit.deploy.install import Progress
from edgekit.deploy.recorded import LARGEST
from edgekit.deploy.session import Session, open_session, refuse_host_key
from edgekit.deploy.transport import AskHostKey
from edgekit.errors import DeviceError, InputError

MOST = 5000  # samples
MOST_BYTES = 256 << 20  # of all of them


@dataclass(frozen=True)
class Fetched:
    """What came from the device."""

    device: str
    folder: str
    count: int
    bytes: int
    left_there: int  # older ones, beyond what one fetch takes


def fetch_samples(
    address: Address,
    folder: Path,
    *,
    python: str = "python3",
    ask: AskHostKey = refuse_host_key,
    progress: Progress = lambda stage, done, total: None,
) -> Fetched:
    """The newest samples that the device recorded, a .npz file each in `folder`, which is there whole or not at all.

    Raises InputError for a folder that holds something, DeviceError for a device that recorded nothing or sends more
    than it said. The content is the device's: read it as `edgekit.convert` does, which runs nothing that is in it.
    """
    if folder.is_file() or (folder.is_dir() and any(folder.iterdir())):
        raise InputError(f"{folder} is there already", hint="choose another folder for -o, or delete it")
    progress("connect", 0, 0)
    with open_session(address, python=python, ask=ask) as session:
        listed = _listed(session, address)
        chosen = _newest(listed)
        total = sum(size for _, size in chosen)
        with _whole(folder) as aside:
            count = done = 0
            for name, _ in chosen:
                progress("fetch", done, total)
                content = _content(session.request("sample", name=name), address)
                if content is not None:
                    (aside / f"{count:06d}.npz").write_bytes(content)  # our name, whatever the device calls it
                    count += 1
                    done += len(content)
            progress("fetch", total, total)
    return Fetched(str(address), str(folder), count, done, len(listed) - len(chosen))


@contextmanager
def _whole(folder: Path) -> Iterator[Path]:
    """A folder aside, which becomes `folder` at the end if nothing goes wrong until then."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        aside = Path(tempfile.mkdtemp(prefix=".tmp-samples-", dir=folder.parent))
        try:
            yield aside
            aside.chmod(0o755)
            aside.replace(folder)
        except BaseException:
            shutil.rmtree(aside, ignore_errors=True)
            raise
    except OSError as error:
        raise InputError(f"{folder} cannot be written: {error.strerror}", hint="choose another folder") from error


def _listed(session: Session, address: Address) -> list[tuple[str, int]]:
    """(name, bytes) of what is there, oldest first, as the device says."""
    found = session.request("samples").get("samples")
    try:
        listed = [(str(name), int(size)) for name, size in found]  # type: ignore[union-attr]
    except (TypeError, ValueError):
        raise _strange(address) from None
    if any(not 0 < size <= LARGEST for _, size in listed):
        raise _strange(address)
    if not listed:
        raise DeviceError(
            f"{address} has recorded no inputs", hint="on the device: ROOT/current/run infer --record INPUT..."
        )
    return listed


def _newest(listed: list[tuple[str, int]]) -> list[tuple[str, int]]:
    """As many of the last ones as one fetch takes, oldest first."""
    chosen, total = [], 0
    for name, size in reversed(listed[-MOST:]):
        total += size
        if total > MOST_BYTES:
            break
        chosen.append((name, size))
    return chosen[::-1]


def _content(answer: object, address: Address) -> bytes | None:
    """The bytes of a sample; None if it is gone meanwhile."""
    data = answer.get("data", "") if isinstance(answer, dict) else ""
    if data is None:
        return None
    try:
        unpack = zlib.decompressobj()
        content = unpack.decompress(base64.b64decode(data, validate=True), LARGEST + 1)
    except (TypeError, ValueError, zlib.error):
        raise _strange(address) from None
    if len(content) > LARGEST or not unpack.eof or not content:
        raise _strange(address)
    return content


def _strange(address: Address) -> DeviceError:
    return DeviceError(
        f"{address}: the samples that it sends are not ours", hint="is it the device that you deployed to?"
    )
