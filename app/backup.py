"""Copy the SQLite database while the application runs, and put a copy back while it does not.

Usage: python -m app.backup save FILE | restore FILE        (make backup FILE=…, make restore FILE=…)
"""

import os
import shutil
import sqlite3
import sys
import time
import zlib
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from urllib.parse import quote

import sqlalchemy as sa
from alembic.script import ScriptDirectory

from app.database import MIGRATIONS
from app.settings import Params
from xinglin.cli import CommandError, run_command
from xinglin.files import atomic_path

STAMP = slice(60, 64)  # user_version in SQLite's header, which is the application's to use
CHUNK = 1 << 20
COMPANIONS = ("-wal", "-shm")
POSTGRESQL = {
    "save": "pg_dump --format=custom --file={file} --dbname={url}",
    "restore": "pg_restore --clean --if-exists --single-transaction --dbname={url} {file}",
}


def database(word: str, file: Path) -> Path:
    """Return the file of the configured database; for PostgreSQL, stop with the command that does `word` there."""
    url = sa.engine.make_url(os.environ.get("XINGLIN_DATABASE", Params.read().app.database))
    if url.get_backend_name() == "sqlite" and url.database:
        return Path(url.database)
    bare = url.set(drivername="postgresql").render_as_string().replace(":***@", "@")
    command = POSTGRESQL[word].format(file=file, url=bare)
    raise CommandError(f"app.database is no SQLite file; for PostgreSQL run: {command}", 2)


@contextmanager
def opened(file: Path) -> Iterator[sqlite3.Connection]:
    """Yield a connection to a file that is there already; what SQLite says against it becomes one line."""
    try:
        with closing(sqlite3.connect(f"file:{quote(str(file))}?mode=rw", uri=True, timeout=10)) as connection:
            yield connection
    except sqlite3.Error as error:
        raise CommandError(f"{file}: {error}")


def revision(file: Path) -> str:
    """Return the schema of a sound database of this application."""
    with opened(file) as connection:
        found = connection.execute("PRAGMA integrity_check(1)").fetchone()[0]
        if found != "ok":
            raise CommandError(f"{file}: damaged: {' '.join(found.split())}")
        return connection.execute("SELECT max(version_num) FROM alembic_version").fetchone()[0] or "none"


def checksum(file: Path) -> bytes:
    """Return the CRC-32 of a database, the stamp itself taken as zeros: one bit that flips in a text is seen too."""
    with file.open("rb") as content:
        head = bytearray(content.read(STAMP.stop))
        head[STAMP] = bytes(4)
        crc = zlib.crc32(head)
        while chunk := content.read(CHUNK):
            crc = zlib.crc32(chunk, crc)
    return crc.to_bytes(4)


def stamp(file: Path) -> None:
    with file.open("r+b") as content:
        content.seek(STAMP.start)
        content.write(checksum(file))
        os.fsync(content.fileno())


def save(source: Path, target: Path) -> None:
    """Copy the database as it is at this moment into `target`; others go on reading and writing meanwhile."""
    if target.exists():
        raise CommandError(f"{target}: is there already: name another file")
    with atomic_path(target) as temporary:
        temporary.touch(0o600)
        with opened(source) as live, opened(temporary) as copy:
            live.backup(copy)
            copy.execute("PRAGMA journal_mode=DELETE")  # one file, nothing beside it
        revision(temporary)
        stamp(temporary)


def check(file: Path) -> None:
    """Stop with one line if `file` is no whole backup, or one that only a newer release can read."""
    if not file.is_file():
        raise CommandError(f"{file}: no such file")
    known = {script.revision for script in ScriptDirectory(str(MIGRATIONS)).walk_revisions()}
    found = revision(file)
    if found not in known:
        raise CommandError(f"{file}: its schema {found} is newer than this release, which knows {max(known)}: upgrade first")
    with file.open("rb") as content:
        if content.read(STAMP.stop)[STAMP] != checksum(file):
            raise CommandError(f"{file}: not as 'save' wrote it: damaged, or no backup")


def ensure_unused(target: Path) -> None:
    """Stop with one line if anybody has the database open; what stands in its log moves into the file itself."""
    try:
        with closing(sqlite3.connect(target, timeout=0)) as connection:
            connection.execute("PRAGMA journal_mode=DELETE")  # needs the file for itself
    except sqlite3.OperationalError as error:
        if "locked" not in str(error):
            raise CommandError(f"{target}: {error}")
        raise CommandError(f"{target}: in use: stop the application first")
    except sqlite3.DatabaseError:
        pass  # damaged: why a backup is put back


def set_aside(target: Path) -> Path:
    """Give the present database a second name and return that; a log that it left would be taken for the new one's."""
    old = target.with_name(f"{target.name}.{time.strftime('%Y%m%d-%H%M%S')}")
    if target.exists():
        os.link(target, old)
    for companion in COMPANIONS:
        if (log := Path(f"{target}{companion}")).exists():
            log.rename(f"{old}{companion}")
    return old


def restore(file: Path, target: Path) -> Path | None:
    """Put a backup in the database's place; return where the database is that was there."""
    check(file)
    with atomic_path(target) as temporary:
        temporary.touch(0o600)
        with file.open("rb") as content, temporary.open("wb") as copy:
            shutil.copyfileobj(content, copy)
            os.fsync(copy.fileno())
        if os.geteuid() == 0:  # the application's user is to read it
            owner = (target if target.exists() else target.parent).stat()
            os.chown(temporary, owner.st_uid, owner.st_gid)
        check(temporary)
        if target.exists():
            ensure_unused(target)
        old = set_aside(target)
    return old if old.exists() else None


def main() -> None:
    match sys.argv[1:]:
        case ["save", name] if name:
            save(database("save", Path(name)), Path(name))
            print(f"backup: {name}, {Path(name).stat().st_size / 1e6:.1f} MB, checked")
        case ["restore", name] if name:
            target = database("restore", Path(name))
            old = restore(Path(name), target)
            print(f"backup: {target} is {name} now" + (f"; what was there is {old}" if old else ""))
        case words:
            raise CommandError(f"{' '.join(words) or 'nothing'}: expected save FILE or restore FILE", 2)


if __name__ == "__main__":
    run_command(main)
