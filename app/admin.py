"""The administrators' API: what readers thought of answers, keys, counts, and what each model was thought of."""

from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request, Response
from pydantic import BaseModel, Field
from starlette.concurrency import run_in_threadpool

from app import counts, exports, store
from app.api import Body, Id, stored
from app.errors import responses
from app.feedback import approved, lines
from app.keys import add
from app.login import Admin
from app.middleware import log

router = APIRouter(
    prefix="/api/admin", tags=["Administration"], responses=responses(400, 401, 403, 404, 413, 415, 422, 500, 503)
)
DAYS = 30
DAY_SECONDS = 86_400
State = Literal["open", "approved", "rejected"]


class Feedback(BaseModel):
    message: str
    conversation: str
    question: str
    answer: str
    liked: bool | None
    correction: str | None
    model: str
    state: str
    created_at: int


class Feedbacks(BaseModel):
    feedback: list[Feedback]
    more: bool


class Judgement(Body):
    state: State


class Key(BaseModel):
    id: str
    name: str
    person: str
    person_name: str
    admin: bool
    created_at: int
    expires_at: int | None
    revoked_at: int | None
    used_at: int | None


class Keys(BaseModel):
    keys: list[Key]


class NewKey(Body):
    name: Annotated[str, Field(pattern=r"^[^\x00-\x1f]{1,80}$")]
    days: Annotated[int, Field(ge=1, le=36_500)] | None = None
    person: Annotated[str, Field(pattern="^([0-9a-f]{32}|local)$")] | None = None


class MadeKey(BaseModel):
    """A new key; it is shown this once."""

    id: str
    key: str


class Day(BaseModel):
    day: str
    questions: int = 0
    answers: int = 0
    liked: int = 0
    disliked: int = 0
    failed: int = 0


class Counts(BaseModel):
    persons: int
    conversations: int
    questions: int
    answers: int
    liked: int
    disliked: int
    corrected: int
    failed: int
    days: list[Day]


class Release(BaseModel):
    """What a model that has answered was thought of."""

    model: str
    answers: int
    liked: int
    disliked: int
    corrected: int
    first_at: int
    last_at: int


class Releases(BaseModel):
    releases: list[Release]


def given(message: store.Message, question: str, at: int) -> Feedback:
    return Feedback(
        message=message.id,
        conversation=message.conversation,
        question=question,
        answer=message.content,
        liked=message.liked,
        correction=message.correction,
        model=message.model,
        state=message.feedback or "open",
        created_at=at,
    )


@router.get("/feedback")
async def feedback(
    request: Request,
    person: Admin,
    state: State | None = None,
    before: Annotated[int | None, Query(ge=0, lt=2**62)] = None,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
) -> Feedbacks:
    """List answers that readers rated or corrected, the latest first."""
    rows = await stored(request, "judged", state, before, limit + 1)
    return Feedbacks(feedback=[given(*row) for row in rows[:limit]], more=len(rows) > limit)


@router.get("/feedback/export", response_class=Response)
async def export(request: Request, person: Admin) -> Response:
    """Give approved dialogues as JSON lines, the next source of training."""
    rows = await run_in_threadpool(lambda: [row for talk in request.app.state.store.rated() for row in approved(talk, True)])
    return exports.file("feedback", "jsonl", lines(rows))


@router.put("/feedback/{identity}")
async def judge(identity: Id, body: Judgement, request: Request, person: Admin) -> Feedback:
    """Approve a reader's feedback, reject it, or open it again."""
    await stored(request, "judge", identity, body.state)
    return next(given(*row) for row in await stored(request, "judged", None, message=identity))


@router.get("/keys")
async def keys(request: Request, person: Admin) -> Keys:
    """List keys and whose they are; what they are is kept nowhere."""
    return Keys(keys=[Key(**key._asdict()) for key in await stored(request, "all_keys")])


@router.post("/keys", status_code=201)
async def new_key(body: NewKey, request: Request, person: Admin) -> MadeKey:
    """Make a key: for a new person, or a further one for `person`."""
    key = await run_in_threadpool(add, request.app.state.store, body.name, body.days, body.person)
    log.info("key made", extra={"fields": {"by": person.id, "key": key.split("-")[1], "person": body.person or "new"}})
    return MadeKey(id=key.split("-")[1], key=key)


@router.delete("/keys/{identity}", status_code=204)
async def revoke(identity: Id, request: Request, person: Admin) -> Response:
    """Stop a key, and the sessions that it opened."""
    await stored(request, "revoke", identity)
    return Response(status_code=204)


@router.get("/counts")
async def count(request: Request, person: Admin) -> Counts:
    """Count what is kept, and the last 30 days."""
    kept, here = request.app.state.store, datetime.now().astimezone()
    today, offset = here.date(), int((here.utcoffset() or timedelta()).total_seconds() * 1000)
    days = {str(today - timedelta(n)): Day(day=str(today - timedelta(n))) for n in range(DAYS)}
    for number, role, state, liked, many in await run_in_threadpool(counts.daily, kept, DAYS, offset):
        day = days.get(str(datetime.fromtimestamp(number * DAY_SECONDS, UTC).date()))
        for name in counted(role, state, liked) if day else ():
            setattr(day, name, getattr(day, name) + many)
    return Counts(**await run_in_threadpool(counts.totals, kept), days=list(days.values()))


def counted(role: str, state: str, liked: bool | None) -> list[str]:
    """Return the counts of a day that a message goes into."""
    found: dict[str, Any] = {
        "questions": role == "user",
        "answers": role == "assistant",
        "liked": liked is True,
        "disliked": liked is False,
        "failed": state in ("failed", "lost"),
    }
    return [name for name, does in found.items() if does]


@router.get("/releases")
async def releases(request: Request, person: Admin) -> Releases:
    """Say what each model that has answered was thought of."""
    return Releases(
        releases=[Release(**row._asdict()) for row in await run_in_threadpool(counts.by_model, request.app.state.store)]
    )
