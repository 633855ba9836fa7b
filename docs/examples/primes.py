"""Count primes in processes: ``workerctx worker primes:jobs``."""

from __future__ import annotations

from workerctx import JobRegistry, ProcessCtx

jobs = JobRegistry("sqlite:///primes.db")


@jobs.register(executor="process", timeout=60)
def count_primes(ctx: ProcessCtx, below: int) -> int:
    """Count them by trial division, which is as much work as anybody could wish for."""
    found = 0
    for number in range(2, below):
        if number % 1000 == 0:
            ctx.progress(number, below)
            ctx.cancel.check()
        found += all(number % divisor for divisor in range(2, int(number**0.5) + 1))
    return found
