"""What a worker and the process of a handler say to each other."""

from __future__ import annotations

import pytest

from workerctx.errors import Abort, HandlerFailed, RetryAfter, RunCancelled, Snooze, Throttled, UndecodablePayload
from workerctx.queue import CancelReason
from workerctx.service.describe import describe
from workerctx.service.wire import Cancel, Failed, decode_answer, decode_command, encode


def there_and_back(error: Exception) -> Exception:
    answer = decode_answer(encode(Failed.of(error)))
    assert isinstance(answer, Failed)
    return answer.exception()


@pytest.mark.parametrize(
    "error",
    [
        Abort("never again"),
        UndecodablePayload("it does not fit"),
        RetryAfter(3, "busy"),
        Snooze(2.5),
        Throttled(4, "github"),
        Throttled(4),
        RunCancelled("user"),
    ],
)
def test_verdicts_mean_the_same_on_the_other_side(error):
    """Q4: class, message and what it carries."""
    back = there_and_back(error)
    assert type(back) is type(error)
    assert str(back) == str(error)
    assert vars(back) == vars(error)


def test_a_subclass_of_a_verdict_is_that_verdict():
    """Its own name is in the cause."""

    class TooOld(Abort): ...

    back = there_and_back(TooOld("1999"))
    assert type(back) is Abort
    assert "TooOld: 1999" in str(back.__cause__)


def test_another_exception_is_stored_as_if_it_was_raised_here():
    """Class, message and traceback are those of the process."""
    try:
        raise KeyError("width")
    except KeyError as exc:
        error = exc
    back = there_and_back(error)
    assert isinstance(back, HandlerFailed)
    assert describe(back) == describe(error)
    assert "test_process_wire" in "".join(back.__notes__)


def test_a_reason_to_cancel_passes():
    """W7: every reason has a word."""
    for reason in CancelReason:
        assert decode_command(encode(Cancel(reason))) == Cancel(reason)
