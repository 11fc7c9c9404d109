"""Answers to the page's questions: made and kept here whoever reads along, so that a page may leave and come back."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, NamedTuple

import sqlalchemy as sa
from starlette.concurrency import run_in_threadpool

from app import prometheus
from app.access import Caller
from app.chat import instructed, marked, pieces
from app.context import fit
from app.errors import APIError
from app.middleware import log
from app.red_flags import Found
from app.store import Message, Person, Store

KEEP_SECONDS = 5  # how much of a running answer a kill may cost
SAVE_TRIES = 3
BUSY = "数据库暂时不可用，回答没有保存，请先复制。"
STATES = {"stop": "done", "length": "cut"}


class Running:
    """An answer that is being made: its text so far, and who waits for more."""

    def __init__(self, person: str, message: Message) -> None:
        self.person, self.message = person, message
        self.text, self.over = "", False
        self.ending = ""  # the state that it is to end in, once somebody ends it
        self.changed = asyncio.Event()
        self.task: asyncio.Task[None] | None = None

    def end(self, state: str) -> None:
        """End it where it is; once only, since a second blow would hit what keeps it."""
        if not self.ending and self.task:
            self.ending = state
            self.task.cancel()

    def tell(self) -> None:
        """Wake whoever waits."""
        self.changed.set()
        self.changed = asyncio.Event()


class Event(NamedTuple):
    """What a reader is sent; `place` is how much of the answer they have after it, in UTF-16 code units."""

    name: str
    place: int
    data: dict[str, Any]


def units(text: str) -> int:
    """Return the length of a text as JavaScript counts it."""
    return len(text.encode("utf-16-le", "surrogatepass")) // 2


def after(text: str, place: int) -> str:
    """Return what stands behind `place` code units."""
    return text.encode("utf-16-le", "surrogatepass")[2 * place :].decode("utf-16-le", "replace")


def turns(path: Sequence[Message]) -> list[dict[str, str]]:
    """Return a branch as the model reads it: without empty answers, neighbours of one role joined."""
    found: list[dict[str, str]] = []
    for message in path:
        if not message.text:
            continue
        if found and found[-1]["role"] == message.role:
            found[-1]["content"] += f"\n{message.text}"
        else:
            found.append({"role": message.role, "content": message.text})
    return found


class Answers:
    """Makes answers, keeps them, and lets any number of readers follow each."""

    def __init__(self, state: Any) -> None:
        self.state = state
        self.running: dict[str, Running] = {}

    @property
    def store(self) -> Store:
        return self.state.store

    @asynccontextmanager
    async def places(self, person: Person, count: int) -> AsyncIterator[list[AsyncExitStack]]:
        """Yield as many places at the gate, to be closed by the answers that take them, or here if the block fails.

        Raises APIError if the person asks too much.
        """
        async with AsyncExitStack() as taken:
            found = []
            for _ in range(count):
                place = await taken.enter_async_context(AsyncExitStack())
                await place.enter_async_context(self.state.gate.turn(Caller(f"person:{person.id}")))
                found.append(place)
            yield found
            taken.pop_all()

    async def begin(
        self,
        person: Person,
        question: Message,
        said: Sequence[Message],
        found: Sequence[Found],
        models: Sequence[str],
        places: Sequence[AsyncExitStack],
    ) -> list[Message]:
        """Begin an answer by each model; each frees its place when it is over.

        `said` is the branch down to the question, `found` the emergencies that the question brings.
        """
        asked = instructed(turns(said), list(found), self.state.settings)
        begun = []
        for model, place in zip(models, places, strict=True):
            message = await run_in_threadpool(self.store.begin_answer, person.id, question, self.named(model))
            running = self.running[message.id] = Running(person.id, message)
            running.task = asyncio.create_task(self.make(running, asked, list(found), model, place))
            begun.append(message)
        return begun

    def named(self, model: str) -> str:
        version = self.state.versions[model]
        return f"{model}@{version}" if version else model

    async def make(
        self, running: Running, asked: list[dict[str, str]], found: list[Found], model: str, place: AsyncExitStack
    ) -> None:
        """Make one answer to its end, whatever that is, and keep it."""
        kept: dict[str, Any] = {"state": "done", "error": "", "dropped": 0}
        keeper = asyncio.create_task(self.keep_now_and_then(running))
        async with place:
            try:
                kept["state"] = await self.stream(running, asked, found, model, kept)
            except asyncio.CancelledError:
                kept["state"] = running.ending
            except APIError as error:
                kept |= {"state": "failed", "error": error.message}
            except Exception:
                log.exception("answer failed")
                kept |= {"state": "failed", "error": "服务内部出错，已记录。"}
        keeper.cancel()
        await asyncio.gather(keeper, return_exceptions=True)
        await self.finish(running, kept)

    async def stream(
        self, running: Running, asked: list[dict[str, str]], found: list[Found], model: str, kept: dict[str, Any]
    ) -> str:
        """Add to the answer's text as it comes; return the state that it ended in."""
        upstream = self.state.upstreams[model]
        fitted = await fit(upstream, asked, self.state.settings.max_tokens)
        kept["dropped"] = fitted.dropped
        sent = {"model": upstream.model, "messages": fitted.messages, "stream": True, "max_tokens": fitted.max_tokens}
        finish = "stop"
        async with upstream.chat(sent, running.message.id) as reply:
            async for piece, reason in pieces(reply):
                finish = reason or finish
                running.text += piece
                if piece:
                    running.tell()
        running.text += marked(running.text, found)
        return STATES.get(finish, "done")

    async def keep_now_and_then(self, running: Running) -> None:
        kept = ""
        while True:
            await asyncio.sleep(KEEP_SECONDS)
            if running.text != kept:
                kept = running.text
                with contextlib.suppress(sa.exc.SQLAlchemyError):
                    await run_in_threadpool(self.store.keep_answer, running.message.id, content=kept)

    async def finish(self, running: Running, kept: dict[str, Any]) -> None:
        """Keep an answer that is over, then tell its readers."""
        identity = running.message.id
        for tried in range(SAVE_TRIES):
            try:
                await run_in_threadpool(self.store.keep_answer, identity, content=running.text, **kept)
                break
            except sa.exc.SQLAlchemyError:
                log.error("answer not kept", extra={"fields": {"answer": identity, "try": tried + 1}})
        else:
            kept |= {"state": "failed", "error": BUSY}
        running.message = running.message._replace(content=running.text, **kept)
        prometheus.ANSWERS.labels(kept["state"]).inc()
        running.over = True
        running.tell()
        self.running.pop(identity, None)

    async def stop(self, person: Person, identity: str) -> Message:
        """End an answer where it is, and return it."""
        running = self.running.get(identity)
        if running is None or running.person != person.id:
            return await run_in_threadpool(self.store.message, person.id, identity)
        running.end("stopped")
        while not running.over:
            await running.changed.wait()
        return running.message

    async def stop_of(self, conversation: str | None, person: Person) -> None:
        """End the answers of a conversation, or of all of a person's."""
        for running in list(self.running.values()):
            if running.person == person.id and conversation in (None, running.message.conversation):
                await self.stop(person, running.message.id)

    def answering(self, person: str, conversation: str) -> list[str]:
        """Return the ids of a conversation's running answers."""
        of = (r.message for r in self.running.values() if r.person == person)
        return [message.id for message in of if message.conversation == conversation]

    async def events(self, person: Person, identity: str, place: int, patience: float) -> AsyncIterator[Event | None]:
        """Yield an answer from `place` on: its text so far at once, then as it comes, then how it ended.

        None where nothing has come for `patience` seconds.
        """
        running = self.running.get(identity)
        if running is None or running.person != person.id:
            running = Running(person.id, await run_in_threadpool(self.store.message, person.id, identity))
            running.text, running.over = running.message.content, True
        about = {"conversation": running.message.conversation, "answer": identity}
        while True:
            changed, over, text = running.changed, running.over, running.text
            if new := after(text, place):
                yield Event("delta", units(text), about | {"offset": place, "text": new})
                place = units(text)
            if over:
                yield Event("end", place, about | {"message": running.message})
                return
            try:
                await asyncio.wait_for(changed.wait(), patience)
            except TimeoutError:
                yield None

    async def close(self) -> None:
        """End every answer: the process stops."""
        ending = list(self.running.values())
        for running in ending:
            running.end("lost")
        await asyncio.gather(*(running.task for running in ending if running.task), return_exceptions=True)
