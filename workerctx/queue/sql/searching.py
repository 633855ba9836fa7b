"""What claims look for in the tables, and what they find."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import attrs

from workerctx.queue.ids import new_id

if TYPE_CHECKING:
    from collections.abc import Sequence

    from workerctx.queue.finish import ClaimRequest
    from workerctx.queue.model import Claimed
    from workerctx.queue.sql.rows import JobRow
    from workerctx.queue.turns import Turns


@attrs.define(eq=False)
class Share:
    """What one of the claims that share a search gets.

    Attributes:
        request: The claim.
        room: How many jobs it can still take.
        claimed: What it got.
    """

    request: ClaimRequest
    room: int
    claimed: list[Claimed] = attrs.field(factory=list["Claimed"], init=False)


@attrs.define(eq=False)
class Search:
    """What is looked for.

    Attributes:
        lines: Numbers of the groups that fit, by queue in its order.
        turns: Whose turn it is.
        room: How many jobs of each limited kind may still be taken.
        shares: The claims that it is for, in the order in which they are served.
        claim_id: Part of the new leases' ids.
    """

    lines: dict[str, list[int]]
    turns: Turns
    room: dict[str, int]
    shares: Sequence[Share]
    claim_id: str = attrs.field(factory=new_id, init=False)

    @property
    def limit(self) -> int:
        """How many jobs are wanted."""
        return sum(share.room for share in self.shares)


class Taken(NamedTuple):
    """What was found.

    Attributes:
        rows: Jobs as they were leased, best first.
        unfit: Rows of jobs that stood in the way and may not run.
    """

    rows: Sequence[JobRow]
    unfit: Sequence[int]
