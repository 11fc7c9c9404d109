"""Answers to the page's questions: made and kept here whoever reads along, so that a page may leave and come back."""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import Any, NamedTuple

import sqlalchemy as sa
from starlette.concurrency import run_in_threadpool

from app import prometheus
from app.access import Caller
from app.chat import instructed, marked
from app.context import fit
from app.errors import APIError
from app.faults import broken_off
from app.middleware import log
from app.red_flags import Found
from app.replies import pieces
from app.store import Message, Person, Store

TELL_SECONDS = 0.1  # from one event of an answer to the next
KEEP_SECONDS = 5  # how much of a running answer a kill may cost
AGAIN_SECONDS = 5  # until the database is offered again what it did not take
BUSY = "数据库暂时不可用，回答没有保存，请先复制。"
STATES = {"stop": "done", "length": "cut"}


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


class Running:
    """An answer that is being made: its text so far, and who waits for more."""

    def __init__(self, person: str, message: Message) -> None:
        self.person, self.message = person, message
        self.text, self.over = "", False
        self.ending = ""  # the state that it is to end in, once somebody ends it
        self.changed = asyncio.Event()
        self.told = 0.0
        self.telling: asyncio.TimerHandle | None = None
        self.task: asyncio.Task[None] | None = None  # makes and keeps it
        self.work: asyncio.Task[str] | None = None  # the part of that which may be ended

    def end(self, state: str) -> None:
        """End it where it is; what has come is kept all the same."""
        self.ending = self.ending or state
        if self.work:
            self.work.cancel()

    def tell(self) -> None:
        """Wake whoever waits."""
        if self.telling:
            self.telling.cancel()
            self.telling = None
        self.told = time.monotonic()
        self.changed.set()
        self.changed = asyncio.Event()

    def tell_soon(self) -> None:
        """Wake whoever waits, ten times a second at the most: a page shows no more."""
        wait = self.told + TELL_SECONDS - time.monotonic()
        if wait <= 0:
            self.tell()
        elif self.telling is None:
            self.telling = asyncio.get_running_loop().call_later(wait, self.tell)

    async def events(self, place: int) -> AsyncIterator[Event | None]:
        """Yield the answer from `place` on: its text so far at once, then as it comes, then how it ended.

        None now and then where nothing comes.
        """
        about = {"conversation": self.message.conversation, "answer": self.message.id}
        read = len(self.text) - len(after(self.text, place))
        while True:
            changed, over, new = self.changed, self.over, self.text[read:]
            if new:
                read, start = read + len(new), place
                place += units(new)
                yield Event("delta", place, about | {"offset": start, "text": new})
            if over:
                yield Event("end", place, about | {"message": self.message})
                return
            if not new:
                yield None
            await changed.wait()


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
        self.unkept: dict[str, Message] = {}  # answers that are over and that the database did not take
        self.keeping: set[asyncio.Task[None]] = set()

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

    def begin(
        self,
        person: Person,
        said: Sequence[Message],
        found: Sequence[Found],
        begun: Sequence[Message],
        places: Sequence[AsyncExitStack],
    ) -> None:
        """Begin to make answers whose rows are kept already; each frees its place at the gate when it is over.

        `said` is the branch down to the question, `found` the emergencies that the question brings.
        """
        asked = instructed(turns(said), list(found), self.state.settings)
        for message, place in zip(begun, places, strict=True):
            running = self.running[message.id] = Running(person.id, message)
            running.task = asyncio.create_task(self.make(running, asked, list(found), place))

    def named(self, model: str) -> str:
        version = self.state.versions[model]
        return f"{model}@{version}" if version else model

    async def make(self, running: Running, asked: list[dict[str, str]], found: list[Found], place: AsyncExitStack) -> None:
        """Make one answer to its end, whatever that is, and keep it."""
        kept: dict[str, Any] = {"state": "done", "error": "", "dropped": 0}
        running.work = asyncio.create_task(self.stream(running, asked, found, kept))
        if running.ending:
            running.work.cancel()
        keeper = asyncio.create_task(self.keep_now_and_then(running))
        async with place:
            try:
                kept["state"] = await running.work
            except asyncio.CancelledError:
                kept["state"] = running.ending or "lost"
            except APIError as error:
                prometheus.BROKEN_STREAMS.inc()
                kept |= {"state": "failed", "error": error.message}
            except Exception:
                log.exception("answer failed")
                kept |= {"state": "failed", "error": "服务内部出错，已记录。"}
        keeper.cancel()
        await asyncio.gather(keeper, return_exceptions=True)
        await self.finish(running, kept)

    async def stream(self, running: Running, asked: list[dict[str, str]], found: list[Found], kept: dict[str, Any]) -> str:
        """Add to the answer's text as it comes; return the state that it ended in."""
        upstream = self.state.upstreams[running.message.model.partition("@")[0]]
        fitted = await fit(upstream, asked, self.state.settings.max_tokens)
        kept["dropped"] = fitted.dropped
        sent = {"model": upstream.model, "messages": fitted.messages, "stream": True, "max_tokens": fitted.max_tokens}
        finish = "stop"
        async with upstream.chat(sent, running.message.id) as reply:
            start = time.perf_counter()
            async for piece, reason in pieces(reply):
                finish = reason or finish
                if piece and not running.text:
                    prometheus.FIRST_TOKEN.observe(time.perf_counter() - start)
                running.text += piece
                if piece:
                    running.tell_soon()
        if finish not in STATES:
            raise broken_off()
        running.text += marked(running.text, found)
        return STATES[finish]

    async def keep_now_and_then(self, running: Running) -> None:
        kept = ""
        while True:
            await asyncio.sleep(KEEP_SECONDS)
            if running.text == kept:
                running.tell()  # so that its readers' connections live
                continue
            kept = running.text
            with suppress(sa.exc.SQLAlchemyError):
                await run_in_threadpool(self.store.keep_part, running.message.id, kept)

    async def finish(self, running: Running, kept: dict[str, Any]) -> None:
        """Keep an answer that is over, then tell its readers; what the database does not take, it is offered again later."""
        done = running.message._replace(content=running.text, **kept)
        prometheus.ANSWERS.labels(done.state).inc()
        if not await self.keep(done):
            again = asyncio.create_task(self.keep_later(done))
            self.keeping.add(again)
            again.add_done_callback(self.keeping.discard)
            done = self.unkept[done.id] = done._replace(state="failed", error=BUSY)
        running.message, running.over = done, True
        running.tell()
        self.running.pop(done.id, None)

    async def keep(self, done: Message) -> bool:
        values = {name: getattr(done, name) for name in ("content", "state", "error", "dropped")}
        try:
            await run_in_threadpool(self.store.keep_answer, done.id, **values)
        except sa.exc.SQLAlchemyError:
            log.error("answer not kept", extra={"fields": {"answer": done.id}})
            return False
        return True

    async def keep_later(self, done: Message) -> None:
        while True:
            await asyncio.sleep(AGAIN_SECONDS)
            if await self.keep(done):
                del self.unkept[done.id]
                return

    def current(self, message: Message) -> Message:
        """Return a message as it is, where the database does not know yet."""
        kept = self.unkept.get(message.id)
        return message if kept is None else message._replace(content=kept.content, state=kept.state, error=kept.error)

    async def stop(self, person: Person, identity: str) -> Message:
        """End an answer where it is, and return it."""
        running = self.running.get(identity)
        if running is None or running.person != person.id:
            return self.current(await run_in_threadpool(self.store.message, person.id, identity))
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

    async def follow(self, person: Person, identity: str) -> Running:
        """Return an answer to be read along, one that is over too; raises Missing unless it is the person's."""
        running = self.running.get(identity)
        if running is None or running.person != person.id:
            message = await run_in_threadpool(self.store.message, person.id, identity)
            running = Running(person.id, self.current(message))
            running.text, running.over = running.message.content, True
        return running

    async def close(self) -> None:
        """End every answer: the process stops."""
        ending = list(self.running.values())
        for running in ending:
            running.end("lost")
        await asyncio.gather(*(running.task for running in ending if running.task), return_exceptions=True)
        for task in self.keeping:
            task.cancel()
