"""Exception groups at our boundary."""

from __future__ import annotations

from typing import cast


def collapse(error: BaseException) -> BaseException:
    """Unwrap exception groups of one member."""
    group: object = error
    if isinstance(group, BaseExceptionGroup):
        members = cast("BaseExceptionGroup[BaseException]", group).exceptions
        if len(members) == 1:
            return collapse(members[0])
    return error
