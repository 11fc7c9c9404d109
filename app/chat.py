"""The part of OpenAI's API that clients use: chat completions, streamed or not, and the list of models."""

import itertools
import json
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Annotated, Any, Literal

import anyio
from aiohttp import ClientResponse
from fastapi import APIRouter, Depends, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from pydantic import BaseModel, ConfigDict, Field
from starlette.concurrency import run_in_threadpool
from starlette.types import Receive, Scope, Send

from app import prometheus
from app.access import Caller
from app.errors import APIError, responses
from app.red_flags import Found, due, instruction, notice, plays_down
from app.settings import App
from app.upstream import faults
from xinglin.dialogues.cleaning import tidy
from xinglin.dialogues.dialogue import Unusable

router = APIRouter(prefix="/v1", tags=["OpenAI"])


class TextPart(BaseModel):
    model_config = ConfigDict(extra="forbid")
    type: Literal["text"]
    text: str


class Message(BaseModel):
    model_config = ConfigDict(extra="forbid")
    role: Literal["system", "user", "assistant"]
    content: str | list[TextPart]
    name: str | None = None

    def text(self) -> str:
        return self.content if isinstance(self.content, str) else "\n".join(part.text for part in self.content)


class StreamOptions(BaseModel):
    model_config = ConfigDict(extra="forbid")
    include_usage: bool = False


class ChatRequest(BaseModel):
    """A chat completion request; what is not here (tools, images, several choices, vLLM's own switches) is refused."""

    model_config = ConfigDict(extra="forbid")
    model: str
    messages: Annotated[list[Message], Field(min_length=1)]
    stream: bool = False
    stream_options: StreamOptions | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    stop: str | Annotated[list[str], Field(max_length=4)] | None = None
    n: Literal[1] | None = None
    user: str | None = None


class Choice(BaseModel):
    index: int
    message: dict[str, Any]
    finish_reason: str | None


class Completion(BaseModel):
    """An answer that is not streamed, in OpenAI's shape; the model's server may add fields."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[Choice]


class Model(BaseModel):
    id: str
    object: Literal["model"]
    created: int
    owned_by: str


class Models(BaseModel):
    object: Literal["list"]
    data: list[Model]


STREAMED = {"text/event-stream": {"schema": {"type": "string", "description": "Events of chat.completion.chunk, then [DONE]"}}}
ANSWERS: dict[int | str, dict[str, Any]] = {200: {"model": Completion, "content": STREAMED}}


def payload(body: ChatRequest, settings: App, model: str) -> dict[str, Any]:
    """Return what is sent to the model's server; raises APIError for what a conversation may not be."""
    if body.model != model:
        raise APIError(404, f"没有模型 {body.model[:80]}，可用的是 {model}。", "model_not_found", "model")
    wanted = body.max_completion_tokens or body.max_tokens or settings.max_tokens
    if wanted > settings.max_tokens:
        raise APIError(400, f"max_tokens 最多 {settings.max_tokens}。", "max_tokens_too_large", "max_tokens")
    sent = body.model_dump(exclude={"messages", "max_completion_tokens", "n", "user"}, exclude_none=True)
    if not body.stream:
        sent.pop("stream_options", None)
    return sent | {"max_tokens": wanted, "messages": conversation(body.messages, settings)}


def conversation(messages: list[Message], settings: App) -> list[dict[str, str]]:
    """Return tidy messages without special tokens: a system text or none, then user and assistant in turn."""
    if len(messages) > settings.max_turns:
        raise APIError(
            400, f"对话有 {len(messages)} 条消息，最多 {settings.max_turns} 条，请新建对话。", "too_many_messages", "messages"
        )
    found = []
    for number, message in enumerate(messages):
        text = message.text()
        if len(text) > settings.max_message_characters:
            raise APIError(
                400,
                f"第 {number + 1} 条消息超过 {settings.max_message_characters} 个字。",
                "message_too_long",
                f"messages.{number}.content",
            )
        try:
            text = tidy(text, Counter())
        except Unusable:
            raise APIError(
                400, f"第 {number + 1} 条消息含有损坏的字符。", "invalid_text", f"messages.{number}.content"
            ) from None
        if not text:
            raise APIError(400, f"第 {number + 1} 条消息是空的。", "empty_message", f"messages.{number}.content")
        found.append({"role": message.role, "content": text})
    turns = [message["role"] for message in found if message["role"] != "system"]
    starts_right = all(message["role"] != "system" for message in found[1:])
    if (
        not starts_right
        or turns != list(itertools.islice(itertools.cycle(("user", "assistant")), len(turns)))
        or not turns
        or turns[-1] != "user"
    ):
        raise APIError(
            400,
            "消息的顺序不对：先是可有可无的 system，然后 user 和 assistant 交替，最后是 user。",
            "invalid_role_order",
            "messages",
        )
    return found


async def caller_of(request: Request) -> Caller:
    return await request.app.state.gate.caller(request)


Who = Annotated[Caller, Depends(caller_of)]


@router.post("/chat/completions", responses=ANSWERS | responses(400, 401, 404, 413, 422, 429, 500, 502, 503, 504))
async def chat_completions(body: ChatRequest, request: Request, caller: Who) -> Response:
    """Answer a conversation. Where it shows an emergency, the answer begins with what to do at once."""
    state = request.app.state
    sent = payload(body, state.settings, state.model)
    found = await run_in_threadpool(urgent, sent["messages"], state.settings)
    sent["messages"] = instructed(sent["messages"], found, state.settings)
    found = found if state.settings.red_flags_in_answers else []
    stack = AsyncExitStack()
    try:
        await stack.enter_async_context(state.gate.turn(caller))
        if body.stream:
            reply = await stack.enter_async_context(state.upstream.chat(sent, request.state.id))
            return Relay(events(reply, found, state.model), stack)
        async with stack:
            done = await unless_gone(request, lambda: answered(state.upstream, sent, request.state.id))
            return JSONResponse(with_notice(done, found)) if done else Response(status_code=499)
    except BaseException:
        await stack.aclose()
        raise


@router.get("/models", responses=responses(401, 500))
async def models(request: Request, caller: Who) -> Models:
    """List the one model that is served here."""
    return Models(object="list", data=[Model(id=request.app.state.model, object="model", created=0, owned_by="xinglin")])


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


async def answered(upstream: Any, sent: dict[str, Any], request_id: str) -> dict[str, Any]:
    async with upstream.chat(sent, request_id) as reply:
        return await reply.json()


def with_notice(done: dict[str, Any], found: list[Found]) -> dict[str, Any]:
    """Return an answer with the emergency notice before it, and a mark after it where it plays the emergency down."""
    if found:
        message = done["choices"][0]["message"]
        answer = message["content"] or ""
        message["content"] = f"{notice(found)}\n\n{answer}{marked(answer, found)}"
    return done


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


def chunk(model: str, delta: dict[str, str]) -> bytes:
    """Return an event of a streamed answer that the gateway adds."""
    choice = {"index": 0, "delta": delta, "finish_reason": None}
    head = {"id": "chatcmpl-notice", "object": "chat.completion.chunk", "created": int(time.time()), "model": model}
    return f"data: {json.dumps(head | {'choices': [choice]}, ensure_ascii=False)}\n\n".encode()


async def events(reply: ClientResponse, found: list[Found], model: str) -> AsyncIterator[bytes]:
    """Pass on the server's events as they come, the emergency notice first; a stream that breaks off ends with an error."""
    start, waiting, said = time.perf_counter(), True, ""
    if found:
        yield chunk(model, {"role": "assistant", "content": f"{notice(found)}\n\n"})
    try:
        with faults():
            async for line in reply.content:
                if line.startswith(b'data: {"error"'):
                    raise APIError(502, "模型在回答中途出错。", "answer_broken_off")
                if waiting and line.startswith(b"data: "):
                    prometheus.FIRST_TOKEN.observe(time.perf_counter() - start)
                    waiting = False
                if found and line.startswith(b"data: {"):
                    event = json.loads(line[6:])
                    for choice in event.get("choices", []):
                        said += choice["delta"].get("content") or ""
                        choice["delta"].pop("role", None)  # the notice has said it
                        if choice.get("finish_reason") and (mark := marked(said, found)):
                            yield chunk(model, {"content": mark})
                    line = b"data: " + json.dumps(event, ensure_ascii=False).encode() + b"\n"
                yield line
    except APIError as error:
        prometheus.BROKEN_STREAMS.inc()
        yield f"data: {json.dumps(error.problem(), ensure_ascii=False)}\n\n".encode()


async def pieces(reply: ClientResponse) -> AsyncIterator[tuple[str, str | None]]:
    """Yield the text of each event of a streamed answer, and the finish reason where one comes."""
    with faults():
        async for line in reply.content:
            if line.startswith(b'data: {"error"'):
                raise APIError(502, "模型在回答中途出错。", "answer_broken_off")
            if line.startswith(b"data: {"):
                for choice in json.loads(line[6:]).get("choices", []):
                    yield choice["delta"].get("content") or "", choice.get("finish_reason")


class Relay(StreamingResponse):
    """A stream that holds `stack` until it ends, is broken off, or the client goes away, which ends it at once."""

    media_type = "text/event-stream"

    def __init__(self, content: AsyncIterator[bytes], stack: AsyncExitStack) -> None:
        super().__init__(content, headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"})
        self.stack = stack

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with self.stack, anyio.create_task_group() as group:
            group.start_soon(cancel_when_gone, receive, group.cancel_scope)
            await self.stream_response(send)
            group.cancel_scope.cancel()
