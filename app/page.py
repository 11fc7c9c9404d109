"""The chat page, by Gradio: people ask in turns, answers stream, and everything is kept before it is shown as done."""

import asyncio
import html
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import gradio as gr
from fastapi import FastAPI
from fastapi.responses import FileResponse, Response
from starlette.concurrency import run_in_threadpool

from app import login
from app.access import Caller
from app.chat import instructed, marked, pieces, urgent
from app.errors import APIError
from app.login import EXPORT, PATH, user_of
from app.red_flags import notice
from app.store import Message, Missing, new_id, pairs
from xinglin.dialogues.cleaning import tidy
from xinglin.dialogues.dialogue import Unusable

HERE = Path(__file__).parent
DISCLAIMER = "本页由语言模型回答，不是医生，可能出错，不能代替就诊。紧急情况请立即拨打 120；心理危机请拨打 12356。"
EXAMPLES = (
    "感冒三天了，要吃消炎药吗？",
    "体检说血压 145/92，需要吃药吗？",
    "孩子发烧 38.2℃，精神还好，怎么护理？",
    "幽门螺杆菌阳性一定要治吗？",
)
LOADING = "⏳ 模型正在加载，通常需要一两分钟；可以先写好问题。"
THEME_BUTTON = (
    '<button type="button" id="theme" aria-label="切换深色与浅色" '
    """onclick="document.body.classList.toggle('dark')">◐</button>"""
)
HEAD = """<script>document.documentElement.lang = "zh-CN";</script>"""
FOCUS = "() => document.querySelector('#question textarea').focus()"  # once: autofocus would take it back at each update
CONFIRM = """() => { if (!confirm("确定删除您的全部对话吗？删除后无法恢复。")) throw new Error("cancelled"); }"""
FONTS = ("system-ui", "PingFang SC", "Microsoft YaHei", "Noto Sans CJK SC", "sans-serif")


def mount(app: FastAPI) -> None:
    """Put the page at PATH, behind its door."""
    login.install(app)
    gr.mount_gradio_app(
        app,
        Page(app).blocks(),
        path=PATH,
        auth_dependency=lambda request: user_of(request, app.state.store),
        show_error=False,
        show_api=False,
    )

    @app.get("/favicon.ico", include_in_schema=False)
    def favicon() -> Response:
        return FileResponse(HERE / "apricot.svg", media_type="image/svg+xml")


def shown(text: str) -> str:
    """Return a text for the chat view: Markdown as it is, HTML as text."""
    return text.replace("&", "&amp;").replace("<", "&lt;")


def alert(found: str) -> dict[str, Any]:
    """Return the update of the emergency notice on top of the page."""
    lines = "".join(f"<p>{html.escape(line)}</p>" for line in found.splitlines())
    return gr.update(value=f'<div role="alert">{lines}</div>', visible=bool(found))


class Page:
    """What the page does; the application's state gives it the store, the gate and the model's server."""

    def __init__(self, app: FastAPI) -> None:
        self.app = app.state
        self.answering: dict[str, asyncio.Event] = {}  # by conversation, set when its answer is kept

    async def stored(self, method: str, *arguments: Any, **options: Any) -> Any:
        """Call a method of the store beside the event loop."""
        return await run_in_threadpool(getattr(self.app.store, method), *arguments, **options)

    async def opened(self, user: str, conversation: str | None) -> tuple[list[dict], list[str]]:
        """Return a conversation's messages for the view, and their ids."""
        kept: list[Message] = await self.stored("messages", user, conversation) if conversation else []
        view = [{"role": message.role, "content": shown(message.correction or message.content)} for message in kept]
        return view, [message.id for message in kept]

    async def ask(self, text: str, conversation: str | None, request: gr.Request) -> AsyncIterator[dict]:
        """Keep the question, show an emergency notice if it needs one, stream the answer, keep it."""
        user = request.username
        if conversation in self.answering:
            yield {self.status: gr.update(value="请等这个回答说完，或先点“停止”。", visible=True)}
            return
        try:
            text = tidy(text or "", Counter())
        except Unusable:
            text = ""
        if not text:
            yield {self.status: gr.update(value="请先写下问题。", visible=True)}
            return
        if len(text) > self.app.settings.max_message_characters:
            yield {
                self.status: gr.update(value=f"问题太长，最多 {self.app.settings.max_message_characters} 个字。", visible=True)
            }
            return
        try:
            conversation, _ = await self.stored("ask", user, conversation, text)
        except Missing:
            conversation, _ = await self.stored("ask", user, None, text)
        async for update in self.answer(user, conversation, text):
            yield update

    async def answer(self, user: str, conversation: str, text: str) -> AsyncIterator[dict]:
        """Stream the answer to the last question of a conversation."""
        view, ids = await self.opened(user, conversation)
        past = pairs(await self.stored("messages", user, conversation))[-(self.app.settings.max_turns // 2) + 1 :]
        turns = [{"role": m.role, "content": m.correction or m.content} for pair in past for m in pair]
        turns.append({"role": "user", "content": text})
        found = await run_in_threadpool(urgent, turns, self.app.settings)
        busy = {self.question: gr.update(value=""), self.send: gr.update(visible=False), self.stop: gr.update(visible=True)}
        yield busy | {
            self.alert: alert(notice(found)),
            self.chat: view,
            self.ids: ids,
            self.conversation: conversation,
            self.status: gr.update(visible=False),
            self.correction: gr.update(visible=False),
        }
        said, finish, trouble = "", "stopped", ""
        sent = {
            "model": self.app.model,
            "messages": instructed(turns, found, self.app.settings),
            "stream": True,
            "max_tokens": self.app.settings.max_tokens,
        }
        done = self.answering[conversation] = asyncio.Event()
        try:
            async with self.app.gate.turn(Caller(f"user:{user}")), self.app.upstream.chat(sent, new_id()) as reply:
                async for piece, reason in pieces(reply):
                    finish = reason or finish
                    piece += marked(said + piece, found) if reason else ""
                    said += piece
                    if piece:
                        yield {self.chat: [*view, {"role": "assistant", "content": shown(said)}]}
        except APIError as error:
            trouble, finish = error.message, "error"
        finally:
            if said:
                await asyncio.shield(
                    self.stored("answer", user, conversation, said, f"{self.app.model}@{self.app.version}", finish)
                )
            done.set()
            self.answering.pop(conversation, None)
        view, ids = await self.opened(user, conversation)
        if trouble:
            trouble += "点“重新回答”可以再试一次。"
        yield self.at_rest(trouble) | {self.chat: view, self.ids: ids, self.history: await self.listed(user, conversation)}

    def at_rest(self, trouble: str = "") -> dict:
        """Return the buttons as they are when nothing is being answered, and what went wrong."""
        return {
            self.send: gr.update(visible=True),
            self.stop: gr.update(visible=False),
            self.status: gr.update(value=trouble, visible=bool(trouble)),
        }

    async def stopped(self, conversation: str | None, request: gr.Request) -> dict:
        """Show what had come when the reader stopped it."""
        if running := self.answering.get(conversation or ""):
            with suppress(TimeoutError):
                await asyncio.wait_for(running.wait(), 5)
        view, ids = await self.opened(request.username, conversation)
        return self.at_rest() | {
            self.chat: view,
            self.ids: ids,
            self.history: await self.listed(request.username, conversation),
        }

    async def example(self, given: gr.SelectData, conversation: str | None, request: gr.Request) -> AsyncIterator[dict]:
        async for update in self.ask(given.value["text"], conversation, request):
            yield update

    async def again(self, conversation: str | None, request: gr.Request) -> AsyncIterator[dict]:
        """Ask the last question once more; the answer that it had is replaced."""
        user = request.username
        if conversation is None or conversation in self.answering:
            return
        try:
            text = await self.stored("take_back", user, conversation)
        except Missing:
            return
        await self.stored("ask", user, conversation, text)
        async for update in self.answer(user, conversation, text):
            yield update

    async def listed(self, user: str, chosen: str | None) -> dict:
        """Return the update of the list of conversations."""
        known = await self.stored("conversations", user)
        return gr.update(choices=[(title, identity) for identity, title in known], value=chosen)

    async def load(self, conversation: str | None, request: gr.Request) -> dict:
        view, ids = await self.opened(request.username, conversation)
        return {
            self.conversation: conversation,
            self.chat: view,
            self.ids: ids,
            self.alert: gr.update(visible=False),
            self.correction: gr.update(visible=False),
        }

    async def fresh(self, request: gr.Request) -> dict:
        return await self.load(None, request) | {self.history: await self.listed(request.username, None)}

    async def enter(self, request: gr.Request) -> dict:
        """Fill the page when it opens: the list of conversations, and the latest of them."""
        known = await self.stored("conversations", request.username, limit=1)
        latest = known[0][0] if known else None
        return (
            await self.load(latest, request) | {self.history: await self.listed(request.username, latest)} | await self.check()
        )

    async def check(self) -> dict:
        """Say whether the model is there yet."""
        ready = await self.app.upstream.ready()
        return {self.loading: gr.update(value="" if ready else LOADING, visible=not ready)}

    async def rate(self, ids: list[str], request: gr.Request, given: gr.LikeData) -> None:
        await self.stored("rate", request.username, ids[given.index], liked=given.liked is True)
        gr.Info("谢谢您的反馈。")

    async def correct(self, text: str, ids: list[str], conversation: str | None, request: gr.Request) -> dict:
        """Keep what the last answer should have been."""
        text = tidy(text or "", Counter())
        if text and ids:
            await self.stored("rate", request.username, ids[-1], correction=text)
            gr.Info("已保存您改正的答案。")
        view, _ = await self.opened(request.username, conversation)
        return {self.chat: view, self.correction: gr.update(visible=False)}

    async def erase(self, request: gr.Request) -> dict:
        """Delete every conversation of the person; their cookie stays good."""
        for identity, _ in await self.stored("conversations", request.username, limit=None):
            await self.stored("delete_conversation", request.username, identity)
        gr.Info("您的对话已全部删除。")
        return await self.fresh(request)

    def blocks(self) -> gr.Blocks:
        """Return the page's layout, and what each part of it does."""
        theme = gr.themes.Default(primary_hue="orange", font=FONTS, font_mono=("monospace",))
        css = (HERE / "page.css").read_text(encoding="utf-8")
        with gr.Blocks(
            title="杏林 · 医疗问答", theme=theme, css=css, head=HEAD, analytics_enabled=False, fill_height=True
        ) as blocks:
            self.conversation, self.ids = gr.State(None), gr.State([])
            with gr.Sidebar(open=False, width=280):
                fresh = gr.Button("新对话", variant="primary")
                self.history = gr.Radio(label="历史对话", choices=[], elem_id="history")
                gr.Button("导出我的对话", size="sm", link=EXPORT)
                erase = gr.Button("删除我的全部对话", size="sm", variant="stop")
            version = f" · {self.app.version}" if self.app.version else ""
            gr.HTML(
                '<header><h1>杏林</h1><span id="model">模型 '
                f"{html.escape(self.app.model)}{version}</span>{THEME_BUTTON}</header>"
            )
            gr.HTML(f'<p role="note" id="disclaimer">⚠️ {DISCLAIMER}</p>')
            self.alert = gr.HTML(visible=False, elem_id="alert")
            self.loading = gr.Markdown(visible=False, elem_id="loading")
            self.chat = gr.Chatbot(
                type="messages",
                label="对话",
                show_label=False,
                show_copy_button=True,
                elem_id="chat",
                height=None,
                scale=1,
                latex_delimiters=[],
                examples=[{"text": example} for example in EXAMPLES],
                layout="bubble",
            )
            self.status = gr.Markdown(visible=False, elem_id="status")
            with gr.Group(visible=False) as self.correction:
                corrected = gr.Textbox(label="您认为正确的答案", lines=4, max_length=self.app.settings.max_message_characters)
                save = gr.Button("保存改正")
            with gr.Row(elem_id="bar"):
                again = gr.Button("重新回答", size="sm", min_width=80)
                fix = gr.Button("改正答案", size="sm", min_width=80)
            with gr.Row(elem_id="ask"):
                self.question = gr.Textbox(
                    show_label=False,
                    label="您的问题",
                    placeholder="写下您的问题（Shift+回车换行）",
                    lines=1,
                    max_lines=6,
                    scale=8,
                    submit_btn=False,
                    elem_id="question",
                    container=False,
                    max_length=self.app.settings.max_message_characters,
                )
                self.send = gr.Button("发送", variant="primary", scale=1, min_width=72)
                self.stop = gr.Button("停止", variant="stop", scale=1, min_width=72, visible=False)

            all_parts = [
                self.conversation,
                self.ids,
                self.chat,
                self.alert,
                self.correction,
                self.history,
                self.status,
                self.loading,
                self.question,
                self.send,
                self.stop,
            ]
            quiet: dict[str, Any] = {"outputs": all_parts, "concurrency_limit": None, "show_progress": "hidden"}
            streaming, quick = quiet | {"trigger_mode": "multiple"}, quiet | {"queue": False}
            asked = gr.on([self.question.submit, self.send.click], self.ask, [self.question, self.conversation], **streaming)
            picked = self.chat.example_select(self.example, [self.conversation], **streaming)
            retried = gr.on([again.click, self.chat.retry], self.again, [self.conversation], **streaming)
            self.stop.click(self.stopped, [self.conversation], cancels=[asked, picked, retried], **quick)
            self.chat.like(self.rate, [self.ids], None, show_progress="hidden")
            fix.click(lambda: gr.update(visible=True), None, self.correction, queue=False)
            save.click(self.correct, [corrected, self.ids, self.conversation], **quiet)
            fresh.click(self.fresh, None, **quick)
            self.history.input(self.load, [self.history], **quick)
            erase.click(self.erase, None, js=CONFIRM, **quiet)
            blocks.load(self.enter, None, js=FOCUS, **quick)
            gr.Timer(5).tick(self.check, None, **quick)
        return blocks
