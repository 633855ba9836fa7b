"""A job's payload: the arguments of a handler as a JSON object that people can read.

`{"path": "cat.jpg", "width": 128}` holds what the caller passed, by parameter name. What the caller left out is left
out; the default of the code that runs the job applies. Values are checked against the annotations twice: when the job
is enqueued, and when it is decoded.
"""

from __future__ import annotations

import inspect
from pathlib import PurePath
from typing import TYPE_CHECKING, Any, Final, TypeGuard, cast

import msgspec
from attrs import frozen

from workerctx.errors import InvalidArguments, InvalidHandler, UndecodablePayload
from workerctx.queue import decode_json, encode_json

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Mapping, Sequence

    from workerctx.queue import QueuedJob

_PLAIN: Final = (bool, int, float, str, type(None))


def to_json(value: Any) -> Any:
    """Encode what msgspec does not know: pydantic models and paths."""
    if isinstance(value, PurePath):
        return str(value)
    dump = getattr(value, "model_dump", None)
    if callable(dump):
        return dump(mode="json")
    raise NotImplementedError(f"objects of type {type(value).__name__} cannot be written as JSON")


def from_json(kind: type[Any], value: Any) -> Any:
    """Decode what msgspec does not know: pydantic models and paths."""
    if issubclass(kind, PurePath):
        return kind(value)
    return kind.model_validate(value)


def custom_types(annotation: Any) -> set[type[Any]]:
    """Return the types in an annotation that msgspec leaves to `from_json`.

    Raises:
        TypeError: msgspec cannot decode the annotation at all.
    """
    found: set[type[Any]] = set()
    seen: set[int] = set()
    nodes: list[Any] = [msgspec.inspect.type_info(annotation)]
    while nodes:
        node = nodes.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        if isinstance(node, msgspec.inspect.CustomType):
            found.add(node.cls)
        elif isinstance(node, msgspec.inspect.Field):
            nodes.append(node.type)
        elif isinstance(node, msgspec.inspect.Type):
            nodes.extend(getattr(node, name) for name in node.__struct_fields__)
        elif _is_tuple(node):
            nodes.extend(node)
    return found


def _is_tuple(node: object) -> TypeGuard[tuple[Any, ...]]:
    return isinstance(node, tuple)


def _can_decode(kind: type[Any]) -> bool:
    return issubclass(kind, PurePath) or callable(getattr(kind, "model_validate", None))


@frozen(eq=False)
class Result:
    """What a handler returns: how it is stored, and read back as what it was.

    Attributes:
        hint: The return annotation; values that msgspec cannot type are read back as plain JSON.
        custom: Whether values need `to_json`.
    """

    hint: Any
    custom: bool

    @classmethod
    def of(cls, annotation: Any) -> Result:
        """Return the result of a handler with this return annotation."""
        if annotation is inspect.Signature.empty or annotation is None:
            return cls(Any, custom=False)
        try:
            custom = custom_types(annotation)
        except (TypeError, NameError):  # a name in it may be known to type checkers only
            return cls(Any, custom=True)
        return cls(annotation if all(map(_can_decode, custom)) else Any, custom=bool(custom))

    def encode(self, value: Any) -> bytes:
        """Return the stored form of an output.

        Raises:
            InvalidRequest: It is not JSON, or too large.
        """
        if value is None:
            return b"null"
        if self.custom and not isinstance(value, _PLAIN):
            value = _builtins(value)
        return encode_json(value, "result")

    def decode(self, raw: bytes) -> Any:
        """Return an output from its stored form; one that does not fit the annotation stays plain JSON."""
        return self.restore(decode_json(raw))

    def restore(self, value: Any) -> Any:
        """Return an output from its JSON value; one that does not fit the annotation stays as it is."""
        if self.hint is Any:
            return value
        try:
            return msgspec.convert(value, self.hint, dec_hook=from_json, str_keys=True)
        except msgspec.ValidationError:
            return value


@frozen(eq=False)
class Payload:
    """The arguments that a handler takes from its job, compiled from its signature."""

    _where: str
    _signature: inspect.Signature
    _positional: tuple[str, ...]
    _named: tuple[str, ...]
    _by_keyword: frozenset[str]
    _required: frozenset[str]
    _custom: bool
    _decode: Callable[[bytes], msgspec.Struct]

    @classmethod
    def of(cls, where: str, parameters: Sequence[inspect.Parameter]) -> Payload:
        """Compile the payload of a function from the parameters that a job fills.

        Args:
            where: The function, for messages.
            parameters: With resolved annotations.

        Raises:
            InvalidHandler: An annotation is not a type that JSON can carry.
        """
        fields: list[tuple[str, Any, Any]] = []
        custom = False
        for parameter in parameters:
            hint = parameter.annotation
            hint = Any if hint is parameter.empty or hint is object else hint
            custom |= _check_type(where, parameter.name, hint)
            fields.append((parameter.name, hint, _default(parameter)))
        try:
            struct = msgspec.defstruct("Arguments", fields, kw_only=True, forbid_unknown_fields=True)
        except RuntimeError as exc:  # such as a name that Python would mangle
            raise InvalidHandler(f"the parameters of {where} cannot be told by name: {exc}") from exc
        decoder = msgspec.json.Decoder(struct, dec_hook=from_json)
        return cls(
            where,
            inspect.Signature(parameters),
            tuple(each.name for each in parameters if each.kind is not each.KEYWORD_ONLY),
            tuple(each.name for each in parameters if each.kind is each.KEYWORD_ONLY),
            frozenset(each.name for each in parameters if each.kind is not each.POSITIONAL_ONLY),
            frozenset(each.name for each in parameters if each.default is each.empty),
            custom,
            decoder.decode,
        )

    @property
    def names(self) -> tuple[str, ...]:
        """The parameters that a job fills."""
        return self._positional + self._named

    def reader(self, name: str) -> Callable[[QueuedJob], Hashable]:
        """Return a function that tells a job's argument of this name as a key: its JSON value, or the default."""
        default = self._signature.parameters[name].default
        stored = None if default is inspect.Parameter.empty else decode_json(encode_json(_builtins(default)))

        def read(job: QueuedJob) -> Hashable:
            arguments = job.payload
            if not isinstance(arguments, dict):
                return None  # it cannot be decoded, of which the run will tell
            value = cast("dict[str, Any]", arguments).get(name, stored)
            return encode_json(value) if isinstance(value, list | dict) else value

        return read

    def bind(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """Return the JSON object for a call, with what the caller passed.

        Raises:
            InvalidArguments: Python would refuse the call.
        """
        arguments = dict(zip(self._positional, args, strict=False))
        clean = len(args) <= len(self._positional) and kwargs.keys() <= self._by_keyword
        if not clean or not arguments.keys().isdisjoint(kwargs):
            self._refuse(args, kwargs)
        arguments.update(kwargs)
        if not self._required <= arguments.keys():
            self._refuse(args, kwargs)
        return _builtins(arguments) if self._custom else arguments

    def encode(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bytes:
        """Return the stored form of a call, see `bind`.

        Raises:
            InvalidRequest: It is not JSON, or too large.
        """
        return encode_json(self.bind(args, kwargs))

    def check(self, payload: bytes) -> None:
        """Refuse arguments whose values do not fit the annotations.

        Raises:
            InvalidArguments: Names the parameter.
        """
        try:
            self._decode(payload)
        except Exception as exc:
            raise InvalidArguments(f"these arguments do not fit {self._where}: {exc}; nothing was enqueued") from exc

    def decode(self, payload: bytes) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Return the positional and the keyword arguments that are stored in a payload.

        Raises:
            UndecodablePayload: It does not fit the signature.
        """
        try:
            values = msgspec.structs.astuple(self._decode(payload))
        except Exception as exc:
            raise UndecodablePayload(
                f"the stored payload does not fit {self._where}: {exc}; "
                "enqueue it anew, or keep the old signature runnable under an alias"
            ) from exc
        if not self._named:
            return values, {}
        count = len(self._positional)
        return values[:count], dict(zip(self._named, values[count:], strict=True))

    def _refuse(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        try:
            self._signature.bind(*args, **kwargs)
        except TypeError as exc:
            raise InvalidArguments(f"{self._where}() {exc}") from None


def _builtins(value: Any) -> Any:
    try:
        return msgspec.to_builtins(value, enc_hook=to_json, str_keys=True)
    except NotImplementedError:
        return value  # encode_json says what is wrong with it


def _check_type(where: str, name: str, hint: Any) -> bool:
    """Return whether a parameter needs the hooks; refuse what JSON cannot carry."""
    try:
        custom = custom_types(hint)
    except (TypeError, NameError) as exc:
        raise InvalidHandler(f"parameter {name!r} of {where} cannot be decoded from JSON: {exc}") from exc
    for kind in custom:
        if not _can_decode(kind):
            raise InvalidHandler(
                f"parameter {name!r} of {where} is a {kind.__name__}, which JSON cannot carry: pass plain data, "
                f"or have it injected as a keyword-only parameter, `*, {name}: {kind.__name__} = injected()`"
            )
    return bool(custom)


def _default(parameter: inspect.Parameter) -> Any:
    default = parameter.default
    if default is parameter.empty:
        return msgspec.NODEFAULT
    if isinstance(default, _PLAIN):
        return default
    return msgspec.field(default_factory=lambda: default)
