"""The database's tables; times are milliseconds since 1970, ids 32 hex digits."""

from typing import Any

import sqlalchemy as sa

metadata = sa.MetaData()


def belongs(name: str, to: str, **options: Any) -> sa.Column:
    """Return a column for the row that this one goes with: deleted with it."""
    return sa.Column(name, sa.String(32), sa.ForeignKey(f"{to}.id", ondelete="CASCADE"), **options)


persons = sa.Table(
    "persons",
    metadata,
    sa.Column("id", sa.String(32), primary_key=True),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("admin", sa.Boolean, nullable=False),
    sa.Column("created_at", sa.BigInteger, nullable=False),
)
keys = sa.Table(
    "keys",
    metadata,
    sa.Column("id", sa.String(32), primary_key=True),
    belongs("person_id", "persons", nullable=False, index=True),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("hash", sa.String(64), nullable=False),
    sa.Column("created_at", sa.BigInteger, nullable=False),
    sa.Column("expires_at", sa.BigInteger, nullable=True),
    sa.Column("revoked_at", sa.BigInteger, nullable=True),
    sa.Column("used_at", sa.BigInteger, nullable=True),
)
sessions = sa.Table(
    "sessions",
    metadata,
    sa.Column("token_hash", sa.String(64), primary_key=True),
    belongs("person_id", "persons", nullable=False, index=True),
    belongs("key_id", "keys", nullable=False),  # the key that opened it: it ends with that
    sa.Column("expires_at", sa.BigInteger, nullable=False),
)
conversations = sa.Table(
    "conversations",
    metadata,
    sa.Column("id", sa.String(32), primary_key=True),
    belongs("person_id", "persons", nullable=False, index=True),
    sa.Column("title", sa.Text, nullable=False),
    sa.Column("pinned", sa.Boolean, nullable=False),
    sa.Column("created_at", sa.BigInteger, nullable=False),
    sa.Column("updated_at", sa.BigInteger, nullable=False, index=True),
)
messages = sa.Table(  # a tree in each conversation: children of one parent are branches
    "messages",
    metadata,
    sa.Column("id", sa.String(32), primary_key=True),
    belongs("conversation_id", "conversations", nullable=False, index=True),
    belongs("parent_id", "messages", nullable=True, index=True),
    sa.Column("position", sa.Integer, nullable=False),
    sa.Column("role", sa.String(16), nullable=False),  # user or assistant
    sa.Column("content", sa.Text, nullable=False),
    sa.Column("notice", sa.Text, nullable=False),  # of a question: the emergency notice that it brings
    sa.Column("state", sa.String(16), nullable=False),  # running, done, stopped, cut, failed or lost
    sa.Column("error", sa.Text, nullable=False),
    sa.Column("model", sa.Text, nullable=False),  # what answered: name and version
    sa.Column("dropped", sa.Integer, nullable=False),  # how many earlier messages the model was not given
    sa.Column("created_at", sa.BigInteger, nullable=False),
    sa.UniqueConstraint("conversation_id", "position"),
)
feedback = sa.Table(
    "feedback",
    metadata,
    sa.Column("message_id", sa.String(32), sa.ForeignKey("messages.id", ondelete="CASCADE"), primary_key=True),
    sa.Column("liked", sa.Boolean, nullable=True),
    sa.Column("correction", sa.Text, nullable=True),
    sa.Column("state", sa.String(16), nullable=False),  # open, approved or rejected by an administrator
    sa.Column("created_at", sa.BigInteger, nullable=False),
)
housekeeping = sa.Table(  # what the application remembers of itself
    "housekeeping",
    metadata,
    sa.Column("name", sa.String(32), primary_key=True),
    sa.Column("value", sa.BigInteger, nullable=False),
)
