"""Conversations, feedback and keys, the same tests on SQLite and on PostgreSQL."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from app import feedback
from app.access import digest
from app.keys import add
from app.store import DAY, Missing, Store, conversations, metadata, pairs, users
from tests.conftest import ROOT
from xinglin.serving.server import free_port

NASTY = ["'; DROP TABLE messages; --", "<script>alert(1)</script>", '😀 \u200d 𠮷 \\ " %s {0}', "a" * 4000]


@pytest.fixture(scope="session")
def postgresql() -> Iterator[str]:
    """The URL of a PostgreSQL server of our own, from Debian's packages, on a free port of loopback."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    if not found:
        pytest.skip("PostgreSQL is not installed (tests/install.sh installs it as root where apt is)")
    programs, port = found[-1], free_port()
    as_whom = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"] if os.getuid() == 0 else []
    with tempfile.TemporaryDirectory(prefix="xinglin-", dir="/tmp") as folder:  # pytest's own folders are closed to other users
        if as_whom:
            shutil.chown(folder, "postgres")
        data = f"{folder}/data"
        subprocess.run([*as_whom, programs / "initdb", "-D", data, "-A", "trust", "-U", "xinglin", "-E", "UTF8"], check=True)
        options = ["-D", data, "-p", str(port), "-c", "listen_addresses=127.0.0.1", "-c", f"unix_socket_directories={folder}"]
        server = subprocess.Popen(
            [*as_whom, programs / "postgres", *options], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        try:
            for _ in range(100):
                if (
                    subprocess.run(
                        [programs / "pg_isready", "-h", "127.0.0.1", "-p", str(port)], capture_output=True
                    ).returncode
                    == 0
                ):
                    break
                time.sleep(0.1)
            yield f"postgresql+psycopg://xinglin@127.0.0.1:{port}/postgres"
        finally:
            server.send_signal(signal.SIGINT)
            server.wait(30)


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/c.db"
    url = request.getfixturevalue("postgresql")
    engine = sa.create_engine(url)
    metadata.drop_all(engine)
    with engine.begin() as connection:
        connection.execute(sa.text("DROP TABLE IF EXISTS alembic_version"))
    engine.dispose()
    return url


@pytest.fixture
def store(url: str) -> Iterator[Store]:
    opened = Store(url)
    yield opened
    opened.close()


def talk(store, user, *texts):
    conversation, ids = None, []
    for number, text in enumerate(texts):
        if number % 2 == 0:
            conversation, identity = store.ask(user, conversation, text)
        else:
            identity = store.answer(user, conversation, text, "xinglin@abc", "stop")
        ids.append(identity)
    return conversation, ids


def test_a_conversation_is_kept_in_order_with_what_its_reader_thought(store):
    user = store.add_user("a", None)
    conversation, ids = talk(store, user, "咳嗽怎么办", "多喝水", "要吃药吗", "先观察")
    store.rate(user, ids[1], liked=True)
    store.rate(user, ids[3], liked=False)
    store.rate(user, ids[3], correction="看医生")
    kept = store.messages(user, conversation)
    assert [(m.role, m.content, m.liked, m.correction) for m in kept] == [
        ("user", "咳嗽怎么办", None, None),
        ("assistant", "多喝水", True, None),
        ("user", "要吃药吗", None, None),
        ("assistant", "先观察", False, "看医生"),
    ]
    assert store.conversations(user) == [(conversation, "咳嗽怎么办")]


@pytest.mark.parametrize("text", NASTY)
def test_any_text_comes_back_as_it_was(store, text):
    user = store.add_user("a", None)
    conversation, ids = talk(store, user, text, text)
    store.rate(user, ids[1], correction=text)
    assert [m.content for m in store.messages(user, conversation)] == [text, text]
    assert (
        store.messages(user, conversation)[1].correction == text
        and store.export_user(user)[0]["messages"][0]["content"] == text
    )


def test_nobody_sees_or_changes_what_is_somebody_elses(store):
    mine, theirs = store.add_user("a", None), store.add_user("b", None)
    conversation, ids = talk(store, theirs, "问", "答")
    assert store.messages(mine, conversation) == [] and store.conversations(mine) == [] and store.export_user(mine) == []
    for attempt in (
        lambda: store.ask(mine, conversation, "x"),
        lambda: store.answer(mine, conversation, "x", "m", "stop"),
        lambda: store.rate(mine, ids[1], liked=True),
        lambda: store.take_back(mine, conversation),
        lambda: store.delete_conversation(mine, conversation),
    ):
        with pytest.raises(Missing):
            attempt()
    assert [m.content for m in store.messages(theirs, conversation)] == ["问", "答"]


def test_a_question_taken_back_goes_with_its_answer(store):
    user = store.add_user("a", None)
    conversation, _ = talk(store, user, "一", "答一", "二", "答二")
    assert store.take_back(user, conversation) == "二"
    store.ask(user, conversation, "二")
    assert [m.content for m in store.messages(user, conversation)] == ["一", "答一", "二"]
    assert [(q.content, a.content) for q, a in pairs(store.messages(user, conversation))] == [("一", "答一")]


def test_deleting_a_person_leaves_nothing_of_them(store):
    user, other = store.add_user("a", None), store.add_user("b", None)
    _, ids = talk(store, user, "问", "答")
    store.rate(user, ids[1], liked=True)
    talk(store, other, "问", "答")
    store.delete_user(user)
    assert store.user("a") is None and len(store.read(sa.select(conversations.c.id))) == 1
    for table in ("messages", "feedback"):
        counted = store.read(sa.select(sa.func.count()).select_from(metadata.tables[table]))[0][0]
        assert counted == {"messages": 2, "feedback": 0}[table]


def test_old_conversations_expire_and_young_ones_stay(store, monkeypatch):
    user, other = store.add_user("a", None), store.add_user("b", None)
    talk(store, user, "旧", "答")
    then = time.time_ns() // 1_000_000
    monkeypatch.setattr("app.store.now", lambda: then + 89 * DAY)
    talk(store, other, "新", "答")
    assert store.expire(90) == 0
    monkeypatch.setattr("app.store.now", lambda: then + 91 * DAY)
    assert store.expire(90) == 1
    assert store.conversations(user) == [] and len(store.conversations(other)) == 1
    assert [row.id for row in store.read(sa.select(users.c.id))] == [other]


def test_many_writers_at_once_lose_nothing(store):
    user = store.add_user("a", None)
    conversation, _ = store.ask(user, None, "0")

    def write():
        for number in range(25):
            store.ask(user, conversation, str(number))

    threads = [threading.Thread(target=write) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    kept = store.read(
        sa.select(metadata.tables["messages"].c.position).where(metadata.tables["messages"].c.conversation_id == conversation)
    )
    assert sorted(row.position for row in kept) == list(range(201))


def test_keys_are_kept_as_hashes_and_know_when_they_end(store, monkeypatch):
    key = add(store, "诊所", days=7)
    _, identity, secret = key.split("-", 2)
    kept = store.key(identity)
    assert kept.hash == digest(secret) and secret not in str(kept) and kept.valid and kept.name == "诊所"
    soon = kept.expires_at + 1
    monkeypatch.setattr("app.store.now", lambda: soon)
    assert not store.key(identity).valid
    monkeypatch.undo()
    store.revoke(identity)
    assert not store.key(identity).valid and [k.id for k in store.all_keys()] == [identity]
    with pytest.raises(Missing):
        store.revoke("nothing")


def test_opening_it_again_migrates_nothing_twice(url):
    first = Store(url)
    user = first.add_user("a", None)
    first.close()
    again = Store(url)
    assert again.user("a") == (user, None)
    again.close()


def test_feedback_exports_what_was_approved_or_corrected_and_nothing_after_what_was_not(store):
    user = store.add_user("a", None)
    _, good = talk(store, user, "问1", "答1", "问2", "答2", "问3", "答3")
    store.rate(user, good[1], liked=True)
    store.rate(user, good[3], correction="改2")
    _, bad = talk(store, user, "问4", "答4", "问5", "答5")
    store.rate(user, bad[1], liked=False)
    store.rate(user, bad[3], liked=True)
    rows = [feedback.approved(messages) for messages in store.rated()]
    assert rows == [["问：问1", "答：答1", "问：问2", "答：改2"], []]


WRITER = """
import sys
from app.store import Store
store = Store(sys.argv[1])
user = store.add_user("w", None)
number = 0
while True:
    conversation, _ = store.ask(user, None, f"问{number}")
    store.answer(user, conversation, f"答{number}", "m", "stop")
    print(number, flush=True)
    number += 1
"""


def test_what_was_acknowledged_before_a_kill_is_there_afterwards(url):
    writer = subprocess.Popen([sys.executable, "-c", WRITER, url], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    seen = [int(writer.stdout.readline()) for _ in range(40)]
    writer.kill()
    seen += [int(line) for line in writer.stdout.read().split()]
    writer.wait()
    writer.stdout.close()
    store = Store(url)
    user, _ = store.user("w")
    kept = {title for _, title in store.conversations(user, limit=None)}
    assert {f"问{number}" for number in seen} <= kept <= {f"问{number}" for number in range(len(seen) + 2)}
    store.close()
