"""Everything edgekit raises on purpose: what is wrong, what to do next, and an exit code by kind.

    EdgekitError              1  something else went wrong
    ├── MissingLibrary        1  an optional library is not installed (or is broken)
    ├── InputError            2  a file or an option that a person gave cannot be used
    │   ├── NotAModel            the file is not a model that edgekit reads
    │   ├── SamplesError         samples of the wrong shape, dtype or count, or not finite
    │   ├── PreprocessError      a preprocessing spec, or an input that does not fit it
    │   └── UnknownTarget        no target file of that name
    ├── BundleError           3  a bundle is damaged or incomplete
    │   ├── UnknownBundleFormat  it was written by another version of edgekit
    │   └── NotTrusted           not signed by an enrolled key, changed since, or older than what was there
    ├── DeviceError           4  a device said no; it is as it was before
    │   ├── DeviceUnreachable    no connection, or it broke
    │   ├── HostKeyUnknown       nobody has vouched for this host key yet
    │   ├── HostKeyChanged       the host key is not the one we know
    │   ├── DeviceRefused        authentication or file permissions
    │   ├── DeviceUnsupported    its Python, libc or processor has no runtime
    │   ├── DeviceFull           not enough space
    │   ├── DeviceBusy           another deployment holds the lock
    │   ├── DeviceDamaged        what it stores is not what was sent
    │   ├── DelegateUnavailable  no unit that may run the model can
    │   └── NotInstalled         there is no release to show, run or go back to
    ├── ReleaseUnhealthy      5  installed, checked, found wrong, not kept in use
    │   ├── TrialOver            it was in use on trial, was not confirmed in time, and is not in use any more
    │   └── GoldenMismatch       its answers are not the golden answers
    └── ConversionError       6  the model could not be converted to what was asked for
        └── QualityLost          it could, but int8 is worse than float by more than was allowed

Standard library only: this file also runs on the device (Python >= 3.9).
"""

from __future__ import annotations


class EdgekitError(Exception):
    """Something is wrong with the world, not with edgekit; `hint` says what to do next."""

    exit_code = 1

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


class MissingLibrary(EdgekitError):
    """An optional library is not installed, or does not fit the others."""


class InputError(EdgekitError):
    """A file or an option that a person gave cannot be used."""

    exit_code = 2


class NotAModel(InputError):
    """The file is not a model that edgekit reads."""


class SamplesError(InputError):
    """Samples of the wrong shape, dtype or count, or not finite."""


class PreprocessError(InputError):
    """A preprocessing spec that makes no sense, or an input that does not fit it."""


class UnknownTarget(InputError):
    """No target file of that name."""


class BundleError(EdgekitError):
    """A bundle is damaged or incomplete."""

    exit_code = 3


class UnknownBundleFormat(BundleError):
    """The bundle was written by another version of edgekit."""


class NotTrusted(BundleError):
    """No key that counts has signed this, or it was changed since, or replayed; nothing was done with it."""


class DeviceError(EdgekitError):
    """A device said no; it is as it was before."""

    exit_code = 4


class DeviceUnreachable(DeviceError):
    """No connection, or it broke."""


class HostKeyUnknown(DeviceError):
    """Nobody has vouched for this host key yet."""


class HostKeyChanged(DeviceError):
    """The host key is not the one we know."""


class DeviceRefused(DeviceError):
    """Authentication failed, or file permissions forbid it."""


class DeviceUnsupported(DeviceError):
    """The device's Python, libc or processor has no runtime."""


class DeviceFull(DeviceError):
    """Not enough space on the device."""


class DeviceBusy(DeviceError):
    """Another deployment holds the device's lock."""


class DeviceDamaged(DeviceError):
    """What the device stores is not what was sent."""


class DelegateUnavailable(DeviceError):
    """No unit that may run the model can."""


class NotInstalled(DeviceError):
    """There is no release to show, run or go back to."""


class ReleaseUnhealthy(EdgekitError):
    """The release was installed, checked, found wrong, and not kept in use."""

    exit_code = 5


class TrialOver(ReleaseUnhealthy):
    """It was in use on trial, was not confirmed in time, and is not in use any more."""


class GoldenMismatch(ReleaseUnhealthy):
    """The answers are not the golden answers."""


class ConversionError(EdgekitError):
    """The model could not be converted to what was asked for."""

    exit_code = 6


class QualityLost(ConversionError):
    """int8 is worse than the float model by more than was allowed; nothing was written."""


def first_line(error: BaseException | None, most: int = 200) -> str:
    """What an exception of somebody's library says, for the middle of a message: libraries print pages."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__)[:most]


def summary(error: BaseException | None) -> str:
    """`ValueError: what it says`, in one line: the one that has the error in it, where a compiler prints many."""
    lines = [line.strip() for line in str(error).splitlines() if "error:" in line]
    return f"{type(error).__name__}: {lines[0][:300] if lines else first_line(error, 300)}"
