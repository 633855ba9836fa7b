"""A handler's signature: what the worker fills, what the job carries, what is injected. Read once, at decoration."""

from __future__ import annotations

import inspect
import typing
from typing import TYPE_CHECKING, Annotated, Any, Final, TypeVar, get_args, get_origin

from attrs import frozen

from workerctx.errors import InvalidHandler
from workerctx.lifecycle import WorkerContext
from workerctx.service.extract import Plan, compile_plan
from workerctx.service.inject import INJECTED, source_of
from workerctx.service.jobctx import JobCtx
from workerctx.service.payload import Payload, Result
from workerctx.service.processctx import ProcessCtx
from workerctx.service.reading import is_async, read_signature
from workerctx.service.target import Target

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from workerctx.service.reading import Scope

_BOTH: Final = (JobCtx, WorkerContext)
_CONTEXTS: Final = (*_BOTH, ProcessCtx)


@frozen(eq=False)
class Contract:
    """What a handler's signature says.

    Attributes:
        function: The handler itself.
        name: Its qualified name, for messages.
        contexts: Its leading parameters: none, ``JobCtx``, ``WorkerContext``, or both in this order; in a process of
            its own, none or ``ProcessCtx``.
        payload: The arguments that come with the job.
        plan: How the injected parameters are filled; None if there are none.
        result: What it returns.
        is_async: Whether it runs on the event loop; otherwise in a thread, or in a process of its own.
        target: Where its process finds it, if it has one.
    """

    function: Callable[..., Any]
    name: str
    contexts: tuple[type[Any], ...]
    payload: Payload
    plan: Plan | None
    result: Result
    is_async: bool
    target: Target | None = None

    @classmethod
    def of(cls, function: Callable[..., Any], scope: Scope = None, *, in_process: bool = False) -> Contract:
        """Read the signature of a handler.

        Args:
            function: The handler.
            scope: Local names around it, if it was defined inside a function.
            in_process: Whether it runs in a process of its own.

        Raises:
            InvalidHandler: It is no signature for a handler; the message says what to write instead.
        """
        name = getattr(function, "__qualname__", repr(function))
        _refuse_shape(function, name)
        signature = read_signature(function, name, scope)
        parameters = list(signature.parameters.values())
        contexts = _leading(parameters)
        carried: list[inspect.Parameter] = []
        to_inject: dict[str, Any] = {}
        for index, parameter in enumerate(parameters[len(contexts) :]):
            if _is_injected(name, parameter):
                to_inject[parameter.name] = parameter.annotation
            else:
                _refuse_parameter(name, parameter, first=index == 0 and not contexts)
                carried.append(parameter)
        if in_process:
            _refuse_process(function, name, contexts, to_inject)
        elif ProcessCtx in contexts:
            raise InvalidHandler(
                f'{name} begins with a ProcessCtx, so it needs @jobs.register(executor="process"); elsewhere a '
                "handler begins with a JobCtx"
            )
        return cls(
            function=function,
            name=name,
            contexts=contexts,
            payload=Payload.of(name, carried),
            plan=compile_plan(name, to_inject, scope),
            result=Result.of(signature.return_annotation),
            is_async=is_async(function),
            target=Target.of(function) if in_process else None,
        )


def _leading(parameters: Sequence[inspect.Parameter]) -> tuple[type[Any], ...]:
    hints = [
        _bare(each.annotation)
        for each in parameters[:2]
        if each.kind in {each.POSITIONAL_ONLY, each.POSITIONAL_OR_KEYWORD}
    ]
    if hints == list(_BOTH):
        return _BOTH
    return (hints[0],) if hints and hints[0] in _CONTEXTS else ()


def _bare(hint: Any) -> Any:
    return get_args(hint)[0] if get_origin(hint) is Annotated else hint


def _refuse_shape(function: Callable[..., Any], name: str) -> None:
    outer = getattr(function, "__qualname__", "").rpartition(".")[0]
    if inspect.ismethod(function) or isinstance(function, (staticmethod, classmethod)) or _is_class(outer):
        raise InvalidHandler(
            f"{name} is a method, and a job carries no object to call it on: register a function, "
            "and have what it needs injected"
        )
    if isinstance(function, type) or not callable(function):
        raise InvalidHandler(f"{name} is not a function: a handler is an async or a sync function")
    if inspect.isasyncgenfunction(function) or inspect.isgeneratorfunction(function):
        raise InvalidHandler(f"{name} is a generator: a handler returns its result; it does not yield")


def _refuse_process(
    function: Callable[..., Any], name: str, contexts: tuple[type[Any], ...], to_inject: Mapping[str, Any]
) -> None:
    if is_async(function):
        raise InvalidHandler(
            f'{name} is async, and executor="process" is for functions that compute: make it a sync function, '
            "or leave the executor out"
        )
    if contexts not in {(), (ProcessCtx,)}:
        raise InvalidHandler(
            f"{name} begins with a {contexts[0].__name__}, which cannot leave the worker: with "
            'executor="process", begin with a ProcessCtx, which has progress, heartbeat and cancel'
        )
    if to_inject:
        raise InvalidHandler(
            f"{name}({', '.join(to_inject)}) is injected, and nothing that is injected can leave the worker: with "
            'executor="process", have the job carry plain data and open the rest in the function'
        )


def _is_class(outer: str) -> bool:
    return bool(outer) and not outer.endswith("<locals>")


def _is_injected(name: str, parameter: inspect.Parameter) -> bool:
    asked = parameter.default is INJECTED
    if asked and parameter.kind is not parameter.KEYWORD_ONLY:
        raise InvalidHandler(f"{name}({parameter.name}) is injected, so make it keyword-only: put `*` before it")
    if not asked and source_of(parameter.annotation) is not None:
        raise InvalidHandler(f"{name}({parameter.name}) says where it comes from, so give it the default `injected()`")
    return asked


def _refuse_parameter(name: str, parameter: inspect.Parameter, *, first: bool) -> None:
    hint = parameter.annotation
    if parameter.kind in {parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD}:
        raise InvalidHandler(f"{name}({parameter}) cannot be stored by name: list the job's arguments one by one")
    if hint in _BOTH:
        raise InvalidHandler(
            f"{name}({parameter.name}) is a {hint.__name__} in the wrong place: the order is JobCtx, WorkerContext, "
            "then the job's arguments; elsewhere make it keyword-only with the default `injected()`"
        )
    if hint is ProcessCtx:
        raise InvalidHandler(f"{name}({parameter.name}) is a ProcessCtx in the wrong place: it comes first, and alone")
    if first and parameter.kind is not parameter.KEYWORD_ONLY and _accepts_context(hint):
        shown = "unannotated" if hint is parameter.empty else inspect.formatannotation(hint)
        raise InvalidHandler(
            f"the first parameter of {name}, {parameter.name!r}, is {shown}, so nobody can tell a context from an "
            f"argument: annotate it, `{parameter.name}: JobCtx` for the job's context or "
            f"`{parameter.name}: str` (for example) for an argument"
        )


def _accepts_context(hint: Any) -> bool:
    """Tell whether a type checker would pass a `JobCtx` or `WorkerContext` to a parameter."""
    if hint in {inspect.Parameter.empty, Any, object} or isinstance(hint, TypeVar):
        return True
    origin = get_origin(hint)
    if origin is typing.Annotated:
        return _accepts_context(get_args(hint)[0])
    if origin is typing.Union or type(hint).__name__ == "UnionType":
        return any(option in _CONTEXTS or _accepts_context(option) for option in get_args(hint))
    return False
