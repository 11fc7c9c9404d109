"""The part of OpenAI's API that clients use: chat completions, streamed or not, and the list of models."""

import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from typing import Annotated, Any, Literal

import anyio
import orjson
from fastapi import APIRouter, Depends, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from pydantic import BaseModel
from starlette.concurrency import run_in_threadpool
from starlette.types import Receive, Scope, Send

from app import prometheus
from app.access import Caller
from app.context import fit
from app.errors import APIError, responses
from app.red_flags import Found, due, instruction, notice, plays_down
from app.replies import Chunk, Completion, chunks, completion, said
from app.requests import GENERATED, ChatRequest, no_model, payload
from app.settings import App

router = APIRouter(prefix="/v1", tags=["OpenAI"])
DROPPED = "X-Xinglin-Dropped-Messages"


class Model(BaseModel):
    id: str
    object: Literal["model"] = "model"
    created: int = 0
    owned_by: str = "xinglin"
    max_model_len: int | None = None


class Models(BaseModel):
    object: Literal["list"]
    data: list[Model]


STREAMED = {"text/event-stream": {"schema": {"type": "string", "description": "Events of chat.completion.chunk, then [DONE]"}}}
ANSWERS: dict[int | str, dict[str, Any]] = {200: {"model": Completion, "content": STREAMED}}


async def caller_of(request: Request) -> Caller:
    return await request.app.state.gate.caller(request)


Who = Annotated[Caller, Depends(caller_of)]


@router.post("/chat/completions", responses=ANSWERS | responses(400, 401, 404, 413, 422, 429, 500, 502, 503, 504))
async def chat_completions(body: ChatRequest, request: Request, caller: Who) -> Response:
    """Answer a conversation. Where it shows an emergency, the answer begins with what to do at once."""
    state = request.app.state
    sent = payload(body, state.settings, state.model)
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(state.gate.turn(caller))
        found = await run_in_threadpool(urgent, sent["messages"], state.settings)
        sent["messages"] = instructed(sent["messages"], found, state.settings)
        addition = Addition(found, state.settings)
        reply = await unless_gone(request, lambda: answer(state, sent, addition, request.state.id, stack))
        if isinstance(reply, Relay):
            reply.stack = stack.pop_all()  # it holds the place until the stream has ended
        return reply or Response(status_code=499)


async def answer(state: Any, sent: dict[str, Any], addition: "Addition", request_id: str, stack: AsyncExitStack) -> Response:
    """Return the model's answer; a stream once its first event has come, so that what goes wrong before has its status."""
    fitted = await fit(state.upstream, sent["messages"], sent["max_tokens"])
    sent |= {"messages": fitted.messages, "max_tokens": fitted.max_tokens}
    reply = await stack.enter_async_context(state.upstream.chat(sent, request_id))
    start, headers = time.perf_counter(), {DROPPED: str(fitted.dropped)} if fitted.dropped else {}
    head = {"id": f"chatcmpl-{request_id}", "created": int(time.time()), "model": state.model}
    if not sent["stream"]:
        whole = addition.to_completion(await completion(reply)).model_dump()
        whole = head | {name: value for name, value in whole.items() if value is not None} | left_out(fitted.dropped)
        return JSONResponse(whole, headers=headers)
    events = chunks(reply)
    stack.push_async_callback(events.aclose)
    first = await anext(events)
    prometheus.FIRST_TOKEN.observe(time.perf_counter() - start)
    named = {name: value for name, value in first[0].items() if name in ("id", "created", "model") and value is not None}
    head |= {"object": "chat.completion.chunk"} | named
    stream = Stream(addition, "stream_options" in sent, head, left_out(fitted.dropped))
    return Relay(relayed(first, events, stream), state.settings.timeout_seconds, headers)


@router.get("/models", responses=responses(401, 500), response_model_exclude_none=True)
async def models(request: Request, caller: Who) -> Models:
    """List the one model that is served here."""
    return Models(object="list", data=[await card(request)])


@router.get("/models/{name:path}", responses=responses(401, 404, 500), response_model_exclude_none=True)
async def model(name: str, request: Request, caller: Who) -> Model:
    """Describe a model."""
    if name != request.app.state.model:
        raise no_model(name, request.app.state.model)
    return await card(request)


async def card(request: Request) -> Model:
    state = request.app.state
    return Model(id=state.model, max_model_len=await state.upstream.max_model_len())


def urgent(messages: list[dict[str, str]], settings: App) -> list[Found]:
    """Return the emergencies that a conversation's last message brings, and count them."""
    found = due(messages, settings.red_flags_threshold)
    for flag in found:
        prometheus.RED_FLAGS.labels(flag.id).inc()
    return found


def instructed(messages: list[dict[str, str]], found: list[Found], settings: App) -> list[dict[str, str]]:
    """Return the messages as the model gets them: where an emergency was found, it is told so in the system text."""
    if not found or not settings.red_flags_in_prompt:
        return messages
    system = [message["content"] for message in messages if message["role"] == "system"]
    told = {"role": "system", "content": "\n\n".join([*system, instruction(found)])}
    return [told, *(message for message in messages if message["role"] != "system")]


def marked(answer: str, found: list[Found]) -> str:
    """Return what is said after an answer that plays an emergency down; "" after any other."""
    if not found or not answer or not plays_down(answer):
        return ""
    prometheus.PLAYED_DOWN.inc()
    return f"\n\n【请注意】上面的回答把情况说轻了，请以急症提示为准：\n{notice(found)}"


def left_out(dropped: int) -> dict[str, Any]:
    return {"xinglin": {"dropped_messages": dropped}} if dropped else {}


class Addition:
    """What the gateway says before and after an answer."""

    def __init__(self, found: list[Found], settings: App) -> None:
        self.found = found if settings.red_flags_in_answers else []
        self.generated = settings.mark_generated

    def before(self) -> str:
        return f"{notice(self.found)}\n\n" if self.found else ""

    def after(self, said: str) -> str:
        return marked(said, self.found) + (f"\n\n{GENERATED}" if self.generated else "")

    def to_completion(self, done: Completion) -> Completion:
        for choice in done.choices:
            said = choice.message.content or ""
            choice.message.content = self.before() + said + self.after(said)
            choice.message.role = "assistant"
            choice.finish_reason = choice.finish_reason or "stop"
        return done


class Stream:
    """A streamed answer in our events: the role once, at the beginning, one finish reason, and what is added."""

    def __init__(self, addition: Addition, usage: bool, head: dict[str, Any], note: dict[str, Any]) -> None:
        self.addition, self.usage, self.head, self.note = addition, usage, head, note
        self.text, self.finish = "", ""

    def begin(self) -> bytes:
        return self.event({"role": "assistant", "content": self.addition.before()})

    def go_on(self, chunk: Chunk) -> bytes:
        """Return the events that one of the server's becomes, as Server-Sent Events."""
        out = b""
        for given, reason in said(chunk)[:1]:
            delta: dict[str, Any] = {k: v for k, v in given.items() if k != "role" and v is not None}
            self.text += delta.get("content", "")
            if any(delta.values()) and not self.finish:
                out += self.event(delta)
            if reason:
                out += self.end(reason)
        if self.usage and chunk.get("usage"):
            out += data(self.head | {"choices": [], "usage": chunk["usage"]} | self.note)
        return out

    def end(self, reason: str) -> bytes:
        """Return the events that end an answer, once."""
        if self.finish:
            return b""
        mark, self.finish = self.addition.after(self.text), reason
        return (self.event({"content": mark}) if mark else b"") + self.event({}, reason)

    def event(self, delta: Mapping[str, Any], finish: str | None = None) -> bytes:
        choice = {"index": 0, "delta": delta, "finish_reason": finish}
        return data(self.head | {"choices": [choice]} | (self.note if finish else {}))


async def relayed(first: list[Chunk], rest: AsyncIterator[list[Chunk]], stream: Stream) -> AsyncIterator[bytes]:
    """Yield an answer's events as they come; one that breaks off ends with an error instead of [DONE]."""
    yield stream.begin() + b"".join(map(stream.go_on, first))
    try:
        async for events in rest:
            yield b"".join(map(stream.go_on, events))
        yield stream.end("stop") + b"data: [DONE]\n\n"
    except APIError as error:
        prometheus.BROKEN_STREAMS.inc()
        yield data(error.problem())


def data(event: dict[str, Any]) -> bytes:
    return b"data: " + orjson.dumps(event) + b"\n\n"


async def unless_gone(request: Request, work: Callable[[], Awaitable[Any]]) -> Any:
    """Return what `work` returns, or None if the client went away before; the work is then given up."""
    result, trouble = None, None
    async with anyio.create_task_group() as group:
        group.start_soon(cancel_when_gone, request.receive, group.cancel_scope)
        try:
            result = await work()
        except APIError as error:  # raised outside of the group, which would wrap it
            trouble = error
        group.cancel_scope.cancel()
    if trouble:
        raise trouble
    return result


async def cancel_when_gone(receive: Receive, scope: anyio.CancelScope) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    scope.cancel()


class Relay(StreamingResponse):
    """A stream that holds `stack` until it ends, is broken off, or the client goes away or does not read it in `seconds`."""

    media_type = "text/event-stream"

    def __init__(self, content: AsyncIterator[bytes], seconds: float, headers: dict[str, str]) -> None:
        super().__init__(content, headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"} | headers)
        self.seconds, self.stack = seconds, AsyncExitStack()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with self.stack:
            with anyio.move_on_after(self.seconds):
                async with anyio.create_task_group() as group:
                    group.start_soon(cancel_when_gone, receive, group.cancel_scope)
                    await self.stream_response(send)
                    group.cancel_scope.cancel()
