"""``@jobs.register``: the decorator that makes handlers of functions, typed for each of their shapes."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar, overload

from attrs import Factory, evolve, frozen

from workerctx.service.options import HandlerOptions, as_tuple

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence

    from workerctx.lifecycle import WorkerContext
    from workerctx.queue import RetryPolicy
    from workerctx.service.branch import Branch
    from workerctx.service.handler import FunctionHandler
    from workerctx.service.jobctx import JobCtx
    from workerctx.service.layers.base import Layer
    from workerctx.service.options import ConcurrencyKey, Executor, Seconds
    from workerctx.service.processctx import ProcessCtx

P = ParamSpec("P")
R = TypeVar("R")


@frozen(eq=False)
class Registration:
    """What ``jobs.register`` is: it makes handlers, by itself or after it was given options.

    The function may begin with a `JobCtx`, a `WorkerContext`, or both in this order (in a process of its own, with a
    `ProcessCtx`); then come the arguments that a job carries, and last the injected parameters, keyword-only.
    """

    _branch: Branch
    _options: HandlerOptions = Factory(HandlerOptions)
    _name: str | None = None
    _aliases: tuple[str, ...] = ()

    @overload
    def __call__(
        self, function: Callable[Concatenate[JobCtx, WorkerContext, P], Awaitable[R]], /
    ) -> FunctionHandler[Concatenate[JobCtx, WorkerContext, P], Awaitable[R], P, R]: ...
    @overload
    def __call__(
        self, function: Callable[Concatenate[JobCtx, P], Awaitable[R]], /
    ) -> FunctionHandler[Concatenate[JobCtx, P], Awaitable[R], P, R]: ...
    @overload
    def __call__(
        self, function: Callable[Concatenate[WorkerContext, P], Awaitable[R]], /
    ) -> FunctionHandler[Concatenate[WorkerContext, P], Awaitable[R], P, R]: ...
    @overload
    def __call__(self, function: Callable[P, Awaitable[R]], /) -> FunctionHandler[P, Awaitable[R], P, R]: ...
    @overload
    def __call__(
        self, function: Callable[Concatenate[JobCtx, WorkerContext, P], R], /
    ) -> FunctionHandler[Concatenate[JobCtx, WorkerContext, P], R, P, R]: ...
    @overload
    def __call__(
        self, function: Callable[Concatenate[JobCtx, P], R], /
    ) -> FunctionHandler[Concatenate[JobCtx, P], R, P, R]: ...
    @overload
    def __call__(
        self, function: Callable[Concatenate[WorkerContext, P], R], /
    ) -> FunctionHandler[Concatenate[WorkerContext, P], R, P, R]: ...
    @overload
    def __call__(
        self, function: Callable[Concatenate[ProcessCtx, P], R], /
    ) -> FunctionHandler[Concatenate[ProcessCtx, P], R, P, R]: ...
    @overload
    def __call__(self, function: Callable[P, R], /) -> FunctionHandler[P, R, P, R]: ...
    @overload
    def __call__(
        self,
        /,
        *,
        name: str | None = None,
        aliases: Iterable[str] = (),
        queue: str | None = None,
        priority: int = 0,
        max_attempts: int = 5,
        timeout: Seconds | None = None,
        retry: RetryPolicy | None = None,
        required_labels: Iterable[str] = (),
        layers: Sequence[Layer] = (),
        executor: Executor = None,
        concurrency: int | None = None,
        concurrency_key: ConcurrencyKey = None,
    ) -> Registration: ...
    def __call__(
        self,
        function: Callable[..., Any] | None = None,
        /,
        *,
        name: str | None = None,
        aliases: Iterable[str] = (),
        **options: Any,
    ) -> Any:
        """Make a handler of a function, or take options and return the decorator that does.

        Args:
            function: An async function, or a sync one, which runs in a thread or, with ``executor="process"``, in a
                process of its own.
            name: Its kind, stable over renames; None takes the function's ``__qualname__``.
            aliases: Former kinds, whose stored jobs it still runs.
            options: The fields of `HandlerOptions`: queue, priority, max_attempts, timeout, retry, required_labels,
                layers, executor, concurrency, concurrency_key.

        Raises:
            InvalidHandler: The function cannot be a handler, or its kind is taken.
            InvalidRequest: An option is out of range.
        """
        if function is None:
            return evolve(self, options=HandlerOptions(**options), name=name, aliases=as_tuple(aliases))
        return self._branch.add(function, self._options, self._name, self._aliases, _names_around(function))


def _names_around(function: Callable[..., Any]) -> Mapping[str, Any] | None:
    """Return the local names where a nested function is decorated; its annotations may refer to them."""
    frame = inspect.currentframe()
    caller = frame and frame.f_back and frame.f_back.f_back
    if caller is None or "<locals>" not in getattr(function, "__qualname__", ""):
        return None
    return caller.f_locals
