"""Backups of the SQLite database: whole under load, refused where damaged, put back only while nobody uses it."""

import os
import re
import shutil
import sqlite3
import stat
import subprocess
import sys
import threading
from contextlib import closing
from pathlib import Path

import httpx
import pytest

from app import backup
from app.keys import add
from app.store import Store
from tests.application import application
from tests.conftest import ROOT, ends


def ask(store: Store, text: str) -> str:
    """Keep a question of a new person; return the conversation's id."""
    person = store.key(add(store, "诊所").split("-")[1]).person
    return store.ask(person, None, None, text).conversation.id


def filled(file: Path, count: int) -> list[str]:
    """Make a database with conversations in it; return their ids."""
    store = Store(f"sqlite:///{file}")
    asked = [ask(store, f"咳嗽第{number}天怎么办") for number in range(count)]
    store.close()
    return asked


def conversations(file: Path) -> set[str]:
    with closing(sqlite3.connect(file)) as connection:
        return {row[0] for row in connection.execute("SELECT id FROM conversations")}


def command(folder: Path, *words: str, **environment: str) -> subprocess.CompletedProcess:
    shutil.copy(ROOT / "params.yaml", folder / "params.yaml")
    known = os.environ | {"PYTHONPATH": str(ROOT)} | environment
    return subprocess.run([sys.executable, "-m", "app.backup", *words], cwd=folder, env=known, capture_output=True, text=True)


def test_a_backup_under_concurrent_writes_holds_every_conversation_committed_before_it_began(tmp_path):
    source, done, committed = tmp_path / "c.db", threading.Event(), filled(tmp_path / "c.db", 20)

    def write() -> None:
        store = Store(f"sqlite:///{source}")
        while not done.is_set():
            committed.append(ask(store, "咳嗽怎么办" * 200))
        store.close()

    writers = [threading.Thread(target=write) for _ in range(2)]
    for writer in writers:
        writer.start()
    try:
        for turn in range(3):
            goal = len(committed) + 30
            while len(committed) < goal:
                done.wait(0.01)
            before = set(committed)
            backup.save(source, tmp_path / f"{turn}.db")
            assert before <= conversations(tmp_path / f"{turn}.db")
    finally:
        done.set()
        for writer in writers:
            writer.join()
    assert stat.S_IMODE((tmp_path / "0.db").stat().st_mode) == 0o600
    assert not [file.name for file in tmp_path.iterdir() if file.name.startswith(("0.db-", ".0.db"))], "one file"


def test_a_backup_that_is_put_back_is_read_by_the_application_and_the_old_database_stays_beside_it(tmp_path):
    source, kept = tmp_path / "c.db", filled(tmp_path / "c.db", 3)
    backup.save(source, tmp_path / "b.db")
    store = Store(f"sqlite:///{source}")
    later = ask(store, "头痛")
    store.close()
    old = backup.restore(tmp_path / "b.db", source)
    assert conversations(source) == set(kept) and later in conversations(old)
    assert stat.S_IMODE(source.stat().st_mode) == 0o600
    Store(f"sqlite:///{source}").close()


@pytest.mark.parametrize("place", ["header", "middle", "text", "cut", "empty"])
def test_a_damaged_backup_is_refused_in_one_line_and_the_database_stays(tmp_path, capsys, place):
    source, kept = tmp_path / "c.db", filled(tmp_path / "c.db", 50)
    file = tmp_path / "b.db"
    backup.save(source, file)
    content = bytearray(file.read_bytes())
    at = {"header": 3, "middle": len(content) // 2 & ~4095, "text": content.index("咳嗽".encode())}.get(place, 0)
    content[at] ^= 1
    file.write_bytes({"cut": content[:-5000], "empty": b""}.get(place, content))
    with ends() as end:
        backup.restore(file, source)
    assert end.value.code == 1 and len(capsys.readouterr().err.strip().splitlines()) == 1
    assert conversations(source) == set(kept)


def test_a_backup_of_a_newer_release_is_refused(tmp_path, capsys):
    source, file = tmp_path / "c.db", tmp_path / "b.db"
    filled(source, 1)
    with closing(sqlite3.connect(source)) as connection, connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    backup.save(source, file)
    with ends():
        backup.restore(file, source)
    assert "its schema 9999 is newer than this release" in capsys.readouterr().err


def test_a_damaged_database_is_replaced_and_kept(tmp_path):
    source, kept = tmp_path / "c.db", filled(tmp_path / "c.db", 2)
    backup.save(source, tmp_path / "b.db")
    source.write_bytes(b"no database" * 1000)
    old = backup.restore(tmp_path / "b.db", source)
    assert conversations(source) == set(kept) and old.read_bytes() == b"no database" * 1000


def test_a_log_whose_database_is_gone_is_not_taken_for_the_new_ones(tmp_path):
    source, kept = tmp_path / "c.db", filled(tmp_path / "c.db", 2)
    backup.save(source, tmp_path / "b.db")
    store = Store(f"sqlite:///{source}")
    ask(store, "头痛")
    log = Path(f"{source}-wal").read_bytes()
    store.close()
    source.unlink()
    Path(f"{source}-wal").write_bytes(log)
    assert backup.restore(tmp_path / "b.db", source) is None
    assert not Path(f"{source}-wal").exists() and conversations(source) == set(kept)


def test_a_database_whose_backup_is_damaged_too_is_not_saved(tmp_path, capsys):
    source = tmp_path / "c.db"
    filled(source, 50)
    content = bytearray(source.read_bytes())
    content[4096 * 3 : 4096 * 4] = bytes(4096)
    source.write_bytes(content)
    with ends():
        backup.save(source, tmp_path / "b.db")
    assert len(capsys.readouterr().err.strip().splitlines()) == 1 and not (tmp_path / "b.db").exists()


def test_nothing_is_put_back_under_a_running_application_and_no_backup_replaces_a_file(tmp_path):
    with application(tmp_path, "http://127.0.0.1:9") as url:
        assert httpx.get(f"{url}/healthz").is_success
        environment = {"XINGLIN_DATABASE": f"sqlite:///{tmp_path}/conversations.db"}
        saved = command(tmp_path, "save", "b.db", **environment)
        assert saved.returncode == 0 and "checked" in saved.stdout, saved.stderr
        assert "is there already" in command(tmp_path, "save", "b.db", **environment).stderr
        refused = command(tmp_path, "restore", "b.db", **environment)
        assert refused.returncode == 1 and "in use: stop the application first" in refused.stderr
    done = command(tmp_path, "restore", "b.db", **environment)
    assert done.returncode == 0 and "what was there is" in done.stdout, done.stderr


def test_what_is_not_there_or_not_understood_is_one_line(tmp_path):
    environment = {"XINGLIN_DATABASE": f"sqlite:///{tmp_path}/none.db"}
    for words in (["save", "b.db"], ["restore", "b.db"], [], ["save"], ["save", ""]):
        done = command(tmp_path, *words, **environment)
        assert done.returncode and re.fullmatch(r"error: [^\n]+\n", done.stderr), done.stderr
    assert not (tmp_path / "none.db").exists()


def test_the_commands_that_postgresql_is_answered_with_work(tmp_path, postgresql):
    store = Store(postgresql)
    ask(store, "咳嗽")
    secret = postgresql.replace("xinglin@", "xinglin:secret@")
    for word in ("save", "restore"):
        told = command(tmp_path, word, "b.dump", XINGLIN_DATABASE=secret)
        assert told.returncode == 2 and "secret" not in told.stderr
        line = told.stderr.partition("run: ")[2].split()
        store.close()
        subprocess.run(line, cwd=tmp_path, check=True)
