"""The page's own API: sessions, conversations, questions and answers, exports. Described at /openapi.json."""

from collections import Counter
from collections.abc import AsyncIterator
from typing import Annotated, Any, Literal, Self

import orjson
from fastapi import APIRouter, Path, Query, Request, Response
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, ConfigDict, Field
from starlette.concurrency import run_in_threadpool

from app import exports, store
from app.answers import Answers, Running, turns
from app.chat import urgent
from app.errors import APIError, responses
from app.login import COOKIE, Who, token_of
from app.red_flags import Found, notice
from app.words import PAGE
from xinglin.dialogues.cleaning import tidy
from xinglin.dialogues.dialogue import Unusable

router = APIRouter(prefix="/api", tags=["Page"], responses=responses(400, 401, 403, 404, 413, 415, 422, 429, 500, 503))
SEARCH_CHARACTERS = 100
TITLE_CHARACTERS = 100
Id = Annotated[str, Path(pattern="^[0-9a-f]{32}$")]


class Body(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Model(BaseModel):
    id: str
    version: str


class Person(BaseModel):
    id: str
    name: str
    admin: bool
    local: bool


class Session(BaseModel):
    """Who asks, what answers, and what the page says."""

    person: Person
    models: list[Model]
    ready: bool
    limits: dict[str, int]
    page: dict[str, str | list[str]]


class Status(BaseModel):
    ready: bool
    models: list[Model]


class Conversation(BaseModel):
    id: str
    title: str
    pinned: bool
    created_at: int
    updated_at: int
    answering: list[str]
    match: str | None = None


class Conversations(BaseModel):
    conversations: list[Conversation]
    more: bool


class Message(BaseModel):
    """A node of a conversation's tree: children of one parent are branches."""

    id: str
    parent: str | None
    role: Literal["user", "assistant"]
    content: str
    created_at: int
    notice: str
    state: Literal["running", "done", "stopped", "cut", "failed", "lost"]
    error: str
    model: str
    dropped: int
    liked: bool | None
    correction: str | None

    @classmethod
    def of(cls, message: store.Message) -> Self:
        return cls(**{name: getattr(message, name) for name in cls.model_fields})


class Talk(Conversation):
    messages: list[Message]


class Asked(BaseModel):
    conversation: Conversation
    question: Message
    answers: list[Message]


class Again(BaseModel):
    answers: list[Message]


class Login(Body):
    key: Annotated[str, Field(max_length=200)]


class Change(Body):
    title: Annotated[str, Field(min_length=1, max_length=TITLE_CHARACTERS)] | None = None
    pinned: bool | None = None


class Question(Body):
    conversation: Annotated[str, Field(pattern="^[0-9a-f]{32}$")] | None = None
    parent: Annotated[str, Field(pattern="^[0-9a-f]{32}$")] | None = None
    text: str
    models: Annotated[list[str], Field(min_length=1, max_length=4)] | None = None


class AskAgain(Body):
    model: str | None = None


class Rating(Body):
    """What a reader thinks of an answer; what is left out stays as it was, null takes it back."""

    liked: bool | None = None
    correction: str | None = None


def answers_of(request: Request) -> Answers:
    return request.app.state.answers


async def stored(request: Request, method: str, *arguments: Any, **options: Any) -> Any:
    """Call a method of the store beside the event loop."""
    return await run_in_threadpool(getattr(request.app.state.store, method), *arguments, **options)


def models(request: Request) -> list[Model]:
    return [Model(id=name, version=version) for name, version in request.app.state.versions.items()]


def shown(request: Request, person: store.Person, found: store.Conversation, match: str | None = None) -> Conversation:
    return Conversation(**found._asdict(), answering=answers_of(request).answering(person.id, found.id), match=match)


def checked(request: Request, text: str, what: str = "问题") -> str:
    """Return a text as it is kept; raises APIError for what a message may not be."""
    limit = request.app.state.settings.max_message_characters
    try:
        text = tidy(text, Counter())
    except Unusable:
        raise APIError(400, "内容含有损坏的字符。", "invalid_text", "text") from None
    if not text:
        raise APIError(400, f"{what}不能为空。", "empty_message", "text")
    if len(text) > limit:
        raise APIError(400, f"{what}太长，最多 {limit} 个字。", "message_too_long", "text")
    return text


def chosen(request: Request, wanted: list[str] | None) -> list[str]:
    known = list(request.app.state.upstreams)
    for name in wanted or []:
        if name not in known:
            raise APIError(404, f"没有模型 {name[:80]}。", "model_not_found", "models")
    return list(dict.fromkeys(wanted or known[:1]))


# sessions


@router.get("/session")
async def session(request: Request, person: Who) -> Session:
    """Say who asks, which models answer, and what the page is to show."""
    state = request.app.state
    return Session(
        person=Person(**person._asdict(), local=person.id == store.LOCAL and not token_of(request)),
        models=models(request),
        ready=await state.upstream.ready(),
        limits={"message_characters": state.settings.max_message_characters},
        page=PAGE,
    )


@router.post("/session", status_code=204)
async def login(body: Login, request: Request) -> Response:
    """Let somebody in by a key: a cookie knows them from now on."""
    return await request.app.state.logins.let_in(request, body.key)


@router.delete("/session", status_code=204)
async def logout(request: Request, person: Who) -> Response:
    """Log out."""
    if token := token_of(request):
        await stored(request, "close_sessions", person.id, token)
    return gone()


@router.delete("/sessions", status_code=204)
async def logout_everywhere(request: Request, person: Who) -> Response:
    """Log out on every device."""
    await stored(request, "close_sessions", person.id)
    return gone()


def gone() -> Response:
    answer = Response(status_code=204)
    answer.delete_cookie(COOKIE)
    return answer


@router.get("/status")
async def status(request: Request, person: Who) -> Status:
    """Say whether the model answers now."""
    return Status(ready=await request.app.state.upstream.ready(), models=models(request))


# conversations


@router.get("/conversations")
async def conversations(
    request: Request,
    person: Who,
    search: Annotated[str, Query(max_length=SEARCH_CHARACTERS)] = "",
    before: Annotated[int | None, Query(ge=0, lt=2**62)] = None,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
) -> Conversations:
    """List one's conversations: pinned ones first, then the latest."""
    search = search.replace("\0", "").strip()
    if search:
        rows = await stored(request, "conversations", person.id, limit + 1, before, search)
        pinned: list[store.Conversation] = []
        matches = await stored(request, "excerpts", rows, search)
    else:
        rows = await stored(request, "conversations", person.id, limit + 1, before, pinned=False)
        pinned = [] if before else await stored(request, "conversations", person.id, None, pinned=True)
        matches = {}
    found = [shown(request, person, row, matches.get(row.id)) for row in [*pinned, *rows[:limit]]]
    return Conversations(conversations=found, more=len(rows) > limit)


@router.delete("/conversations", status_code=204)
async def delete_all(request: Request, person: Who) -> Response:
    """Delete all of one's conversations."""
    await answers_of(request).stop_of(None, person)
    await stored(request, "delete_conversations", person.id)
    return Response(status_code=204)


@router.get("/conversations/{identity}")
async def conversation(identity: Id, request: Request, person: Who) -> Talk:
    """Give a conversation with every message of its tree, the oldest first."""
    found = await stored(request, "conversation", person.id, identity)
    nodes = [answers_of(request).current(node) for node in await stored(request, "messages", person.id, identity)]
    return Talk(**shown(request, person, found).model_dump(), messages=[Message.of(node) for node in nodes])


@router.patch("/conversations/{identity}")
async def change(identity: Id, body: Change, request: Request, person: Who) -> Conversation:
    """Rename or pin a conversation."""
    values = body.model_dump(exclude_none=True)
    if body.title is not None:
        values["title"] = checked(request, body.title, "名称")
    return shown(request, person, await stored(request, "change_conversation", person.id, identity, **values))


@router.delete("/conversations/{identity}", status_code=204)
async def delete(identity: Id, request: Request, person: Who) -> Response:
    """Delete a conversation."""
    await answers_of(request).stop_of(identity, person)
    await stored(request, "delete_conversations", person.id, identity)
    return Response(status_code=204)


# questions and answers


@router.post("/questions", status_code=201)
async def ask(body: Question, request: Request, person: Who) -> Asked:
    """Keep a question and begin its answer; it goes on whether or not anybody reads along."""
    text, wanted = checked(request, body.text), chosen(request, body.models)
    before: list[store.Message] = []
    if body.parent:
        before = [answers_of(request).current(one) for one in await stored(request, "path", person.id, body.parent)]
        if before[-1].state == "running":
            raise APIError(409, "请等这个回答说完，或先停止。", "still_answering", "parent")
    elif body.conversation:
        await stored(request, "conversation", person.id, body.conversation)
    conversation = body.conversation or (before[-1].conversation if before else None)
    answers = answers_of(request)
    async with answers.places(person, len(wanted)) as places:
        names = [answers.named(model) for model in wanted]

        def keep() -> tuple[list[Found], store.Asked]:
            state = request.app.state
            found = urgent([*turns(before), {"role": "user", "content": text}], state.settings)
            return found, state.store.ask(person.id, conversation, body.parent, text, notice(found), names)

        found, kept = await run_in_threadpool(keep)
        answers.begin(person, [*before, kept.question], found, kept.answers, places)
    return Asked(
        conversation=shown(request, person, kept.conversation),
        question=Message.of(kept.question),
        answers=[Message.of(one) for one in kept.answers],
    )


@router.post("/questions/{identity}/answers", status_code=201)
async def ask_again(identity: Id, body: AskAgain, request: Request, person: Who) -> Again:
    """Answer a question once more; the answers that it has stay as branches."""
    said = await stored(request, "path", person.id, identity)
    if said[-1].role != "user":
        raise store.Missing(identity)
    [model], answers = chosen(request, [body.model] if body.model else None), answers_of(request)
    async with answers.places(person, 1) as places:
        found = await run_in_threadpool(urgent, turns(said), request.app.state.settings)
        begun = [await stored(request, "begin_answer", person.id, said[-1], answers.named(model))]
        answers.begin(person, said, found, begun, places)
    return Again(answers=[Message.of(one) for one in begun])


@router.post("/answers/{identity}/stop")
async def stop(identity: Id, request: Request, person: Who) -> Message:
    """End an answer where it is; what has come is kept."""
    return Message.of(await answers_of(request).stop(person, identity))


@router.get(
    "/answers/{identity}/events",
    response_class=Response,
    responses={200: {"content": {"text/event-stream": {"schema": {"type": "string"}}}}},
)
async def events(
    identity: Id, request: Request, person: Who, start: Annotated[int, Query(alias="from", ge=0, lt=2**31)] = 0
) -> Response:
    """Follow an answer from `from` (or Last-Event-ID) UTF-16 code units on: events `delta`, then `end`."""
    last = request.headers.get("last-event-id", "")
    place = int(last) if last.isascii() and last.isdigit() and len(last) < 10 else start
    running = await answers_of(request).follow(person, identity)
    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    return StreamingResponse(sent(running, place), 200, headers, "text/event-stream")


async def sent(running: Running, place: int) -> AsyncIterator[bytes]:
    """Yield an answer's events as Server-Sent Events, and a comment now and then where nothing comes."""
    async for event in running.events(place):
        if event is None:
            yield b": ping\n\n"
            continue
        data = event.data
        if event.name == "end":
            data = data | {"message": Message.of(data["message"]).model_dump()}
        yield b"id: %d\nevent: %b\ndata: %b\n\n" % (event.place, event.name.encode(), orjson.dumps(data))


@router.put("/answers/{identity}/feedback")
async def rate(identity: Id, body: Rating, request: Request, person: Who) -> Message:
    """Keep what one thinks of an answer: thumbs up or down, or what it should have been."""
    given = body.model_dump(exclude_unset=True)
    if given.get("correction") is not None:
        given["correction"] = checked(request, given["correction"], "改正")
    return Message.of(await stored(request, "rate", person.id, identity, **given))


# exports


@router.get("/conversations/{identity}/export", response_class=Response)
async def export(
    identity: Id, request: Request, person: Who, leaf: Annotated[str | None, Query(pattern="^[0-9a-f]{32}$")] = None
) -> Response:
    """Give a conversation as a Markdown file; `leaf` is the last message of the branch, by default the latest."""
    found = await stored(request, "conversation", person.id, identity)
    nodes = await stored(request, "messages", person.id, identity)
    path = store.branch(nodes, leaf or (nodes[-1].id if nodes else ""))
    provider = request.app.state.settings.provider
    return exports.file(found.title, "md", await run_in_threadpool(exports.markdown, found, path, provider))


@router.get("/export", response_class=Response)
async def export_all(request: Request, person: Who) -> Response:
    """Give all that is kept of a person as one JSON file, which is written nowhere here."""
    found = [
        (one, await stored(request, "messages", person.id, one.id))
        for one in await stored(request, "conversations", person.id, None)
    ]
    provider = request.app.state.settings.provider
    return exports.file("我的对话", "json", await run_in_threadpool(exports.whole, person, found, provider))
