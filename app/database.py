"""The database as it is opened: SQLite or PostgreSQL, its file private, its schema the newest."""

import stat
import threading
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from alembic import command
from alembic.config import Config

MIGRATIONS = Path(__file__).parent / "migrations"
THREADS = 40  # of starlette's pool, in which the store's methods run
BUSY_SECONDS = 5  # how long a writer waits for another one in this process, and then for one in another
PRIVATE = stat.S_IRUSR | stat.S_IWUSR


def opened(url: str) -> sa.Engine:
    """Return an engine for `sqlite:///FILE` or `postgresql+psycopg://…`, the schema migrated.

    It has as many connections as there are threads: a lock may hold some of them, and reading goes on.
    """
    file = url.removeprefix("sqlite:///") if url.startswith("sqlite:///") else None
    if file:
        make_private(Path(file))
    engine = sa.create_engine(url, pool_pre_ping=not file, hide_parameters=True, pool_size=THREADS, max_overflow=0)
    if file:
        sa.event.listen(engine, "connect", prepare_sqlite)
        sa.event.listen(engine, "begin", begin_sqlite)
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
    return engine


def reading(engine: sa.Engine) -> sa.Engine:
    """Return the engine for statements that are no transaction: a reader waits for no writer."""
    sqlite = engine.dialect.name == "sqlite"
    return engine.execution_options(**{"begins": False} if sqlite else {"isolation_level": "AUTOCOMMIT"})


def writers(engine: sa.Engine) -> threading.Semaphore:
    """Return as many places as there may be writers. SQLite has one: who waits for it there sleeps, and looks again."""
    return threading.BoundedSemaphore(1 if engine.dialect.name == "sqlite" else THREADS)


def make_private(file: Path) -> None:
    """Make a database's file before SQLite does, for its owner alone; its companions get the same mode from it."""
    file.absolute().parent.mkdir(parents=True, exist_ok=True)
    file.touch(PRIVATE)
    for one in (file, *(file.with_name(file.name + tail) for tail in ("-wal", "-shm"))):
        if one.exists():
            one.chmod(PRIVATE)


def prepare_sqlite(connection: Any, record: Any) -> None:
    """Write ahead and to the disk at every commit; wait for another writer; mind foreign keys; wipe what is deleted."""
    wait = f"busy_timeout={1000 * BUSY_SECONDS}"
    settings = ("journal_mode=WAL", "synchronous=FULL", wait, "foreign_keys=ON", "secure_delete=ON")
    for setting in settings:
        connection.execute(f"PRAGMA {setting}")
    connection.isolation_level = None  # begin_sqlite begins


def begin_sqlite(connection: sa.Connection) -> None:
    """Take the lock of writers at once: one that is taken in mid-transaction cannot be waited for."""
    if connection.get_execution_options().get("begins", True):
        connection.exec_driver_sql("BEGIN IMMEDIATE")
