"""A model's server with one fault: what it does is named by the last message, or by the fault given on the command line.

Usage: python -m tests.faulty_server PORT [FAULT]
"""

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable

from aiohttp import web

STATE = {"open": 0}
HEAD = {"id": "chatcmpl-7", "object": "chat.completion.chunk", "created": 7, "model": "xinglin"}


def event(value: object) -> bytes:
    return f"data: {json.dumps(value, ensure_ascii=False)}\n\n".encode()


def say(text: str, finish: str | None = None, **more: object) -> bytes:
    choice = {"index": 0, "delta": {"role": "assistant", "content": text}, "finish_reason": finish}
    return event(HEAD | {"choices": [choice]} | more)


DONE = b"data: [DONE]\n\n"
USAGE = {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}
STREAMS: dict[str, list[bytes]] = {
    "GOOD": [say("多"), say("喝水", "stop"), DONE],
    "ODD": [  # all that a client need not know
        b": a comment\n\nretry: 3\n\n",
        event(HEAD | {"choices": []}),
        event(HEAD),
        say("多"),
        event(HEAD | {"choices": [{"index": 0, "delta": None, "finish_reason": None}]}),
        event(HEAD | {"id": "chatcmpl-8", "choices": [{"index": 0, "delta": {"content": "喝水"}}]}),
        event(HEAD | {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}),
        event(HEAD | {"choices": [], "usage": USAGE}),
        DONE,
    ],
    "CRLF": [say("多喝水", "stop").replace(b"\n", b"\r\n"), b"data:[DONE]\r\n\r\n"],
    "LONGLINE": [say("水" * 100_000), say("", "stop"), DONE],
    "FLOOD": [*[say("水" * 100_000)] * 100, say("", "stop"), DONE],
    "ENDLESSLINE": [b"data: " + b"x" * 100_000] * 60,
    "NODONE": [say("多喝水", "stop")],
    "NOFINISH": [say("多喝水"), DONE],
    "CUT": [say("多")],
    "EMPTY": [],
    "ONLYDONE": [DONE],
    "NONSENSE": [b"<html>nothing</html>\n", b"\x00\xff\n\n"],
    "NOTJSON": [say("多"), b"data: {nothing\n\n"],
    "ARRAY": [b"data: []\n\n", DONE],
    "WRONGTYPES": [event(HEAD | {"choices": [{"delta": {"content": 7}}]}), DONE],
    "ERROR": [event({"error": {"message": "CUDA error at /opt/vllm"}})],
    "MIDERROR": [say("多"), event({"error": {"message": "CUDA error at /opt/vllm"}}), DONE],
}
PLAIN: dict[str, tuple[str, bytes]] = {  # answered with status 200
    "JSONERROR": ("application/json", b'{"error": {"message": "CUDA error at /opt/vllm", "code": 500}}'),
    "HTML": ("text/html", b"<html>Welcome to nginx</html>"),
    "NULL": ("application/json", b"null"),
    "NOCHOICES": ("application/json", b'{"choices": []}'),
    "HUGE": ("application/json", b" " * 6_000_000),
}


async def hang(request: web.Request) -> web.StreamResponse:
    await asyncio.sleep(3600)
    raise AssertionError


async def streamed(request: web.Request, parts: list[bytes], hangs: bool) -> web.StreamResponse:
    reply = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await reply.prepare(request)
    for part in parts:
        await reply.write(part)
    if hangs:
        await asyncio.sleep(3600)
    return reply


def handler(fault: str) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    async def chat(request: web.Request) -> web.StreamResponse:
        STATE["open"] += 1
        try:
            body = await request.json()
            name = fault or body["messages"][-1]["content"].split()[0]
            if name == "HANG":
                return await hang(request)
            if name in PLAIN:
                kind, data = PLAIN[name]
                return web.Response(body=data, content_type=kind)
            if name == "HANGMIDDLE":
                return await streamed(request, [say("多")], hangs=True)
            if not body.get("stream"):
                choice = {"message": {"content": "多喝水"}}
                return web.json_response({"choices": [choice]})
            return await streamed(request, STREAMS[name], hangs=False)
        finally:
            STATE["open"] -= 1

    return chat


def application(fault: str) -> web.Application:
    async def state(request: web.Request) -> web.Response:
        return web.json_response(STATE)

    app = web.Application()
    app.router.add_post("/v1/chat/completions", handler(fault))
    app.router.add_get("/state", state)
    if fault == "HANG":
        app.router.add_route("*", "/{path:.*}", hang)
    return app


if __name__ == "__main__":
    fault = sys.argv[2] if len(sys.argv) > 2 else ""
    web.run_app(application(fault), host="127.0.0.1", port=int(sys.argv[1]), print=None, handler_cancellation=True)
