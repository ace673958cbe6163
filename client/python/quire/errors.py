"""Exceptions, one per status code of base/status.h."""

from __future__ import annotations

from . import _abi


class QuireError(Exception):
    """A call failed. ``code`` is the stable number, ``name`` its name (``"NOT_FOUND"``)."""

    code: int = 16

    def __init__(self, message: str, code: int | None = None, retry_after_ms: int = 0) -> None:
        super().__init__(message)
        if code is not None:
            self.code = code
        self.retry_after_ms = retry_after_ms

    @property
    def name(self) -> str:
        return str(_abi.lib.quire_status_name(self.code).decode())

    def __str__(self) -> str:
        return f"{self.name}: {super().__str__()}"


class InvalidArgument(QuireError, ValueError):
    """The caller's input is wrong; the same call cannot succeed."""

    code = 1


class NotFound(QuireError, KeyError):
    """A miss."""

    code = 2


class AlreadyExists(QuireError):
    """Somebody stored this id first."""

    code = 3


class Busy(QuireError):
    """No room right now; try again after ``retry_after_ms``."""

    code = 4


class DeadlineExceeded(QuireError, TimeoutError):
    """The call ran out of time."""

    code = 5


class Cancelled(QuireError):
    """The call was stopped."""

    code = 6


class Corrupt(QuireError):
    """A checksum, magic or length does not hold."""

    code = 7


class IoError(QuireError):
    """The operating system failed the server or the client."""

    code = 8


class NoSpace(QuireError):
    """The device is full."""

    code = 9


class Unsupported(QuireError):
    """A valid request for something this build or model cannot do."""

    code = 10


class ModelMismatch(QuireError):
    """KV of another model."""

    code = 11


class StaleLease(QuireError):
    """The lease has expired or was released; what was read under it must be thrown away."""

    code = 12


class Unavailable(QuireError, ConnectionError):
    """The server is not there (any more): connect again."""

    code = 13


class PermissionDenied(QuireError):
    """Not allowed for this tenant or user."""

    code = 14


class ResourceExhausted(QuireError):
    """A named limit is reached."""

    code = 15


class Internal(QuireError):
    """A defect of Quire."""

    code = 16


class VersionMismatch(QuireError):
    """Server and library speak different versions."""

    code = 17


class NonFinite(QuireError):
    """NaN or infinity in a payload."""

    code = 18


class FailedPrecondition(QuireError):
    """The call does not fit the state of what it was made on."""

    code = 19


_BY_CODE: dict[int, type[QuireError]] = {kind.code: kind for kind in QuireError.__subclasses__()}


def error_of(code: int, message: str = "", retry_after_ms: int = 0) -> QuireError:
    """The exception for a status number."""
    kind = _BY_CODE.get(code, QuireError)
    return kind(message, code, retry_after_ms)


def check(code: int) -> None:
    """Raises for every status but OK, with the library's message of this thread."""
    if code != 0:
        message = _abi.lib.quire_last_error().decode(errors="replace")
        raise error_of(code, message, _abi.lib.quire_last_retry_after_ms())
