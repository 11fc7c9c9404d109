"""Conversations, feedback and API keys, in SQLite or PostgreSQL; what a method has returned from is on the disk."""

import itertools
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import sqlalchemy as sa
from alembic import command
from alembic.config import Config

MIGRATIONS = Path(__file__).parent / "migrations"
DAY = 86_400_000  # milliseconds, as all times here

metadata = sa.MetaData()
users = sa.Table(
    "users",
    metadata,
    sa.Column("id", sa.String(32), primary_key=True),
    sa.Column("token_hash", sa.String(64), nullable=False, unique=True),
    sa.Column("key_id", sa.String(32), nullable=True),
    sa.Column("created_at", sa.BigInteger, nullable=False),
)
keys = sa.Table(
    "keys",
    metadata,
    sa.Column("id", sa.String(32), primary_key=True),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("hash", sa.String(64), nullable=False),
    sa.Column("created_at", sa.BigInteger, nullable=False),
    sa.Column("expires_at", sa.BigInteger, nullable=True),
    sa.Column("revoked_at", sa.BigInteger, nullable=True),
)
conversations = sa.Table(
    "conversations",
    metadata,
    sa.Column("id", sa.String(32), primary_key=True),
    sa.Column("user_id", sa.String(32), sa.ForeignKey("users.id", ondelete="CASCADE"), nullable=False, index=True),
    sa.Column("title", sa.Text, nullable=False),
    sa.Column("created_at", sa.BigInteger, nullable=False),
    sa.Column("updated_at", sa.BigInteger, nullable=False, index=True),
)
messages = sa.Table(
    "messages",
    metadata,
    sa.Column("id", sa.String(32), primary_key=True),
    sa.Column(
        "conversation_id", sa.String(32), sa.ForeignKey("conversations.id", ondelete="CASCADE"), nullable=False, index=True
    ),
    sa.Column("position", sa.Integer, nullable=False),
    sa.Column("role", sa.String(16), nullable=False),
    sa.Column("content", sa.Text, nullable=False),
    sa.Column("model", sa.Text, nullable=True),  # what answered: name and version
    sa.Column("finish_reason", sa.String(16), nullable=True),  # stop, length, stopped (by the reader) or error
    sa.Column("created_at", sa.BigInteger, nullable=False),
    sa.UniqueConstraint("conversation_id", "position"),
)
feedback = sa.Table(
    "feedback",
    metadata,
    sa.Column("message_id", sa.String(32), sa.ForeignKey("messages.id", ondelete="CASCADE"), primary_key=True),
    sa.Column("liked", sa.Boolean, nullable=True),
    sa.Column("correction", sa.Text, nullable=True),
    sa.Column("created_at", sa.BigInteger, nullable=False),
)


class Key(NamedTuple):
    id: str
    name: str
    hash: str
    expires_at: int | None
    revoked_at: int | None

    @property
    def valid(self) -> bool:
        return self.revoked_at is None and (self.expires_at is None or self.expires_at > now())


class Message(NamedTuple):
    """A message of a conversation, with what its reader thought of it."""

    id: str
    role: str
    content: str
    finish_reason: str | None
    liked: bool | None = None
    correction: str | None = None


def pairs(messages: list[Message]) -> list[tuple[Message, Message]]:
    """Return each question with its answer; a question that was left without one is left out."""
    return [(asked, said) for asked, said in itertools.pairwise(messages) if (asked.role, said.role) == ("user", "assistant")]


class Missing(Exception):
    """There is no such thing, or it is somebody else's."""


def now() -> int:
    return time.time_ns() // 1_000_000


def new_id() -> str:
    return secrets.token_hex(16)


class Store:
    """The tables above behind plain methods; every write is one transaction."""

    def __init__(self, url: str) -> None:
        if url.startswith("sqlite:///"):
            Path(url.removeprefix("sqlite:///")).absolute().parent.mkdir(parents=True, exist_ok=True)
        self.engine = sa.create_engine(url, pool_pre_ping=True)
        if self.engine.dialect.name == "sqlite":
            sa.event.listen(self.engine, "connect", prepare_sqlite)
            sa.event.listen(self.engine, "begin", begin_sqlite)
        config = Config()
        config.set_main_option("script_location", str(MIGRATIONS))
        with self.engine.begin() as connection:
            config.attributes["connection"] = connection
            command.upgrade(config, "head")

    def close(self) -> None:
        self.engine.dispose()

    @contextmanager
    def write(self) -> Iterator[sa.Connection]:
        with self.engine.begin() as connection:
            yield connection

    def read(self, query: sa.Select) -> list[Any]:
        with self.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            return list(connection.execute(query))

    # keys

    def add_key(self, name: str, hashed: str, days: int | None) -> str:
        identity = new_id()
        expires = None if days is None else now() + days * DAY
        with self.write() as connection:
            connection.execute(keys.insert().values(id=identity, name=name, hash=hashed, created_at=now(), expires_at=expires))
        return identity

    def key(self, identity: str) -> Key | None:
        found = self.read(sa.select(*(keys.c[name] for name in Key._fields)).where(keys.c.id == identity))
        return Key(*found[0]) if found else None

    def all_keys(self) -> list[Key]:
        return [Key(*row) for row in self.read(sa.select(*(keys.c[name] for name in Key._fields)).order_by(keys.c.created_at))]

    def revoke(self, identity: str) -> None:
        with self.write() as connection:
            if not connection.execute(keys.update().where(keys.c.id == identity).values(revoked_at=now())).rowcount:
                raise Missing(identity)

    # people

    def add_user(self, token_hash: str, key_id: str | None) -> str:
        identity = new_id()
        with self.write() as connection:
            connection.execute(users.insert().values(id=identity, token_hash=token_hash, key_id=key_id, created_at=now()))
        return identity

    def user(self, token_hash: str) -> tuple[str, str | None] | None:
        """Return the id of the person whose token hashes so, and of the key that let them in."""
        found = self.read(sa.select(users.c.id, users.c.key_id).where(users.c.token_hash == token_hash))
        return (found[0].id, found[0].key_id) if found else None

    def delete_user(self, user: str) -> None:
        """Delete a person with every conversation and every feedback of theirs."""
        with self.write() as connection:
            connection.execute(users.delete().where(users.c.id == user))

    def export_user(self, user: str) -> list[dict]:
        """Return all that is kept of a person."""
        found = []
        for conversation, title in self.conversations(user, limit=None):
            said = [message._asdict() for message in self.messages(user, conversation)]
            found.append({"id": conversation, "title": title, "messages": said})
        return found

    # conversations

    def conversations(self, user: str, limit: int | None = 50) -> list[tuple[str, str]]:
        """Return id and title of a person's conversations, the latest first."""
        query = sa.select(conversations.c.id, conversations.c.title).where(conversations.c.user_id == user)
        return [(row.id, row.title) for row in self.read(query.order_by(conversations.c.updated_at.desc()).limit(limit))]

    def messages(self, user: str, conversation: str) -> list[Message]:
        own = sa.and_(conversations.c.id == conversation, conversations.c.user_id == user)
        query = (
            sa.select(
                messages.c.id,
                messages.c.role,
                messages.c.content,
                messages.c.finish_reason,
                feedback.c.liked,
                feedback.c.correction,
            )
            .join(conversations, messages.c.conversation_id == conversations.c.id)
            .outerjoin(feedback, feedback.c.message_id == messages.c.id)
            .where(own)
            .order_by(messages.c.position)
        )
        return [Message(*row) for row in self.read(query)]

    def ask(self, user: str, conversation: str | None, text: str) -> tuple[str, str]:
        """Keep a question, in a new conversation if none is given; return the ids of conversation and message."""
        with self.write() as connection:
            if conversation is None:
                conversation = new_id()
                title = " ".join(text.split())[:24]
                values = {"id": conversation, "user_id": user, "title": title, "created_at": now(), "updated_at": now()}
                connection.execute(conversations.insert().values(values))
            return conversation, self.append(connection, user, conversation, "user", text)

    def answer(self, user: str, conversation: str, text: str, model: str, finish_reason: str) -> str:
        """Keep an answer, return its id."""
        with self.write() as connection:
            return self.append(connection, user, conversation, "assistant", text, model=model, finish_reason=finish_reason)

    def append(self, connection: sa.Connection, user: str, conversation: str, role: str, text: str, **values: str) -> str:
        own = sa.and_(conversations.c.id == conversation, conversations.c.user_id == user)
        if not connection.execute(conversations.update().where(own).values(updated_at=now())).rowcount:
            raise Missing(conversation)
        last = connection.execute(
            sa.select(sa.func.max(messages.c.position)).where(messages.c.conversation_id == conversation)
        ).scalar()
        identity = new_id()
        row = {
            "id": identity,
            "conversation_id": conversation,
            "position": 0 if last is None else last + 1,
            "role": role,
            "content": text,
        }
        connection.execute(messages.insert().values(row | {"created_at": now()} | values))
        return identity

    def take_back(self, user: str, conversation: str) -> str:
        """Delete the last question and what followed it, and return that question, to be asked again."""
        with self.write() as connection:
            own = sa.select(conversations.c.id).where(conversations.c.id == conversation, conversations.c.user_id == user)
            asked = sa.select(messages.c.position, messages.c.content).where(
                messages.c.conversation_id.in_(own), messages.c.role == "user"
            )
            last = connection.execute(asked.order_by(messages.c.position.desc()).limit(1)).first()
            if last is None:
                raise Missing(conversation)
            after = sa.and_(messages.c.conversation_id == conversation, messages.c.position >= last.position)
            connection.execute(messages.delete().where(after))
            return last.content

    def delete_conversation(self, user: str, conversation: str) -> None:
        with self.write() as connection:
            own = sa.and_(conversations.c.id == conversation, conversations.c.user_id == user)
            if not connection.execute(conversations.delete().where(own)).rowcount:
                raise Missing(conversation)

    def expire(self, days: int) -> int:
        """Delete conversations not touched for `days`, and people as old who have none left; return how many conversations."""
        with self.write() as connection:
            old = now() - days * DAY
            count = connection.execute(conversations.delete().where(conversations.c.updated_at < old)).rowcount
            kept = sa.select(conversations.c.user_id)
            connection.execute(users.delete().where(users.c.created_at < old, users.c.id.not_in(kept)))
            return count

    # feedback

    def rate(self, user: str, message: str, liked: bool | None = None, correction: str | None = None) -> None:
        """Keep what a reader thinks of an answer; what is None stays as it was."""
        given = {name: value for name, value in (("liked", liked), ("correction", correction)) if value is not None}
        with self.write() as connection:
            own = (
                sa.select(messages.c.id)
                .join(conversations, messages.c.conversation_id == conversations.c.id)
                .where(messages.c.id == message, messages.c.role == "assistant", conversations.c.user_id == user)
            )
            if connection.execute(own).first() is None:
                raise Missing(message)
            changed = (
                connection.execute(feedback.update().where(feedback.c.message_id == message).values(**given)).rowcount
                if given
                else 1
            )
            if not changed:
                connection.execute(feedback.insert().values(message_id=message, created_at=now(), **given))

    def rated(self) -> Iterator[list[Message]]:
        """Yield the messages of each conversation that has feedback, the oldest first."""
        query = (
            sa.select(conversations.c.id, conversations.c.user_id)
            .where(sa.exists().where(messages.c.conversation_id == conversations.c.id, feedback.c.message_id == messages.c.id))
            .order_by(conversations.c.created_at, conversations.c.id)
        )
        for row in self.read(query):
            yield self.messages(row.user_id, row.id)


def prepare_sqlite(connection: Any, record: Any) -> None:
    """Write ahead and to the disk at every commit; wait for another writer; mind foreign keys."""
    for setting in ("journal_mode=WAL", "synchronous=FULL", "busy_timeout=10000", "foreign_keys=ON"):
        connection.execute(f"PRAGMA {setting}")
    connection.isolation_level = None  # begin_sqlite begins


def begin_sqlite(connection: sa.Connection) -> None:
    """Take the lock of writers at once: one that is taken in mid-transaction cannot be waited for."""
    if connection.get_execution_options().get("isolation_level") != "AUTOCOMMIT":
        connection.exec_driver_sql("BEGIN IMMEDIATE")
