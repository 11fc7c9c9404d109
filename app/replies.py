"""The replies of the model's server, read with care: events of any length up to a limit, and what is no answer told as such."""

from collections.abc import AsyncGenerator, AsyncIterator
from typing import Annotated, Any, Literal

from aiohttp import ClientResponse
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from app.faults import broken_off, faults, unreadable

MAX_BYTES = 4 << 20  # of one event, and of one answer that is not streamed
MAX_STREAM_BYTES = 64 << 20  # of all events of an answer


class Part(BaseModel):
    """A part of a reply; the server may add fields."""

    model_config = ConfigDict(extra="allow")


class Delta(Part):
    content: str | None = None


class ChunkChoice(Part):
    delta: Delta | None = None
    finish_reason: str | None = None


class Chunk(Part):
    """An event of a streamed answer."""

    id: str | None = None
    created: int | None = None
    model: str | None = None
    choices: list[ChunkChoice] | None = None
    usage: dict[str, Any] | None = None
    error: Any = None


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


async def lines(reply: ClientResponse) -> AsyncIterator[bytes]:
    """Yield the lines of a reply; raises APIError for one that is too long."""
    rest, size = b"", 0
    async for data in reply.content.iter_any():
        size += len(data)
        *whole, rest = (rest + data).split(b"\n")
        for line in whole:
            yield line.rstrip(b"\r")
        if len(rest) > MAX_BYTES or size > MAX_STREAM_BYTES:
            raise unreadable()
    yield rest


async def chunks(reply: ClientResponse) -> AsyncGenerator[Chunk]:
    """Yield the events of a streamed answer, one at the least; raises APIError where it breaks off or is none."""
    if reply.content_type != "text/event-stream":
        raise unreadable()
    begun = finished = False
    with faults():
        async for line in lines(reply):
            if not line.startswith(b"data:"):  # a comment, an empty line, another field
                continue
            data = line.removeprefix(b"data:").strip()
            if data == b"[DONE]":
                finished = True
                break
            event = chunk_of(data)
            begun = True
            finished = finished or any(choice.finish_reason for choice in event.choices or [])
            yield event
    if not (begun and finished):
        raise broken_off()


def chunk_of(data: bytes) -> Chunk:
    try:
        event = Chunk.model_validate_json(data)
    except ValidationError:
        raise unreadable()
    if event.error:
        raise broken_off()
    return event


async def pieces(reply: ClientResponse) -> AsyncIterator[tuple[str, str | None]]:
    """Yield the text of each event of a streamed answer, and the finish reason where one comes."""
    async for event in chunks(reply):
        for choice in event.choices or []:
            yield text_of(choice), choice.finish_reason


def text_of(choice: ChunkChoice) -> str:
    """Return an event's text, without what PostgreSQL cannot keep."""
    return (choice.delta.content or "").replace("\0", "") if choice.delta else ""
