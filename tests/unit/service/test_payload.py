"""The payload: what is stored for a call, and what a handler gets back from it."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import attrs
import msgspec
import pydantic
import pytest

from workerctx.errors import Abort, InvalidArguments, InvalidHandler, InvalidRequest, UndecodablePayload
from workerctx.queue import QueuedJob
from workerctx.service import JobCtx


class Colour(enum.Enum):
    RED = "red"


@dataclass
class Size:
    width: int
    height: int = 1


@attrs.define
class Crop:
    left: int = attrs.field(validator=attrs.validators.ge(0))


class Point(msgspec.Struct):
    x: float


class Options(pydantic.BaseModel):
    quality: int = pydantic.Field(ge=1, le=100)


def stored(handler, payload: bytes, site) -> JobCtx:
    return JobCtx(QueuedJob(id="1", kind=handler.kind, payload_json=payload, attempt=1), site)


def test_a_payload_is_a_readable_object(jobs):
    """Q16: the stored bytes are a JSON object by parameter name, with what the caller passed."""

    @jobs.register(name="resize")
    async def resize(ctx: JobCtx, path: str, width: int = 256, *, crop: bool = False) -> str:
        return path

    assert resize.request("cat.jpg", width=128).payload_json == b'{"path":"cat.jpg","width":128}'
    assert resize.request("cat.jpg", 128, crop=True).payload_json == b'{"path":"cat.jpg","width":128,"crop":true}'
    assert resize.request(path="cat.jpg").payload_json == b'{"path":"cat.jpg"}'


async def test_arguments_come_back_as_what_they_were(jobs, run):
    """Dataclasses, attrs classes, Structs, pydantic models, enums, dates and paths are decoded to their types."""

    @jobs.register(name="job")
    async def job(
        size: Size,
        crop: Crop,
        point: Point,
        options: Options,
        colour: Colour,
        at: datetime,
        path: Path,
        many: list[Options] | None = None,
        anything: Any = None,
        raw: object = None,
    ) -> tuple[object, ...]:
        return size, crop, point, options, colour, at, path, many, anything, raw

    at = datetime(2030, 1, 2, tzinfo=UTC)
    given = (Size(1, 2), Crop(3), Point(0.5), Options(quality=7), Colour.RED, at, Path("a/b"), [Options(quality=1)])
    assert await run(job, *given, anything={"x": [1]}, raw=2) == (*given, {"x": [1]}, 2)


async def test_positional_and_keyword_parameters_keep_their_kind(jobs, run):
    """Positional-only parameters are passed by position and keyword-only ones by keyword."""

    @jobs.register(name="job")
    async def job(first: int, /, second: int = 2, *, third: int = 3) -> tuple[int, int, int]:
        return first, second, third

    assert await run(job, 1) == (1, 2, 3)
    assert await run(job, 1, 5, third=6) == (1, 5, 6)
    assert await run(job, 1, third=6, second=7) == (1, 7, 6)


async def test_the_default_of_the_running_code_applies(jobs, run, site):
    """What the caller left out is not stored, so a new default holds for old jobs; it may be any object."""
    nothing = object()

    @jobs.register(name="job")
    async def job(a: int = 1, b: Any = nothing, c: list[int] = [1]) -> bool:  # noqa: B006 - what is shared here is shared in Python
        return (a, b, c) == (1, nothing, [1])

    assert job.request().payload_json == b"{}"
    assert await run(job) is True


@pytest.mark.parametrize(
    ("args", "kwargs", "message"),
    [
        ((), {}, r"resize\(\) missing a required argument: 'path'"),
        (("a", 1, 2), {}, r"resize\(\) too many positional arguments"),
        (("a",), {"widht": 1}, r"resize\(\) got an unexpected keyword argument 'widht'"),
        (("a",), {"path": "b"}, r"resize\(\) multiple values for argument 'path'"),
        ((1,), {}, r"do not fit resize: Expected `str`, got `int` - at `\$.path`; nothing was enqueued"),
        (("a",), {"width": "1"}, r"Expected `int`, got `str` - at `\$.width`"),
        (("a",), {"width": None}, r"Expected `int`, got `null`"),
    ],
)
def test_arguments_are_checked_when_they_are_enqueued(jobs, args, kwargs, message):
    """Q13: a call that Python or the annotations would refuse is a TypeError before anything is written."""

    @jobs.register(name="resize")
    async def resize(path: str, width: int = 256) -> None: ...

    with pytest.raises(InvalidArguments, match=message.replace("resize", "[a-z_.<>]*resize")) as caught:
        resize.request(*args, **kwargs)
    assert isinstance(caught.value, TypeError)
    assert isinstance(caught.value, InvalidRequest)


def test_validators_of_the_arguments_run_at_enqueue(jobs):
    """A value that its own class refuses is refused for the job, too."""

    @jobs.register(name="job")
    async def job(crop: dict[str, Crop] | None = None, options: Any = None) -> None: ...

    with pytest.raises(InvalidRequest, match="cannot store this payload"):
        job.request(options={1, object()})
    with pytest.raises(InvalidRequest, match="NaN"):
        job.request(options=float("nan"))

    @jobs.register(name="path")
    async def of_path(path: Path, options: Any = None) -> None: ...

    with pytest.raises(InvalidRequest, match="cannot store this payload"):
        of_path.request(Path("a"), object())


def test_an_injected_parameter_cannot_be_enqueued(jobs):
    """What is injected does not travel with the job: passing it is a TypeError."""
    from workerctx.service import injected

    @jobs.register(name="job")
    async def job(path: str, *, site: Size = injected()) -> None: ...

    with pytest.raises(TypeError, match="unexpected keyword argument 'site'"):
        job.request("a", site=Size(1))


@pytest.mark.parametrize(
    ("payload", "message"),
    [
        (b"[1]", "Expected `object`, got `array`"),
        (b"{}", "missing required field `crop`"),
        (b'{"crop":{"left":1},"old":1}', "unknown field `old`"),
        (b'{"crop":{"left":-1}}', "'left' must be >= 0"),
        (b'{"crop":{"left":1},"options":{"quality":0}}', "greater than or equal to 1"),
        (b"not json", "malformed"),
        (b"\xff", "malformed"),
    ],
)
async def test_what_does_not_decode_is_a_dead_job(jobs, site, payload, message):
    """Q14: a payload that the handler cannot decode is an Abort with the reason; the handler is not called."""

    @jobs.register(name="job")
    async def job(crop: Crop, options: Options | None = None) -> None:
        raise AssertionError("called")

    with pytest.raises(UndecodablePayload, match=message) as caught:
        await job.run(stored(job, payload, site))
    assert isinstance(caught.value, Abort)


class Handmade:
    pass


@pytest.mark.parametrize(
    ("annotation", "message"),
    [
        (Handmade, r"is a Handmade, which JSON cannot carry: pass plain data, or have it injected"),
        (dict[str, list[Handmade]], r"is a Handmade, which JSON cannot carry"),
        (Size | Crop, r"parameter 'value' of .* cannot be decoded from JSON: "),
    ],
)
def test_a_type_that_json_cannot_carry_is_refused_at_decoration(jobs, annotation, message):
    """A handler whose jobs could never be decoded is refused, and the remedy is named."""

    async def job(value) -> None: ...

    job.__annotations__["value"] = annotation
    with pytest.raises(InvalidHandler, match=message):
        jobs.register(name="job")(job)


class Tree(msgspec.Struct):
    children: list[Tree] = []


async def test_a_recursive_type_is_fine(jobs, run):
    """Types that contain themselves are decoded."""

    @jobs.register(name="job")
    async def job(tree: Tree) -> int:
        return len(tree.children)

    assert await run(job, Tree([Tree(), Tree()])) == 2


async def test_outputs_are_encoded_and_restored(jobs):
    """What a handler returns is stored as JSON, and a typed handle gives it back as what it was."""

    @jobs.register(name="job")
    async def job() -> list[Options]: ...

    raw = job.encode_output([Options(quality=3)])
    assert raw == b'[{"quality":3}]'
    assert job.contract.result.restore(msgspec.json.decode(raw)) == [Options(quality=3)]


async def test_an_output_of_an_older_release_stays_readable(jobs):
    """What does not fit the annotation any more comes back as the JSON that it is."""

    @jobs.register(name="job")
    async def job() -> list[Options]: ...

    assert job.contract.result.decode(b'[{"quality":3}]') == [Options(quality=3)]
    assert job.contract.result.decode(b'"done"') == "done"


async def test_untyped_and_unusual_outputs_are_plain_json(jobs):
    """Without a usable return annotation the result is plain JSON."""

    @jobs.register(name="untyped")
    async def untyped(): ...

    @jobs.register(name="handmade")
    async def handmade() -> Handmade: ...

    @jobs.register(name="ambiguous")
    async def ambiguous() -> Size | Crop: ...

    for handler in (untyped, handmade, ambiguous):
        assert handler.contract.result.restore({"a": 1}) == {"a": 1}
        assert handler.encode_output({"a": 1}) == b'{"a":1}'
    assert ambiguous.encode_output(Size(1)) == b'{"width":1,"height":1}'
    assert untyped.encode_output(None) == b"null"


async def test_garbage_is_no_output(jobs):
    """W2: a result that is not JSON is an error of its job, with a sentence."""

    @jobs.register(name="job")
    async def job() -> Any: ...

    for garbage in (object(), {1, object()}, float("nan")):
        with pytest.raises(InvalidRequest, match="result"):
            job.encode_output(garbage)
