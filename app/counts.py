"""What administrators count: persons, conversations and answers, day by day, and what each model was thought of."""

from typing import Any

import sqlalchemy as sa

from app.store import DAY, Store, now
from app.tables import conversations, feedback, messages, persons


def totals(store: Store) -> dict[str, int]:
    def count(table: sa.Table, *where: sa.ColumnElement[bool]) -> int:
        return int(store.read(sa.select(sa.func.count()).select_from(table).where(*where))[0][0])

    answers = messages.c.role == "assistant"
    return {
        "persons": count(persons),
        "conversations": count(conversations),
        "questions": count(messages, messages.c.role == "user"),
        "answers": count(messages, answers),
        "liked": count(feedback, feedback.c.liked.is_(True)),
        "disliked": count(feedback, feedback.c.liked.is_(False)),
        "corrected": count(feedback, feedback.c.correction.is_not(None)),
        "failed": count(messages, answers, messages.c.state.in_(["failed", "lost"])),
    }


def daily(store: Store, days: int, offset: int) -> list[tuple[int, str, str, bool | None, int]]:
    """Return how many messages each day has had: (day since 1970, role, state, liked, count).

    `offset` is how far the days' clock is ahead of UTC, in milliseconds.
    """
    local = messages.c.created_at + offset
    day = sa.cast((local - local % DAY) / DAY, sa.Integer).label("day")
    query = (
        sa.select(day, messages.c.role, messages.c.state, feedback.c.liked, sa.func.count())
        .outerjoin(feedback, feedback.c.message_id == messages.c.id)
        .where(messages.c.created_at > now() - days * DAY)
        .group_by("day", messages.c.role, messages.c.state, feedback.c.liked)
    )
    return [tuple(row) for row in store.read(query)]


def by_model(store: Store) -> list[Any]:
    """Return what each model that has answered was thought of, the latest first."""

    def how_many(condition: sa.ColumnElement[bool]) -> sa.ColumnElement[int]:
        return sa.func.sum(sa.case((condition, 1), else_=0))

    query = (
        sa.select(
            messages.c.model,
            sa.func.count().label("answers"),
            how_many(feedback.c.liked.is_(True)).label("liked"),
            how_many(feedback.c.liked.is_(False)).label("disliked"),
            how_many(feedback.c.correction.is_not(None)).label("corrected"),
            sa.func.min(messages.c.created_at).label("first_at"),
            sa.func.max(messages.c.created_at).label("last_at"),
        )
        .outerjoin(feedback, feedback.c.message_id == messages.c.id)
        .where(messages.c.role == "assistant")
        .group_by(messages.c.model)
    )
    return store.read(query.order_by(sa.text("last_at DESC")))
