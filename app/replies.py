"""The replies of the model's server, read with care: events of any length up to a limit, and what is no answer told as such."""

from collections.abc import AsyncGenerator, AsyncIterator, Iterable
from typing import Annotated, Any, Literal

from aiohttp import ClientResponse
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, with_config
from typing_extensions import TypedDict

from app.errors import APIError
from app.faults import broken_off, faults, unreadable

MAX_BYTES = 4 << 20  # of one event, and of one answer that is not streamed
MAX_STREAM_BYTES = 64 << 20  # of all events of an answer


@with_config(extra="allow")
class Delta(TypedDict, total=False):
    content: str | None


class ChunkChoice(TypedDict, total=False):
    delta: Delta | None
    finish_reason: str | None


class Chunk(TypedDict, total=False):
    """An event of a streamed answer; a dictionary, because there are many."""

    id: str | None
    created: int | None
    model: str | None
    choices: list[ChunkChoice] | None
    usage: dict[str, Any] | None
    error: Any


CHUNK = TypeAdapter(Chunk)


class Part(BaseModel):
    """A part of a reply; the server may add fields."""

    model_config = ConfigDict(extra="allow")


class Message(Part):
    role: Literal["assistant"] = "assistant"
    content: str | None = None


class Choice(Part):
    index: int = 0
    message: Message
    finish_reason: str | None = None


class Completion(Part):
    """An answer that is not streamed."""

    id: str | None = None
    object: Literal["chat.completion"] = "chat.completion"
    created: int | None = None
    model: str | None = None
    choices: Annotated[list[Choice], Field(min_length=1)]


async def read(reply: ClientResponse) -> bytes:
    """Return a reply's body; raises APIError for one that is too large."""
    body = bytearray()
    async for data in reply.content.iter_any():
        body += data
        if len(body) > MAX_BYTES:
            raise unreadable()
    return bytes(body)


async def completion(reply: ClientResponse) -> Completion:
    """Return the answer of a reply that is not streamed; raises APIError where it is none."""
    with faults():
        body = await read(reply)
    try:
        return Completion.model_validate_json(body)
    except ValidationError:
        raise unreadable()


async def chunks(reply: ClientResponse) -> AsyncGenerator[list[Chunk]]:
    """Yield the events of a streamed answer, those that came together in one list; one at the least in all.

    Raises APIError where the answer breaks off or is none.
    """
    if reply.content_type != "text/event-stream":
        raise unreadable()
    begun = finished = over = False
    with faults():
        async for lines in arrivals(reply):
            found, trouble, over = parsed(lines)
            begun = begun or bool(found)
            finished = finished or over or any(reason for event in found for _, reason in said(event))
            if found:
                yield found
            if trouble:
                raise trouble
            if over:
                break
    if not (begun and finished):
        raise broken_off()


async def arrivals(reply: ClientResponse) -> AsyncIterator[list[bytes]]:
    """Yield the lines of a reply, those that came together in one list; raises APIError for one that is too long."""
    rest, size = b"", 0
    async for data in reply.content.iter_any():
        size += len(data)
        *whole, rest = (rest + data).split(b"\n")
        yield whole
        if len(rest) > MAX_BYTES or size > MAX_STREAM_BYTES:
            raise unreadable()
    yield [rest]


def parsed(lines: Iterable[bytes]) -> tuple[list[Chunk], APIError | None, bool]:
    """Return the events in these lines down to the first that is none, what is wrong with that, and whether [DONE] came."""
    found: list[Chunk] = []
    for line in lines:
        if not line.startswith(b"data:"):  # a comment, an empty line, another field
            continue
        data = line.removeprefix(b"data:").strip()
        if data == b"[DONE]":
            return found, None, True
        try:
            event = CHUNK.validate_json(data)
        except ValidationError:
            return found, unreadable(), False
        if event.get("error"):
            return found, broken_off(), False
        found.append(event)
    return found, None, False


def said(event: Chunk) -> list[tuple[Delta, str | None]]:
    """Return what each choice of an event says, and its finish reason."""
    return [(choice.get("delta") or {}, choice.get("finish_reason")) for choice in event.get("choices") or []]


async def pieces(reply: ClientResponse) -> AsyncIterator[tuple[str, str | None]]:
    """Yield the text of a streamed answer as it comes, without what PostgreSQL cannot keep, and the finish reason."""
    async for events in chunks(reply):
        parts = [part for event in events for part in said(event)]
        text = "".join(delta.get("content") or "" for delta, _ in parts).replace("\0", "")
        yield text, next((reason for _, reason in parts if reason), None)
