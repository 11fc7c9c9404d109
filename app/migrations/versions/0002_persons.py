"""Persons behind keys, sessions, branches, pins, the state of answers; conversations of a cookie go to its key's person.

Every table is made anew beside the old one, which it takes its rows from: SQLite can alter little in place.
There is no way back but the backup that was taken before.
"""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

OLD = ("feedback", "messages", "conversations", "users", "keys")
ROWS = (
    "INSERT INTO persons (id, name, admin, created_at) SELECT id, name, false, created_at FROM old_keys",
    "INSERT INTO persons (id, name, admin, created_at) VALUES ('local', '本机', true, 0)",
    "INSERT INTO keys (id, person_id, name, hash, created_at, expires_at, revoked_at) "
    "SELECT id, id, name, hash, created_at, expires_at, revoked_at FROM old_keys",
    "INSERT INTO conversations (id, person_id, title, pinned, created_at, updated_at) "
    "SELECT c.id, coalesce(k.id, 'local'), c.title, false, c.created_at, c.updated_at FROM old_conversations c "
    "JOIN old_users u ON u.id = c.user_id LEFT JOIN old_keys k ON k.id = u.key_id",
    "INSERT INTO messages (id, conversation_id, parent_id, position, role, content, notice, state, error, model, dropped, "
    "created_at) SELECT m.id, m.conversation_id, p.id, m.position, m.role, m.content, '', "
    "CASE m.finish_reason WHEN 'length' THEN 'cut' WHEN 'stopped' THEN 'stopped' WHEN 'error' THEN 'failed' ELSE 'done' END, "
    "'', coalesce(m.model, ''), 0, m.created_at FROM old_messages m LEFT JOIN old_messages p "
    "ON p.conversation_id = m.conversation_id AND p.position = (SELECT max(b.position) FROM old_messages b "
    "WHERE b.conversation_id = m.conversation_id AND b.position < m.position) ORDER BY m.conversation_id, m.position",
    "INSERT INTO feedback (message_id, liked, correction, state, created_at) "
    "SELECT message_id, liked, correction, 'open', created_at FROM old_feedback",
)


def upgrade() -> None:
    connection = op.get_bind()
    for table in OLD:
        put_aside(connection, table)
    create()
    for rows in ROWS:
        connection.execute(sa.text(rows))
    for table in OLD:
        op.drop_table(f"old_{table}")


def put_aside(connection: sa.Connection, table: str) -> None:
    """Rename a table, and free the names of its indexes and constraints, which are the whole schema's."""
    for index in sa.inspect(connection).get_indexes(table):
        if not index.get("duplicates_constraint"):
            op.drop_index(str(index["name"]), table)
    op.rename_table(table, f"old_{table}")
    if connection.dialect.name == "postgresql":
        found = sa.text("SELECT conname FROM pg_constraint WHERE conrelid = CAST(:name AS regclass) AND contype IN ('p', 'u')")
        for (name,) in connection.execute(found, {"name": f"old_{table}"}).all():
            op.execute(f'ALTER TABLE old_{table} RENAME CONSTRAINT "{name}" TO "old_{name}"')


def create() -> None:
    def identity() -> sa.Column:
        return sa.Column("id", sa.String(32), primary_key=True)

    def belongs(name: str, to: str, **options: Any) -> sa.Column:
        return sa.Column(name, sa.String(32), sa.ForeignKey(f"{to}.id", ondelete="CASCADE"), **options)

    def time(name: str, **options: Any) -> sa.Column:
        return sa.Column(name, sa.BigInteger, **{"nullable": False} | options)

    def text(name: str) -> sa.Column:
        return sa.Column(name, sa.Text, nullable=False)

    op.create_table("persons", identity(), text("name"), sa.Column("admin", sa.Boolean, nullable=False), time("created_at"))
    op.create_table(
        "keys",
        identity(),
        belongs("person_id", "persons", nullable=False, index=True),
        text("name"),
        sa.Column("hash", sa.String(64), nullable=False),
        time("created_at"),
        time("expires_at", nullable=True),
        time("revoked_at", nullable=True),
        time("used_at", nullable=True),
    )
    op.create_table(
        "sessions",
        sa.Column("token_hash", sa.String(64), primary_key=True),
        belongs("person_id", "persons", nullable=False, index=True),
        belongs("key_id", "keys", nullable=False),
        time("expires_at"),
    )
    op.create_table(
        "conversations",
        identity(),
        belongs("person_id", "persons", nullable=False, index=True),
        text("title"),
        sa.Column("pinned", sa.Boolean, nullable=False),
        time("created_at"),
        time("updated_at", index=True),
    )
    op.create_table(
        "messages",
        identity(),
        belongs("conversation_id", "conversations", nullable=False, index=True),
        belongs("parent_id", "messages", nullable=True, index=True),
        sa.Column("position", sa.Integer, nullable=False),
        sa.Column("role", sa.String(16), nullable=False),
        text("content"),
        text("notice"),
        sa.Column("state", sa.String(16), nullable=False),
        text("error"),
        text("model"),
        sa.Column("dropped", sa.Integer, nullable=False),
        time("created_at"),
        sa.UniqueConstraint("conversation_id", "position"),
    )
    op.create_table(
        "feedback",
        belongs("message_id", "messages", primary_key=True),
        sa.Column("liked", sa.Boolean, nullable=True),
        sa.Column("correction", sa.Text, nullable=True),
        sa.Column("state", sa.String(16), nullable=False),
        time("created_at"),
    )
    op.create_table("housekeeping", sa.Column("name", sa.String(32), primary_key=True), time("value"))
