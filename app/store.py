"""Persons, conversations, feedback and keys, in SQLite or PostgreSQL; what a method has returned from is on the disk."""

import logging
import secrets
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import sqlalchemy as sa

from app.database import BUSY_SECONDS, opened, reading, writers
from app.tables import conversations, feedback, housekeeping, keys, messages, persons, sessions

DAY = 86_400_000  # milliseconds, as all times here
LEAP = 7 * DAY  # of the clock, from which it may be wrong
LOCAL = "local"  # the person at this machine itself, whom no key lets in
QUESTION_IN_TITLE = 24  # characters
EXCERPT_CHARACTERS = 24  # of a match, to each side
log = logging.getLogger("xinglin")


class Key(NamedTuple):
    """A key, and whose it is."""

    id: str
    person: str
    person_name: str
    admin: bool
    name: str
    hash: str
    created_at: int
    expires_at: int | None
    revoked_at: int | None
    used_at: int | None

    @property
    def valid(self) -> bool:
        return self.revoked_at is None and (self.expires_at is None or self.expires_at > now())


class Person(NamedTuple):
    id: str
    name: str
    admin: bool


class Conversation(NamedTuple):
    id: str
    title: str
    pinned: bool
    created_at: int
    updated_at: int


class Message(NamedTuple):
    """A message of a conversation, with what its reader thought of it."""

    id: str
    conversation: str
    parent: str | None
    role: str
    content: str
    created_at: int
    notice: str
    state: str
    error: str
    model: str
    dropped: int
    liked: bool | None
    correction: str | None
    feedback: str | None  # what an administrator made of that

    @property
    def text(self) -> str:
        """What the conversation goes on with."""
        return self.correction or self.content


class Asked(NamedTuple):
    """A question that is kept, in its conversation, and the places of its answers."""

    conversation: Conversation
    question: Message
    answers: list[Message]


class Missing(Exception):
    """There is no such thing, or it is somebody else's."""


class Held(Exception):
    """So much would be deleted by age that the clock may be wrong; says how many conversations of how many."""


def now() -> int:
    return time.time_ns() // 1_000_000


def new_id() -> str:
    return secrets.token_hex(16)


KEY = sa.select(
    keys.c.id,
    keys.c.person_id,
    persons.c.name.label("person_name"),
    persons.c.admin,
    *(keys.c[name] for name in ("name", "hash", "created_at", "expires_at", "revoked_at", "used_at")),
).join(persons, persons.c.id == keys.c.person_id)
CONVERSATION = sa.select(*(conversations.c[name] for name in Conversation._fields))
MESSAGE = (
    sa.select(
        messages.c.id,
        messages.c.conversation_id,
        messages.c.parent_id,
        *(messages.c[name] for name in ("role", "content", "created_at", "notice", "state", "error", "model", "dropped")),
        feedback.c.liked,
        feedback.c.correction,
        feedback.c.state.label("feedback"),
    )
    .join(conversations, messages.c.conversation_id == conversations.c.id)
    .outerjoin(feedback, feedback.c.message_id == messages.c.id)
)


class Store:
    """The tables behind plain methods; every write is one transaction."""

    def __init__(self, url: str) -> None:
        self.engine = opened(url)
        self.reader, self.writers = reading(self.engine), writers(self.engine)

    def close(self) -> None:
        self.engine.dispose()

    @contextmanager
    def write(self) -> Iterator[sa.Connection]:
        if not self.writers.acquire(timeout=BUSY_SECONDS):
            raise sa.exc.TimeoutError("another writer holds the database")
        try:
            with self.engine.begin() as connection:
                yield connection
        finally:
            self.writers.release()

    def read(self, query: sa.Select | sa.CompoundSelect) -> list[Any]:
        with self.reader.connect() as connection:
            return list(connection.execute(query))

    def one(self, query: sa.Select, what: str) -> Any:
        found = self.read(query)
        if not found:
            raise Missing(what)
        return found[0]

    def forget(self) -> None:
        """Take what was deleted out of SQLite's write-ahead log too."""
        if self.engine.dialect.name == "sqlite":
            with self.reader.connect() as connection:
                if connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)").scalar():
                    log.warning("deleted words are in the write-ahead log until the next deletion: somebody reads")

    # persons, their keys and sessions

    def add_key(self, name: str, hashed: str, days: int | None = None, person: str | None = None, admin: bool = False) -> str:
        """Keep a key, of a new person where none is named; return its id."""
        identity = new_id()
        expires = None if days is None else now() + days * DAY
        with self.write() as connection:
            if person is None:
                person = new_id()
                connection.execute(persons.insert().values(id=person, name=name, admin=admin, created_at=now()))
            elif connection.execute(sa.select(persons.c.id).where(persons.c.id == person)).first() is None:
                raise Missing(person)
            connection.execute(
                keys.insert().values(
                    id=identity, person_id=person, name=name, hash=hashed, created_at=now(), expires_at=expires
                )
            )
        return identity

    def key(self, identity: str) -> Key | None:
        found = self.read(KEY.where(keys.c.id == identity))
        return Key(*found[0]) if found else None

    def all_keys(self) -> list[Key]:
        return [Key(*row) for row in self.read(KEY.order_by(keys.c.created_at))]

    def key_used(self, key: Key) -> None:
        """Remember when a key was used, to the hour."""
        if key.used_at is None or now() - key.used_at > DAY // 24:
            with self.write() as connection:
                connection.execute(keys.update().where(keys.c.id == key.id).values(used_at=now()))

    def revoke(self, identity: str) -> None:
        with self.write() as connection:
            if not connection.execute(keys.update().where(keys.c.id == identity).values(revoked_at=now())).rowcount:
                raise Missing(identity)

    def person(self, identity: str) -> Person:
        return Person(
            *self.one(sa.select(*(persons.c[name] for name in Person._fields)).where(persons.c.id == identity), identity)
        )

    def open_session(self, token_hash: str, key: Key, days: int) -> None:
        with self.write() as connection:
            connection.execute(sessions.delete().where(sessions.c.expires_at < now()))
            values = {"token_hash": token_hash, "person_id": key.person, "key_id": key.id, "expires_at": now() + days * DAY}
            connection.execute(sessions.insert().values(values))

    def session(self, token_hash: str) -> Person | None:
        """Return whose session it is, if it and the key that opened it still hold."""
        query = (
            sa.select(*(persons.c[name] for name in Person._fields))
            .join(sessions, sessions.c.person_id == persons.c.id)
            .join(keys, keys.c.id == sessions.c.key_id)
            .where(sessions.c.token_hash == token_hash, sessions.c.expires_at > now(), keys.c.revoked_at.is_(None))
            .where(sa.or_(keys.c.expires_at.is_(None), keys.c.expires_at > now()))
        )
        found = self.read(query)
        return Person(*found[0]) if found else None

    def close_sessions(self, person: str, token_hash: str | None = None) -> None:
        """End one session of a person, or all."""
        own = sessions.c.person_id == person
        with self.write() as connection:
            connection.execute(
                sessions.delete().where(own if token_hash is None else own & (sessions.c.token_hash == token_hash))
            )

    # conversations

    def conversations(
        self, person: str, limit: int | None = 50, before: int | None = None, search: str = "", pinned: bool | None = None
    ) -> list[Conversation]:
        """Return a person's conversations, the latest first; `search` looks in titles and messages."""
        query = CONVERSATION.where(conversations.c.person_id == person)
        if before is not None:
            query = query.where(conversations.c.updated_at < before)
        if pinned is not None:
            query = query.where(conversations.c.pinned.is_(pinned))
        if search:
            said = sa.select(messages.c.conversation_id).where(messages.c.content.icontains(search, autoescape=True))
            query = query.where(conversations.c.title.icontains(search, autoescape=True) | conversations.c.id.in_(said))
        return [Conversation(*row) for row in self.read(query.order_by(conversations.c.updated_at.desc()).limit(limit))]

    def excerpts(self, found: Sequence[Conversation], search: str) -> dict[str, str]:
        """Return, by conversation, the place of its first message that holds `search`."""
        query = (
            sa.select(messages.c.conversation_id, messages.c.content)
            .where(messages.c.conversation_id.in_([c.id for c in found]))
            .where(messages.c.content.icontains(search, autoescape=True))
            .order_by(messages.c.position.desc())
        )
        return {row.conversation_id: excerpt(row.content, search) for row in self.read(query)}

    def conversation(self, person: str, identity: str) -> Conversation:
        own = sa.and_(conversations.c.id == identity, conversations.c.person_id == person)
        return Conversation(*self.one(CONVERSATION.where(own), identity))

    def change_conversation(self, person: str, identity: str, **values: str | bool) -> Conversation:
        own = sa.and_(conversations.c.id == identity, conversations.c.person_id == person)
        with self.write() as connection:
            if values:
                connection.execute(conversations.update().where(own).values(**values))
        return self.conversation(person, identity)

    def delete_conversations(self, person: str, identity: str | None = None) -> None:
        """Delete one of a person's conversations, or all."""
        own = conversations.c.person_id == person
        with self.write() as connection:
            doomed = conversations.delete().where(own if identity is None else own & (conversations.c.id == identity))
            if not connection.execute(doomed).rowcount and identity is not None:
                raise Missing(identity)
        self.forget()

    # messages

    def messages(self, person: str, conversation: str) -> list[Message]:
        """Return every node of a conversation's tree, the oldest first."""
        query = MESSAGE.where(messages.c.conversation_id == conversation, conversations.c.person_id == person)
        return [Message(*row) for row in self.read(query.order_by(messages.c.position))]

    def message(self, person: str, identity: str) -> Message:
        return Message(*self.one(MESSAGE.where(messages.c.id == identity, conversations.c.person_id == person), identity))

    def path(self, person: str, identity: str) -> list[Message]:
        """Return the messages from the first of a conversation down to this one."""
        leaf = self.message(person, identity)
        return branch(self.messages(person, leaf.conversation), identity)

    def ask(
        self,
        person: str,
        conversation: str | None,
        parent: str | None,
        text: str,
        notice: str = "",
        models: Sequence[str] = (),
    ) -> Asked:
        """Keep a question, in a new conversation if none is given, and the places of its answers, one by each model."""
        with self.write() as connection:
            if conversation is None:
                talk, place = begin(connection, person, " ".join(text.split())[:QUESTION_IN_TITLE]), 0
            else:
                talk, place = touch(connection, person, conversation)
            if parent is not None:
                known = messages.c.conversation_id == talk.id, messages.c.id == parent, messages.c.role == "assistant"
                if connection.execute(sa.select(messages.c.id).where(*known)).first() is None:
                    raise Missing(parent)
            question = node(talk.id, parent, "user", content=text, notice=notice, state="done")
            answers = [node(talk.id, question.id, "assistant", model=model, state="running") for model in models]
            append(connection, place, [question, *answers])
        return Asked(talk, question, answers)

    def begin_answer(self, person: str, question: Message, model: str) -> Message:
        """Keep the place of one more answer to a question."""
        with self.write() as connection:
            talk, place = touch(connection, person, question.conversation)
            answer = node(talk.id, question.id, "assistant", model=model, state="running")
            append(connection, place, [answer])
        return answer

    def keep_part(self, identity: str, content: str) -> None:
        """Keep what has come of an answer, unless all of it has been kept meanwhile."""
        with self.write() as connection:
            still = sa.and_(messages.c.id == identity, messages.c.state == "running")
            connection.execute(messages.update().where(still).values(content=content))

    def keep_answer(self, identity: str, **values: Any) -> None:
        """Keep what there is of an answer; nothing where its conversation was deleted meanwhile."""
        with self.write() as connection:
            connection.execute(messages.update().where(messages.c.id == identity).values(**values))

    def lose_running(self) -> int:
        """Mark the answers that a process before this one did not end; return how many."""
        with self.write() as connection:
            return connection.execute(messages.update().where(messages.c.state == "running").values(state="lost")).rowcount

    def aged(self, days: int) -> tuple[int, int]:
        """Return how many conversations were not touched for `days`, and how many there are."""
        old = conversations.c.updated_at < now() - days * DAY
        count = sa.select(sa.func.count(), sa.func.count(sa.case((old, 1)))).select_from(conversations)
        total, doomed = self.read(count)[0]
        return doomed, total

    def expire(self, days: int, sure: bool = False) -> int:
        """Delete conversations not touched for `days`; return how many.

        Raises Held, and deletes nothing, where more than a fifth would go and the clock has leapt by more than a week since
        this last ran: until `sure`, or until the clock is right again.
        """
        old = conversations.c.updated_at < now() - days * DAY
        doomed, total = self.aged(days)
        with self.write() as connection:
            last = connection.execute(sa.select(sa.func.max(conversations.c.updated_at))).scalar() or 0
            ran = connection.execute(sa.select(housekeeping.c.value).where(housekeeping.c.name == "expired")).scalar()
            leapt = now() - (last if ran is None else ran) > LEAP  # what people write has the wrong time too
            held = leapt and doomed * 5 > total and not sure
            if not held:
                connection.execute(housekeeping.delete())
                connection.execute(housekeeping.insert().values(name="expired", value=now()))
                connection.execute(conversations.delete().where(old))
        self.forget()
        if held:
            raise Held(f"{doomed} of {total}")
        return doomed

    # feedback

    def rate(self, person: str, message: str, **given: bool | str | None) -> Message:
        """Keep what a reader thinks of an answer: `liked`, `correction`; what is not given stays as it was."""
        if self.message(person, message).role != "assistant":
            raise Missing(message)
        of_it = feedback.c.message_id == message
        with self.write() as connection:
            connection.execute(sa.select(messages.c.id).where(messages.c.id == message).with_for_update())
            given = given | {"state": "open"}
            if not connection.execute(feedback.update().where(of_it).values(**given)).rowcount:
                connection.execute(feedback.insert().values(message_id=message, created_at=now(), **given))
            taken_back = feedback.c.liked.is_(None) & feedback.c.correction.is_(None)
            connection.execute(feedback.delete().where(of_it, taken_back))
        return self.message(person, message)

    def judged(
        self, state: str | None, before: int | None = None, limit: int | None = None, message: str | None = None
    ) -> list[tuple[Message, str, int]]:
        """Return answers with feedback, the latest first, each with its question and the time of the feedback."""
        asked = messages.alias("asked")
        query = MESSAGE.add_columns(asked.c.content.label("question"), feedback.c.created_at.label("at"))
        query = query.outerjoin(asked, asked.c.id == messages.c.parent_id)
        query = query.where(feedback.c.liked.is_not(None) | feedback.c.correction.is_not(None))
        if state:
            query = query.where(feedback.c.state == state)
        if before is not None:
            query = query.where(feedback.c.created_at < before)
        if message is not None:
            query = query.where(messages.c.id == message)
        rows = self.read(query.order_by(feedback.c.created_at.desc(), messages.c.id).limit(limit))
        return [(Message(*row[: len(Message._fields)]), row.question or "", row.at) for row in rows]

    def judge(self, message: str, state: str) -> None:
        """Keep what an administrator makes of an answer's feedback."""
        with self.write() as connection:
            if not connection.execute(feedback.update().where(feedback.c.message_id == message).values(state=state)).rowcount:
                raise Missing(message)

    def rated(self) -> Iterator[list[Message]]:
        """Yield the messages of each conversation that has feedback, the oldest first."""
        with_feedback = sa.exists().where(
            messages.c.conversation_id == conversations.c.id, feedback.c.message_id == messages.c.id
        )
        query = sa.select(conversations.c.id, conversations.c.person_id).where(with_feedback)
        for row in self.read(query.order_by(conversations.c.created_at, conversations.c.id)):
            yield self.messages(row.person_id, row.id)


def begin(connection: sa.Connection, person: str, title: str) -> Conversation:
    """Add a conversation."""
    talk = Conversation(new_id(), title, False, now(), now())
    connection.execute(conversations.insert(), talk._asdict() | {"person_id": person})
    return talk


def touch(connection: sa.Connection, person: str, conversation: str) -> tuple[Conversation, int]:
    """Return a conversation that goes on now, and the position of its next message; raises Missing if it isn't the person's."""
    own = sa.and_(conversations.c.id == conversation, conversations.c.person_id == person)
    columns = [conversations.c[name] for name in Conversation._fields]
    found = connection.execute(conversations.update().where(own).values(updated_at=now()).returning(*columns)).first()
    if found is None:
        raise Missing(conversation)
    last = sa.select(sa.func.max(messages.c.position)).where(messages.c.conversation_id == conversation)
    place = connection.execute(last).scalar()
    return Conversation(*found), 0 if place is None else place + 1


def node(conversation: str, parent: str | None, role: str, **values: Any) -> Message:
    """Return a new message."""
    empty: dict[str, Any] = {"content": "", "notice": "", "error": "", "model": "", "dropped": 0}
    unrated: dict[str, None] = {"liked": None, "correction": None, "feedback": None}
    place: dict[str, Any] = {"id": new_id(), "conversation": conversation, "parent": parent, "role": role, "created_at": now()}
    return Message(**empty | unrated | place | values)


def append(connection: sa.Connection, place: int, nodes: Sequence[Message]) -> None:
    """Add messages to a conversation, from a position on."""
    names = [name for name in Message._fields if name in messages.c]
    rows = [
        {name: getattr(one, name) for name in names}
        | {"conversation_id": one.conversation, "parent_id": one.parent, "position": place + number}
        for number, one in enumerate(nodes)
    ]
    connection.execute(messages.insert(), rows)


def branch(nodes: Sequence[Message], leaf: str) -> list[Message]:
    """Return the messages of a tree from its root down to `leaf`."""
    by_id = {node.id: node for node in nodes}
    found, place = [], by_id.get(leaf)
    while place is not None:
        found.append(place)
        place = by_id.get(place.parent or "")
    return found[::-1]


def excerpt(text: str, search: str) -> str:
    """Return the surroundings of the first match in a text."""
    place = max(0, text.lower().find(search.lower()))
    start = max(0, place - EXCERPT_CHARACTERS)
    return " ".join(text[start : place + len(search) + EXCERPT_CHARACTERS].split())
