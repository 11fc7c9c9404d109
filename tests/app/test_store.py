"""Conversations, feedback and keys, the same tests on SQLite and on PostgreSQL."""

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.config import Config

from app import feedback
from app.access import digest
from app.database import MIGRATIONS
from app.keys import add
from app.store import DAY, LOCAL, Held, Missing, Store
from app.tables import messages, metadata
from tests.conftest import ROOT

NASTY = ["'; DROP TABLE messages; --", "<script>alert(1)</script>", '😀 \u200d 𠮷 \\ " %s {0}', "a" * 4000]


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


def person(store: Store, name: str = "诊所") -> str:
    """A new person's id."""
    return store.key(add(store, name).split("-")[1]).person


def talk(store: Store, who: str, *texts: str) -> tuple[str, list[str]]:
    """Questions and answers in turn; the ids of the conversation and of its messages."""
    conversation, ids = None, []
    for number, text in enumerate(texts):
        if number % 2 == 0:
            message = store.ask(who, conversation, ids[-1] if ids else None, text).question
            conversation = message.conversation
        else:
            message = store.begin_answer(who, message, "xinglin@abc")
            store.keep_answer(message.id, content=text, state="done")
        ids.append(message.id)
    return conversation, ids


def test_a_conversation_is_kept_in_order_with_what_its_reader_thought(store):
    who = person(store)
    conversation, ids = talk(store, who, "咳嗽怎么办", "多喝水", "要吃药吗", "先观察")
    store.rate(who, ids[1], liked=True)
    store.rate(who, ids[3], liked=False)
    store.rate(who, ids[3], correction="看医生")
    kept = store.messages(who, conversation)
    assert [(m.role, m.content, m.liked, m.correction) for m in kept] == [
        ("user", "咳嗽怎么办", None, None),
        ("assistant", "多喝水", True, None),
        ("user", "要吃药吗", None, None),
        ("assistant", "先观察", False, "看医生"),
    ]
    assert [m.id for m in store.path(who, ids[3])] == ids
    assert [(c.id, c.title) for c in store.conversations(who)] == [(conversation, "咳嗽怎么办")]
    store.rate(who, ids[3], liked=None)
    assert store.message(who, ids[3]).liked is None and store.message(who, ids[3]).correction == "看医生"


def test_branches_stand_beside_each_other_and_a_path_keeps_to_one(store):
    who = person(store)
    conversation, ids = talk(store, who, "一", "答一", "二", "答二")
    other = store.ask(who, conversation, ids[1], "二，改过").question
    again = store.begin_answer(who, store.message(who, ids[0]), "m")
    assert [m.content for m in store.path(who, other.id)] == ["一", "答一", "二，改过"]
    assert [m.id for m in store.path(who, again.id)] == [ids[0], again.id] and len(store.messages(who, conversation)) == 6
    with pytest.raises(Missing):
        store.ask(who, conversation, ids[0], "问题不能接在问题后面")


@pytest.mark.parametrize("text", NASTY)
def test_any_text_comes_back_as_it_was_and_is_found(store, text):
    who = person(store)
    conversation, ids = talk(store, who, text, text)
    store.rate(who, ids[1], correction=text)
    assert [m.content for m in store.messages(who, conversation)] == [text, text]
    assert store.messages(who, conversation)[1].correction == text
    found = store.conversations(who, search=text[:50])
    assert [c.id for c in found] == [conversation] and store.excerpts(found, text[:50])[conversation]
    assert store.conversations(who, search=f"{text[:50]}%") == []


def test_nobody_sees_or_changes_what_is_somebody_elses(store):
    mine, theirs = person(store), person(store)
    conversation, ids = talk(store, theirs, "问", "答")
    assert store.messages(mine, conversation) == [] and store.conversations(mine) == []
    assert store.conversations(mine, search="问") == []
    for attempt in (
        lambda: store.ask(mine, conversation, None, "x"),
        lambda: store.begin_answer(mine, store.message(theirs, ids[0]), "m"),
        lambda: store.rate(mine, ids[1], liked=True),
        lambda: store.message(mine, ids[0]),
        lambda: store.path(mine, ids[0]),
        lambda: store.change_conversation(mine, conversation, title="x"),
        lambda: store.delete_conversations(mine, conversation),
    ):
        with pytest.raises(Missing):
            attempt()
    store.delete_conversations(mine)
    assert [m.content for m in store.messages(theirs, conversation)] == ["问", "答"]


def test_deleting_a_conversation_leaves_nothing_of_it(store, url, tmp_path):
    who, other = person(store), person(store)
    conversation, ids = talk(store, who, "鼻涕是绿色的怎么办", "多休息多喝水就好")
    store.rate(who, ids[1], liked=True)
    talk(store, other, "问", "答")
    store.delete_conversations(who, conversation)
    for table, left in {"conversations": 1, "messages": 2, "feedback": 0}.items():
        assert store.read(sa.select(sa.func.count()).select_from(metadata.tables[table]))[0][0] == left
    if url.startswith("sqlite"):
        bytes_left = b"".join(file.read_bytes() for file in tmp_path.glob("c.db*"))
        assert "鼻涕是绿色的".encode() not in bytes_left and "多休息多喝水就好".encode() not in bytes_left
        assert {file.stat().st_mode & 0o777 for file in tmp_path.glob("c.db*")} == {0o600}


def test_old_conversations_expire_and_young_ones_stay(store, monkeypatch):
    who, other = person(store), person(store)
    talk(store, who, "旧", "答")
    then = time.time_ns() // 1_000_000
    for day in range(1, 91):
        monkeypatch.setattr("app.store.now", lambda day=day: then + day * DAY)
        if day == 89:
            talk(store, other, "新", "答")
        assert store.expire(90) == (day == 90)
    assert store.conversations(who) == [] and len(store.conversations(other)) == 1


def test_a_clock_that_leapt_erases_nothing_until_somebody_is_sure(store, monkeypatch):
    who = person(store)
    talk(store, who, "问", "答")
    then = time.time_ns() // 1_000_000
    store.expire(90)
    monkeypatch.setattr("app.store.now", lambda: then + 100 * DAY)
    talk(store, who, "新的", "答")  # with the wrong time
    for _ in range(2):
        with pytest.raises(Held, match="1 of 2"):
            store.expire(90)
    monkeypatch.setattr("app.store.now", lambda: then + DAY)  # the clock is mended
    assert store.expire(90) == 0
    monkeypatch.setattr("app.store.now", lambda: then + 100 * DAY)
    assert store.aged(90) == (1, 2) and store.expire(90, sure=True) == 1 and len(store.conversations(who)) == 1


def test_many_writers_at_once_lose_nothing(store):
    who = person(store)
    conversation, ids = talk(store, who, "0", "答")

    def write():
        for number in range(25):
            store.ask(who, conversation, ids[1], str(number))

    threads = [threading.Thread(target=write) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    kept = store.read(sa.select(messages.c.position).where(messages.c.conversation_id == conversation))
    assert sorted(row.position for row in kept) == list(range(202))


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
    for attempt in (lambda: store.revoke("nothing"), lambda: add(store, "x", person="nobody")):
        with pytest.raises(Missing):
            attempt()


def test_two_keys_are_one_person_and_a_session_ends_with_its_key(store, monkeypatch):
    first = store.key(add(store, "张医生", admin=True).split("-")[1])
    second = store.key(add(store, "手机", person=first.person).split("-")[1])
    assert (second.person, second.person_name, second.admin) == (first.person, "张医生", True)
    for number, key in enumerate((first, second, second)):
        store.open_session(f"token{number}", key, days=30)
    assert {store.session(f"token{number}").id for number in range(3)} == {first.person}
    store.revoke(first.id)
    assert store.session("token0") is None and store.session("token1").admin
    store.close_sessions(first.person, "token1")
    assert store.session("token1") is None and store.session("token2")
    then = time.time_ns() // 1_000_000
    monkeypatch.setattr("app.store.now", lambda: then + 31 * DAY)
    assert store.session("token2") is None


OLD = """
insert into keys values ('k1', '诊所', 'h', 1, null, null);
insert into users values ('u1', 't1', 'k1', 1), ('u2', 't2', 'k1', 1), ('u3', 't3', null, 1);
insert into conversations values ('c1', 'u1', '一', 1, 2), ('c2', 'u2', '二', 1, 2), ('c3', 'u3', '三', 1, 2);
insert into messages values ('a', 'c1', 0, 'user', '问', null, null, 1), ('b', 'c1', 1, 'assistant', '答', 'm', 'length', 1),
  ('c', 'c1', 2, 'user', '再问', null, null, 1), ('d', 'c3', 0, 'user', '问三', null, null, 1);
insert into feedback values ('b', true, null, 5);
"""


def test_what_an_older_version_kept_is_still_there(url):
    config, engine = Config(), sa.create_engine(url)
    config.set_main_option("script_location", str(MIGRATIONS))
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "0001")
        for statement in OLD.split(";")[:-1]:
            connection.exec_driver_sql(statement)
    engine.dispose()
    store = Store(url)
    assert {c.id for c in store.conversations("k1")} == {"c1", "c2"} and [c.id for c in store.conversations(LOCAL)] == ["c3"]
    kept = [(m.id, m.parent, m.content, m.state, m.liked) for m in store.messages("k1", "c1")]
    assert kept == [("a", None, "问", "done", None), ("b", "a", "答", "cut", True), ("c", "b", "再问", "done", None)]
    assert store.key("k1").person == "k1" and store.person(LOCAL).admin
    store.close()


def test_opening_it_again_migrates_nothing_twice(url):
    first = Store(url)
    who = person(first)
    first.close()
    again = Store(url)
    assert again.person(who).name == "诊所"
    again.close()


def test_an_answer_that_a_process_left_behind_is_lost_with_what_had_come(store):
    who = person(store)
    [answer] = store.ask(who, None, None, "问", models=["m"]).answers
    store.keep_answer(answer.id, content="多喝")
    assert store.lose_running() == 1 and store.lose_running() == 0
    assert (store.message(who, answer.id).state, store.message(who, answer.id).content) == ("lost", "多喝")
    store.keep_part(answer.id, "多")  # a thread that was late
    assert store.message(who, answer.id).content == "多喝"


def test_feedback_exports_what_was_approved_or_corrected_and_nothing_after_what_was_not(store):
    who = person(store)
    conversation, good = talk(store, who, "问1", "答1", "问2", "答2", "问3", "答3")
    store.rate(who, good[1], liked=True)
    store.rate(who, good[3], correction="改2")
    _, bad = talk(store, who, "问4", "答4", "问5", "答5")
    store.rate(who, bad[1], liked=False)
    store.rate(who, bad[3], liked=True)
    branch = store.begin_answer(who, store.message(who, good[0]), "m")
    store.keep_answer(branch.id, content="另一答", state="done")
    store.rate(who, branch.id, liked=True)
    rows = [[row["data"] for row in feedback.approved(talk)] for talk in store.rated()]
    assert rows == [[["问：问1", "答：答1", "问：问2", "答：改2"], ["问：问1", "答：另一答"]], []]
    store.judge(good[3], "rejected")
    store.judge(branch.id, "approved")
    talked = store.messages(who, conversation)
    assert [row["data"] for row in feedback.approved(talked)] == [["问：问1", "答：答1"], ["问：问1", "答：另一答"]]
    assert [row["data"] for row in feedback.approved(talked, strict=True)] == [["问：问1", "答：另一答"]]
    assert [(m.id, q) for m, q, _ in store.judged("approved")] == [(branch.id, "问1")]


WRITER = """
import sys
from app.store import Store
store = Store(sys.argv[1])
number = 0
while True:
    [answer] = store.ask("local", None, None, f"问{number}", models=["m"]).answers
    store.keep_answer(answer.id, content=f"答{number}", state="done")
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
    kept = {c.title for c in store.conversations(LOCAL, limit=None)}
    assert {f"问{number}" for number in seen} <= kept <= {f"问{number}" for number in range(len(seen) + 2)}
    store.close()
