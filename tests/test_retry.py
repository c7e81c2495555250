import errno
import os

import pytest

from qsdt_jax import retry
from qsdt_jax.errors import CorruptRecord, UserError
from qsdt_jax.retry import content_of, error_code, may_pass, reason, retried

PASSING = [
    *(
        OSError(code, os.strerror(code))
        for code in (
            errno.ESTALE,
            errno.EIO,
            errno.ETIMEDOUT,
            errno.EAGAIN,
            errno.ENOMEM,
            errno.EACCES,
            errno.EMFILE,
            errno.ENETDOWN,
            errno.EHOSTDOWN,
            errno.EREMOTEIO,
            errno.ENOTCONN,
            errno.EINTR,
        )
    ),
    TimeoutError(),
    ConnectionResetError(),
    MemoryError(),
    ValueError("DATA_LOSS: Error reading \"x\" [os_error_code='116']"),
    RuntimeError("[Errno 5] Input/output error: 'x'"),
    OSError("Unable to open file (errno = 110, error message = 'Connection timed out')"),
    ExceptionGroup("several", [ValueError("of the format"), OSError(errno.ESTALE, "stale")]),
]
FINDINGS = [
    FileNotFoundError(errno.ENOENT, "none"),
    NotADirectoryError(errno.ENOTDIR, "none"),
    IsADirectoryError(errno.EISDIR, "a folder"),
    OSError(errno.ELOOP, "links in a circle"),
    OSError("image file is truncated (3 bytes not processed)"),
    ValueError("NOT_FOUND: [os_error_code='2']"),
    ValueError("no JSON"),
    KeyError("step"),
    UserError("x cannot be read: Input/output error"),
    CorruptRecord("x"),
]


@pytest.fixture
def waits(monkeypatch):
    """The seconds that were waited, instead of waiting."""
    waited = []
    monkeypatch.setattr(retry.time, "sleep", waited.append)
    return waited


def failing(error: Exception, times: int):
    """Reads 7, but only after failing some times; and how often it was called."""
    calls = []

    def read():
        calls.append(1)
        if len(calls) <= times:
            raise error
        return 7

    return read, calls


@pytest.mark.parametrize("error", PASSING, ids=repr)
def test_an_error_that_passes(error, waits, caplog):
    read, _ = failing(error, 2)
    assert retried(read, "the file") == 7
    assert waits == list(retry.WAITS[:2])
    lines = [record.getMessage() for record in caplog.records]
    assert lines == [
        f"the file cannot be read: {reason(error)}; trying again in {wait:g} s" for wait in retry.WAITS[:2]
    ]


@pytest.mark.parametrize("error", PASSING, ids=repr)
def test_an_error_that_stays(error, waits):
    read, calls = failing(error, 99)
    with pytest.raises(UserError) as raised:
        retried(read, "the file")
    assert str(raised.value).startswith(f"the file cannot be read: {reason(error)}; tried 4 times in ")
    assert "\n" not in str(raised.value) and raised.value.__cause__ is error
    assert len(calls) == 1 + len(retry.WAITS) and waits == sorted(waits)


@pytest.mark.parametrize("error", FINDINGS, ids=repr)
def test_a_finding_is_not_tried_again(error, waits):
    read, calls = failing(error, 99)
    with pytest.raises(type(error)) as raised:
        retried(read, "the file")
    assert raised.value is error and len(calls) == 1 and not waits


def test_a_finding_at_a_later_try(waits):
    answers = iter([OSError(errno.EIO, "broken"), KeyError("step")])

    def read():
        raise next(answers)

    with pytest.raises(KeyError):
        retried(read, "the file")


def test_other_errors_can_be_passing(waits):
    read, _ = failing(KeyError("step"), 1)
    assert retried(read, "x", passing=lambda error: isinstance(error, KeyError)) == 7
    read, _ = failing(OSError(errno.EIO, "broken"), 1)
    with pytest.raises(OSError, match="broken"):
        retried(read, "x", passing=lambda error: False)


def test_what_an_exception_came_from_counts():
    for code, passes in ((errno.ESTALE, True), (errno.ENOENT, False)):
        for suppressed in (True, False):
            try:
                try:
                    raise OSError(code, "x")
                except OSError as inner:
                    if suppressed:
                        raise ValueError("no format") from None
                    raise KeyError("no key") from inner
            except (KeyError, ValueError) as error:
                assert may_pass(error) is passes and error_code(error) == code
    # That a file is missing does not hide why it could not be looked for.
    both = ExceptionGroup("both", [FileNotFoundError(errno.ENOENT, "x"), OSError(errno.ESTALE, "y")])
    assert error_code(both) == errno.ESTALE
    assert error_code(ValueError("x")) is None


def test_a_device_that_cannot_be_read(tmp_path, waits):
    """The kernel itself answers EIO for what lies at address 0 of this process."""
    file = tmp_path / "file"
    file.symlink_to("/proc/self/mem")
    with pytest.raises(UserError, match=f"{file} cannot be read: Input/output error"):
        retried(file.read_bytes, file)
    assert len(waits) == len(retry.WAITS)


def test_the_content_of_a_file(tmp_path):
    (tmp_path / "file").write_bytes(b"\xff\n")
    assert content_of(tmp_path / "file") == content_of(str(tmp_path / "file")) == b"\xff\n"
    with pytest.raises(UserError, match=f"^{tmp_path}/none: no such file$"):
        content_of(tmp_path / "none")
    with pytest.raises(UserError, match=f"^{tmp_path}/none: no such file; expected names$"):
        content_of(tmp_path / "none", "names")
    with pytest.raises(UserError, match=f"^{tmp_path} cannot be read: Is a directory$"):
        content_of(tmp_path)


def test_reasons_are_short_and_in_one_line():
    long = ValueError("first\nsecond " + "x " * 200 + "the end [tensorstore_spec={...}]")
    assert reason(long).startswith("ValueError: ...") and reason(long).endswith("the end")
    assert len(reason(long)) < 200 and "\n" not in reason(long)
    assert reason(TimeoutError()) == "TimeoutError"
