"""What fills the injected parameters of a function: compiled once from its annotations into a plan of calls."""

from __future__ import annotations

import inspect
from contextlib import AbstractAsyncContextManager, AbstractContextManager, AsyncExitStack
from enum import Enum, auto
from typing import TYPE_CHECKING, Annotated, Any, cast, get_args, get_origin

from attrs import Factory, define, frozen

from workerctx.errors import InvalidHandler
from workerctx.service.inject import INJECTED, From, Provider, source_of
from workerctx.service.reading import is_async, read_signature
from workerctx.service.request import Request

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from workerctx.service.reading import Scope


class _Mode(Enum):
    VALUE = auto()
    AWAIT = auto()
    ENTER = auto()
    ENTER_SYNC = auto()


@frozen(eq=False)
class _Step:
    """One call; its arguments are the results of earlier steps, by index. Index 0 is the request."""

    call: Callable[..., Any]
    mode: _Mode
    positional: tuple[int, ...] = (0,)
    named: tuple[tuple[str, int], ...] = ()


@frozen(eq=False)
class Plan:
    """How the injected parameters of one function are filled; compiled, so that a request costs calls only."""

    _steps: tuple[_Step, ...]
    _outputs: tuple[tuple[str, int], ...]
    opens: bool
    """Whether a step enters a context manager, so that `fill` needs a stack."""

    @property
    def names(self) -> frozenset[str]:
        """The parameters that the plan fills."""
        return frozenset(name for name, _ in self._outputs)

    async def fill(self, request: Request, stack: AsyncExitStack | None = None) -> dict[str, Any]:
        """Return the injected arguments for one request.

        Args:
            request: What to read from.
            stack: Where context managers are entered; needed if the plan `opens` any.

        Raises:
            MissingData: The request lacks a value; providers raise what they like.

        Cancellation: what was entered is on the stack, and nothing else is held.
        """
        values: list[Any] = [request]
        for step in self._steps:
            positional = [values[index] for index in step.positional]
            value = step.call(*positional, **{name: values[index] for name, index in step.named})
            if step.mode is _Mode.AWAIT:
                value = await value
            elif step.mode is _Mode.ENTER:
                assert stack is not None
                value = await stack.enter_async_context(value)
            elif step.mode is _Mode.ENTER_SYNC:
                assert stack is not None
                value = stack.enter_context(value)
            values.append(value)
        return {name: values[index] for name, index in self._outputs}


def compile_plan(where: str, parameters: Mapping[str, Any], scope: Scope = None) -> Plan | None:
    """Compile the plan that fills some parameters.

    Args:
        where: Whose parameters they are, for messages.
        parameters: Annotation of each injected parameter, by name.
        scope: Local names that providers defined inside a function may refer to.

    Returns:
        None if there is nothing to fill.

    Raises:
        InvalidHandler: An annotation does not say where its value comes from, or providers need each other.
    """
    if not parameters:
        return None
    compiler = _Compiler(scope)
    outputs = tuple((name, compiler.source(f"{where}({name})", hint)) for name, hint in parameters.items())
    steps = tuple(compiler.steps)
    return Plan(steps, outputs, any(step.mode in {_Mode.ENTER, _Mode.ENTER_SYNC} for step in steps))


@define(eq=False)
class _Compiler:
    scope: Scope
    steps: list[_Step] = Factory(list[_Step])
    _known: dict[object, int] = Factory(dict[object, int])
    _open: list[Provider] = Factory(list[Provider])

    def source(self, where: str, annotation: Any) -> int:
        """Return the index of the step that makes the value which an annotation asks for."""
        marker = source_of(annotation)
        if isinstance(marker, From):
            return self._provider(where, marker.provider)
        if marker is not None:
            return self._extractor(marker.from_request)
        if get_origin(annotation) is Annotated:
            annotation = get_args(annotation)[0]
        if annotation is Request:
            return 0
        if not isinstance(annotation, type) or annotation in {Any, object, inspect.Parameter.empty}:
            raise InvalidHandler(
                f"{where} does not say where its value comes from: annotate it with a class, "
                "or with Annotated[..., From(provider)]"
            )
        extract: object = getattr(annotation, "from_request", None)
        if callable(extract):
            return self._extractor(extract)
        wanted = cast("type[Any]", annotation)
        return self._step(wanted, lambda: _Step(_lookup(wanted), _Mode.VALUE))

    def _extractor(self, extract: Callable[[Request], Any]) -> int:
        return self._step(extract, lambda: _Step(extract, _Mode.AWAIT if is_async(extract) else _Mode.VALUE))

    def _provider(self, where: str, provider: Provider) -> int:
        if provider in self._open:
            circle = " -> ".join(map(_name, [*self._open[self._open.index(provider) :], provider]))
            raise InvalidHandler(f"{where} can never be filled, its providers need each other: {circle}")
        return self._step(provider, lambda: self._provide(where, provider))

    def _provide(self, where: str, provider: Provider) -> _Step:
        name = _name(provider)
        signature = read_signature(provider, name, self.scope, with_result=False)
        mode = _mode(where, provider, signature.return_annotation)
        positional: list[int] = []
        named: list[tuple[str, int]] = []
        self._open.append(provider)
        for parameter in signature.parameters.values():
            if parameter.kind in {parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD}:
                continue
            has_own_default = parameter.default is not parameter.empty and parameter.default is not INJECTED
            if has_own_default and source_of(parameter.annotation) is None:
                continue
            index = self.source(f"{name}({parameter.name})", parameter.annotation)
            if parameter.kind is parameter.POSITIONAL_ONLY:
                positional.append(index)
            else:
                named.append((parameter.name, index))
        self._open.pop()
        return _Step(provider, mode, tuple(positional), tuple(named))

    def _step(self, key: object, make: Callable[[], _Step]) -> int:
        index = self._known.get(key)
        if index is None:
            step = make()
            self.steps.append(step)
            index = self._known[key] = len(self.steps)
        return index


def _lookup(wanted: type[Any]) -> Callable[[Request], Any]:
    def look_up(request: Request) -> Any:
        return request.data.require(wanted)

    return look_up


def _mode(where: str, provider: Provider, returns: Any) -> _Mode:
    if isinstance(provider, type):
        if hasattr(provider, "__aenter__"):
            return _Mode.ENTER
        return _Mode.ENTER_SYNC if hasattr(provider, "__enter__") else _Mode.VALUE
    if is_async(provider):
        return _Mode.AWAIT
    if inspect.isasyncgenfunction(provider) or inspect.isgeneratorfunction(provider):
        helper = "asynccontextmanager" if inspect.isasyncgenfunction(provider) else "contextmanager"
        raise InvalidHandler(f"{where}: the provider {_name(provider)} is a bare generator; decorate it with @{helper}")
    inner = inspect.unwrap(provider)
    if inspect.isasyncgenfunction(inner) or get_origin(returns) is AbstractAsyncContextManager:
        return _Mode.ENTER
    if inspect.isgeneratorfunction(inner) or get_origin(returns) is AbstractContextManager:
        return _Mode.ENTER_SYNC
    return _Mode.VALUE


def _name(provider: Provider) -> str:
    return getattr(provider, "__qualname__", repr(provider))
