"""A stand-in for vLLM on loopback: streams an answer that depends on what it is asked, at a given pace, with faults on demand.

Usage: python -m tests.model_server PORT [TOKENS_PER_SECOND [CONTEXT]]

With a CONTEXT of tokens it counts, as vLLM does at /tokenize, a token a character and four a message, and refuses more.
"""

import asyncio
import json
import sys

from aiohttp import web

STATE = {"cancelled": 0, "finished": 0, "seen": [], "keys": [], "tokenized": 0}


def answer_to(messages: list[dict]) -> str:
    """Say the last question back, how many turns came before it, and some Markdown."""
    asked = messages[-1]["content"]
    if "LONG" in asked:
        return "慢慢说。" * 400
    if "SCRIPT" in asked:
        return "<script>window.hacked = 1</script><img src=x onerror='window.hacked = 2'>**加粗**"
    return f"**第{len(messages) // 2 + 1}轮**：您问的是“{asked[:40]}”。\n\n1. 多休息\n2. 多喝水"


def count(messages: list[dict]) -> int:
    return sum(len(message["content"]) + 4 for message in messages)


def event(data: object) -> bytes:
    return f"data: {json.dumps(data, ensure_ascii=False)}\n\n".encode()


def application(pace: float, context: int = 0) -> web.Application:
    async def chat(request: web.Request) -> web.StreamResponse:
        body = await request.json()
        STATE["seen"].append(body)
        STATE["keys"].append(request.headers.get("Authorization"))
        asked = body["messages"][-1]["content"]
        if "TOOLONG" in asked or (context and count(body["messages"]) + body["max_tokens"] > context):
            return web.json_response(
                {"error": {"message": "This model's maximum context length is 64 tokens", "secret": "/opt/vllm/x"}}, status=400
            )
        if "CRASH" in asked:
            return web.json_response({"error": {"message": "CUDA error at /opt/vllm/worker.py"}}, status=500)
        text = answer_to(body["messages"])[: 4 * body.get("max_tokens", 10**6)]
        head = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": body["model"]}
        if not body.get("stream"):
            try:
                await asyncio.sleep(len(text) / 2 / pace if "LONG" in asked else 0)
            except asyncio.CancelledError:
                STATE["cancelled"] += 1
                raise
            choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
            usage = {"prompt_tokens": 9, "completion_tokens": len(text), "total_tokens": 9 + len(text)}
            return web.json_response(head | {"object": "chat.completion", "choices": [choice], "usage": usage})
        reply = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await reply.prepare(request)
        try:
            for start in range(0, len(text), 2):
                delta = {"content": text[start : start + 2]} | ({"role": "assistant"} if start == 0 else {})
                await reply.write(event(head | {"choices": [{"index": 0, "delta": delta, "finish_reason": None}]}))
                if "BREAK" in asked and start >= 10:
                    request.transport.close()
                    return reply
                if "MIDERROR" in asked and start >= 10:
                    await reply.write(event({"error": {"message": "CUDA error at /opt/vllm/worker.py"}}))
                    return reply
                await asyncio.sleep(1 / pace)
            await reply.write(event(head | {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}))
            if (body.get("stream_options") or {}).get("include_usage"):
                await reply.write(
                    event(head | {"choices": [], "usage": {"prompt_tokens": 9, "completion_tokens": 5, "total_tokens": 14}})
                )
            await reply.write(b"data: [DONE]\n\n")
            STATE["finished"] += 1
        except (ConnectionError, asyncio.CancelledError):
            STATE["cancelled"] += 1
            raise
        return reply

    async def tokenize(request: web.Request) -> web.Response:
        STATE["tokenized"] += 1
        return web.json_response({"count": count((await request.json())["messages"]), "max_model_len": context, "tokens": []})

    async def models(request: web.Request) -> web.Response:
        return web.json_response({"object": "list", "data": [{"id": "xinglin", "max_model_len": context}]})

    async def state(request: web.Request) -> web.Response:
        return web.json_response(STATE)

    app = web.Application()
    app.router.add_post("/v1/chat/completions", chat)
    app.router.add_get("/state", state)
    if context:
        app.router.add_post("/tokenize", tokenize)
        app.router.add_get("/v1/models", models)
    return app


if __name__ == "__main__":
    pace = float(sys.argv[2]) if len(sys.argv) > 2 else 50.0
    context = int(sys.argv[3]) if len(sys.argv) > 3 else 0
    web.run_app(application(pace, context), host="127.0.0.1", port=int(sys.argv[1]), print=None, handler_cancellation=True)
