"""The page's API as a page meets it: sessions, branches, answers that outlive their readers, faults of model and database."""

import json
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
import sqlalchemy as sa

from app.keys import add
from tests.application import application, model_server
from xinglin.serving.server import free_port

WORDS = "我的名字叫王小明，胃疼三天了"


@pytest.fixture
def here(app: str) -> Iterator[httpx.Client]:
    """A page on this machine itself."""
    with httpx.Client(base_url=app, timeout=30) as client:
        yield client


def elsewhere(app: str) -> httpx.Client:
    """A page that comes through a proxy."""
    return httpx.Client(base_url=app, timeout=30, headers={"X-Forwarded-For": "10.0.0.7"})


def ask(client: httpx.Client, text: str, **where: object) -> dict:
    reply = client.post("/api/questions", json={"text": text, **where})
    assert reply.status_code == 201, reply.text
    return reply.json()


def events(client: httpx.Client, answer: str, start: int = 0, headers: dict | None = None) -> list[dict]:
    """Every event of an answer until it ends: {"event", "id", …data}."""
    found = []
    with client.stream("GET", f"/api/answers/{answer}/events", params={"from": start}, headers=headers) as reply:
        assert reply.headers["content-type"].startswith("text/event-stream")
        event: dict = {}
        for line in reply.iter_lines():
            name, _, value = line.partition(": ")
            if name == "data":
                found.append(event | json.loads(value))
            elif name in ("event", "id"):
                event = event | {name: value}
    return found


def ended(client: httpx.Client, answer: str) -> dict:
    last = events(client, answer)[-1]
    assert last["event"] == "end"
    return last["message"]


def said(found: list[dict]) -> str:
    return "".join(event["text"] for event in found if event["event"] == "delta")


def problem(reply: httpx.Response, status: int, code: str) -> dict:
    error = reply.json()["error"]
    assert (reply.status_code, error["code"]) == (status, code), reply.text
    return error


def test_an_answer_is_made_whoever_reads_and_can_be_followed_from_any_place(here):
    asked = ask(here, "LONG")
    answer, conversation = asked["answers"][0]["id"], asked["conversation"]["id"]
    assert asked["answers"][0]["state"] == "running" and asked["conversation"]["answering"] == [answer]
    with here.stream("GET", f"/api/answers/{answer}/events") as reply:  # a reader that leaves at once
        next(reply.iter_lines())
    other = ask(here, "另一个人的问题")
    first, rest = events(here, answer), events(here, answer, start=7)
    again = events(here, answer, headers={"Last-Event-ID": "7"})
    assert said(first) == "慢慢说。" * 400 and said(rest) == said(again) == said(first)[7:]
    assert {event["conversation"] for event in first} == {conversation} and int(first[-1]["id"]) == 1600
    assert ended(here, other["answers"][0]["id"])["content"].count("另一个人的问题") == 1
    kept = here.get(f"/api/conversations/{conversation}").json()
    assert [m["content"] for m in kept["messages"]] == ["LONG", "慢慢说。" * 400] and kept["answering"] == []


def test_a_place_in_an_answer_is_counted_as_a_browser_counts(here):
    asked = ask(here, "😀😀怎么办")
    whole = said(events(here, asked["answers"][0]["id"]))
    units = len(whole[: whole.index("怎")].encode("utf-16-le")) // 2
    assert said(events(here, asked["answers"][0]["id"], start=units)).startswith("怎么办")


def test_stop_keeps_what_came_and_asking_again_keeps_both(here, model):
    asked = ask(here, "LONG")
    answer = asked["answers"][0]["id"]
    time.sleep(0.5)
    stopped = here.post(f"/api/answers/{answer}/stop").json()
    assert stopped["state"] == "stopped" and stopped["content"].startswith("慢慢说。") and len(stopped["content"]) < 1600
    again = here.post(f"/api/questions/{asked['question']['id']}/answers", json={}).json()["answers"][0]
    assert here.post(f"/api/answers/{again['id']}/stop").json()["id"] == again["id"] != answer
    assert here.post(f"/api/answers/{answer}/stop").json() == stopped  # it is over already
    nodes = here.get(f"/api/conversations/{asked['conversation']['id']}").json()["messages"]
    assert [(m["role"], m["parent"]) for m in nodes] == [("user", None)] + 2 * [("assistant", asked["question"]["id"])]


def test_an_edited_question_is_a_branch_and_the_model_reads_that_branch_alone(here, model):
    asked = ask(here, "一")
    first = ended(here, asked["answers"][0]["id"])
    where = {"conversation": asked["conversation"]["id"], "parent": first["id"]}
    ended(here, ask(here, "二", **where)["answers"][0]["id"])
    edited = ask(here, "二，改过", **where)
    ended(here, edited["answers"][0]["id"])
    sent = httpx.get(f"{model}/state").json()["seen"][-1]["messages"]
    assert [m["content"] for m in sent] == ["一", first["content"], "二，改过"]
    root = ask(here, "一，改过", conversation=asked["conversation"]["id"])
    assert root["question"]["parent"] is None and root["conversation"]["id"] == asked["conversation"]["id"]


def test_a_correction_stands_for_the_answer_in_what_follows(here, model):
    asked = ask(here, "一")
    answer = ended(here, asked["answers"][0]["id"])["id"]
    rated = here.put(f"/api/answers/{answer}/feedback", json={"liked": False, "correction": "应该就诊"}).json()
    assert (rated["liked"], rated["correction"]) == (False, "应该就诊")
    assert here.put(f"/api/answers/{answer}/feedback", json={"liked": None}).json()["correction"] == "应该就诊"
    ended(here, ask(here, "二", conversation=asked["conversation"]["id"], parent=answer)["answers"][0]["id"])
    assert httpx.get(f"{model}/state").json()["seen"][-1]["messages"][1]["content"] == "应该就诊"


def test_an_emergency_stays_with_its_question_and_the_model_is_told(here, model):
    asked = ask(here, "我爸突然口角歪斜，话说不清")
    assert "120" in asked["question"]["notice"]
    ended(here, asked["answers"][0]["id"])
    assert httpx.get(f"{model}/state").json()["seen"][-1]["messages"][0]["role"] == "system"
    kept = here.get(f"/api/conversations/{asked['conversation']['id']}").json()["messages"]
    assert kept[0]["notice"] == asked["question"]["notice"] and kept[1]["notice"] == ""


@pytest.mark.parametrize("fault", ["CRASH", "BREAK", "MIDERROR", "TOOLONG"])
def test_a_fault_of_the_model_ends_its_answer_keeps_what_came_and_frees_the_place(here, fault):
    asked = ask(here, fault)
    failed = ended(here, asked["answers"][0]["id"])
    assert failed["state"] == "failed" and failed["error"] and "CUDA" not in str(failed)
    assert bool(failed["content"]) == (fault in ("BREAK", "MIDERROR"))
    for _ in range(12):  # more than there are places
        again = here.post(f"/api/questions/{asked['question']['id']}/answers", json={}).json()["answers"][0]
        assert ended(here, again["id"])["state"] == "failed"


def test_a_question_after_a_failed_answer_reaches_the_model_with_the_one_before(here, model):
    asked = ask(here, "我对青霉素过敏 CRASH")
    failed = ended(here, asked["answers"][0]["id"])["id"]
    ended(here, ask(here, "嗓子疼吃什么", conversation=asked["conversation"]["id"], parent=failed)["answers"][0]["id"])
    sent = httpx.get(f"{model}/state").json()["seen"][-1]["messages"]
    assert [m["content"] for m in sent if m["role"] != "system"] == ["我对青霉素过敏 CRASH\n嗓子疼吃什么"]


def test_too_much_at_once_is_refused_with_seconds_and_nothing_is_kept(tmp_path, model):
    limits = {"app.concurrent_requests": 2, "app.requests_per_minute": 4}
    with application(tmp_path, model, limits) as url, httpx.Client(base_url=url) as client:
        running = [ask(client, "LONG")["answers"][0]["id"] for _ in range(2)]
        refused = client.post("/api/questions", json={"text": "LONG"})
        assert int(refused.headers["retry-after"]) >= 1
        problem(refused, 429, "too_many_concurrent_requests")
        for answer in running:
            client.post(f"/api/answers/{answer}/stop")
        for text in ("三", "四"):
            ended(client, ask(client, text)["answers"][0]["id"])
        refused = client.post("/api/questions", json={"text": "五"})
        assert int(refused.headers["retry-after"]) > 1
        problem(refused, 429, "rate_limit_exceeded")
        assert len(client.get("/api/conversations").json()["conversations"]) == 4


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({"text": ""}, 400, "empty_message"),
        ({"text": " \u200b\n"}, 400, "empty_message"),
        ({"text": "x" * 4001}, 400, "message_too_long"),
        ({"text": "坏\ufffd"}, 400, "invalid_text"),
        ({"text": "x", "parent": "0" * 32}, 404, "not_found"),
        ({"text": "x", "conversation": "0" * 32}, 404, "not_found"),
        ({"text": "x", "models": ["gpt-4"]}, 404, "model_not_found"),
        ({"text": "x", "temperature": 1}, 400, "invalid_value"),
        ({}, 400, "invalid_value"),
    ],
)
def test_a_wrong_question_is_an_error_that_says_why(here, body, status, code):
    assert problem(here.post("/api/questions", json=body), status, code)["message"]


def test_a_question_waits_for_the_answer_before_it(here):
    asked = ask(here, "LONG")
    answer = asked["answers"][0]["id"]
    where = {"conversation": asked["conversation"]["id"], "parent": answer}
    problem(here.post("/api/questions", json={"text": "x", **where}), 409, "still_answering")
    here.post(f"/api/answers/{answer}/stop")
    assert here.post("/api/questions", json={"text": "x", **where}).status_code == 201


def test_a_restart_loses_no_conversation_and_says_what_it_cut_off(tmp_path, model):
    with application(tmp_path, model) as url, httpx.Client(base_url=url) as client:
        asked = ask(client, "我对青霉素过敏")
        first = ended(client, asked["answers"][0]["id"])["id"]
        running = ask(client, "LONG", conversation=asked["conversation"]["id"], parent=first)["answers"][0]["id"]
        time.sleep(0.5)
    with application(tmp_path, model) as url, httpx.Client(base_url=url) as client:
        lost = ended(client, running)
        assert lost["state"] == "lost" and lost["content"].startswith("慢慢说。")
        later = ask(client, "那吃什么药", conversation=asked["conversation"]["id"], parent=running)
        ended(client, later["answers"][0]["id"])
        assert "青霉素" in str(httpx.get(f"{model}/state").json()["seen"][-1]["messages"])


def test_two_models_answer_one_question_side_by_side(tmp_path, model):
    with (
        model_server(tmp_path, free_port(), pace=60) as second,
        application(tmp_path, model, {"app.compared": {"old": second}}) as url,
        httpx.Client(base_url=url) as client,
    ):
        assert [m["id"] for m in client.get("/api/session").json()["models"]] == ["xinglin", "old"]
        asked = ask(client, "一", models=["xinglin", "old"])
        answers = [ended(client, answer["id"]) for answer in asked["answers"]]
        assert [answer["model"] for answer in answers] == ["xinglin", "old"] and all(a["content"] for a in answers)
        assert httpx.get(f"{second}/state").json()["seen"][-1]["model"] == "old"


# who


def test_from_elsewhere_a_key_opens_the_same_history_on_every_device(app, store):
    key = add(store, "张医生")
    second = add(store, "手机", person=store.key(key.split("-")[1]).person)
    with elsewhere(app) as desk, elsewhere(app) as phone, elsewhere(app) as stranger:
        for client in (desk, phone, stranger):
            problem(client.get("/api/conversations"), 401, "login_required")
        for client, given in ((desk, key), (phone, second), (stranger, add(store, "别人"))):
            cookie = client.post("/api/session", json={"key": f" {given} "}).headers["set-cookie"]
            assert "HttpOnly" in cookie and "SameSite=lax" in cookie
        asked = ask(desk, "咳嗽怎么办")
        ended(phone, asked["answers"][0]["id"])
        assert [c["title"] for c in phone.get("/api/conversations").json()["conversations"]] == ["咳嗽怎么办"]
        conversation, answer = asked["conversation"]["id"], asked["answers"][0]["id"]
        for reply in (
            stranger.get(f"/api/conversations/{conversation}"),
            stranger.get(f"/api/conversations/{conversation}/export"),
            stranger.delete(f"/api/conversations/{conversation}"),
            stranger.get(f"/api/answers/{answer}/events"),
            stranger.post(f"/api/answers/{answer}/stop"),
            stranger.put(f"/api/answers/{answer}/feedback", json={"liked": True}),
            stranger.post("/api/questions", json={"text": "x", "conversation": conversation, "parent": answer}),
            stranger.post(f"/api/questions/{asked['question']['id']}/answers", json={}),
        ):
            problem(reply, 404, "not_found")
        assert stranger.get("/api/export").json()["conversations"] == []
        assert desk.delete("/api/session").status_code == 204 and desk.get("/api/session").status_code == 401
        assert phone.get("/api/session").json()["person"]["name"] == "张医生"
        desk.post("/api/session", json={"key": key})
        phone.delete("/api/sessions")
        assert desk.get("/api/session").status_code == 401
        desk.post("/api/session", json={"key": key})
        store.revoke(key.split("-")[1])
        assert desk.get("/api/session").status_code == 401
        problem(desk.post("/api/session", json={"key": key}), 401, "expired_api_key")


def test_wrong_keys_are_limited(tmp_path, model):
    with application(tmp_path, model) as url, elsewhere(url) as client:
        replies = [client.post("/api/session", json={"key": f"xl-{n}-x"}) for n in range(11)]
        assert [reply.status_code for reply in replies] == [401] * 10 + [429]
        assert int(replies[-1].headers["retry-after"]) > 1


def test_a_page_elsewhere_changes_nothing(here):
    for headers, status, code in (
        ({"Origin": "https://evil.example"}, 403, "cross_origin"),
        ({"Origin": "null"}, 403, "cross_origin"),
        ({"Sec-Fetch-Site": "same-site"}, 403, "cross_origin"),
        ({"Content-Type": "text/plain"}, 415, "not_json"),
    ):
        kind = {"Content-Type": "application/json"}
        reply = here.post("/api/questions", content=json.dumps({"text": "x"}), headers=kind | headers)
        problem(reply, status, code)
    assert here.delete("/api/conversations", headers={"Origin": "https://evil.example"}).status_code == 403
    assert here.post("/api/session", json={"key": "x"}, headers={"Origin": "https://evil.example"}).status_code == 403
    assert here.get("/", headers={"Sec-Fetch-Site": "cross-site"}).status_code == 200  # a link to the page is no harm
    behind = {"Origin": "https://clinic.example", "Sec-Fetch-Site": "same-origin"}  # a proxy that names another host
    assert here.post("/api/questions", json={"text": "x"}, headers=behind).status_code == 201


def test_administrators_see_feedback_keys_and_counts_and_nobody_else(app, here, store):
    asked = ask(here, "发烧怎么办")
    answer = ended(here, asked["answers"][0]["id"])["id"]
    here.put(f"/api/answers/{answer}/feedback", json={"correction": "多喝水，超过三天就诊"})
    given = here.get("/api/admin/feedback", params={"state": "open"}).json()["feedback"][0]
    assert (given["question"], given["correction"], given["message"]) == ("发烧怎么办", "多喝水，超过三天就诊", answer)
    assert here.put(f"/api/admin/feedback/{answer}", json={"state": "approved"}).json()["state"] == "approved"
    rows = [json.loads(line) for line in here.get("/api/admin/feedback/export").text.splitlines()]
    assert {"data": ["问：发烧怎么办", "答：多喝水，超过三天就诊"]} in rows
    made = here.post("/api/admin/keys", json={"name": "新来的", "days": 7}).json()
    with elsewhere(app) as client:
        assert client.post("/api/session", json={"key": made["key"]}).status_code == 204
        for path in ("feedback", "feedback/export", "keys", "counts", "releases"):
            problem(client.get(f"/api/admin/{path}"), 403, "not_admin")
        assert here.delete(f"/api/admin/keys/{made['id']}").status_code == 204
        assert client.get("/api/session").status_code == 401
    listed = here.get("/api/admin/keys").json()["keys"]
    assert made["id"] in {key["id"] for key in listed} and made["key"] not in str(listed) and "hash" not in listed[0]
    counts = here.get("/api/admin/counts").json()
    assert counts["corrected"] >= 1 and counts["days"][0]["questions"] >= 1 and len(counts["days"]) == 30
    assert here.get("/api/admin/releases").json()["releases"][0]["model"] == "xinglin"


def test_conversations_are_renamed_pinned_searched_and_deleted(here):
    ids = [ask(here, f"第{n}个很特别的问题")["conversation"]["id"] for n in range(3)]
    assert here.patch(f"/api/conversations/{ids[0]}", json={"title": "胃病", "pinned": True}).json()["title"] == "胃病"
    listed = here.get("/api/conversations", params={"limit": 2}).json()
    assert listed["more"] and [c["id"] for c in listed["conversations"]][:3] == [ids[0], ids[2], ids[1]]
    found = here.get("/api/conversations", params={"search": "第1个很特别"}).json()["conversations"]
    assert ids[1] in {c["id"] for c in found} and all("第1个很特别" in c["match"] for c in found)
    assert here.get("/api/conversations", params={"search": "%_"}).json()["conversations"] == []
    assert here.delete(f"/api/conversations/{ids[1]}").status_code == 204
    assert here.get(f"/api/conversations/{ids[1]}").status_code == 404
    assert here.patch(f"/api/conversations/{ids[0]}", json={"title": ""}).status_code == 400


def test_exports_carry_both_marks_of_generated_content(here):
    asked = ask(here, "导出<b>我</b>")
    answer = ended(here, asked["answers"][0]["id"])
    text = here.get(f"/api/conversations/{asked['conversation']['id']}/export").text
    assert "人工智能" in text and "AIGC:" in text.split("---")[1] and answer["content"] in text and "导出<b>我</b>" in text
    whole = here.get("/api/export")
    assert (
        "AIGC" in whole.json() and "人工智能" in whole.json()["mark"] and "attachment" in whole.headers["content-disposition"]
    )
    assert any(m["content"] == answer["content"] for c in whole.json()["conversations"] for m in c["messages"])


# faults of the database


def log(folder: Path) -> str:
    return (folder / "app.log").read_text(encoding="utf-8")


@contextmanager
def locked(file: Path) -> Iterator[None]:
    holder = sqlite3.connect(file, isolation_level=None)
    holder.execute("BEGIN EXCLUSIVE")
    try:
        yield
    finally:
        holder.execute("ROLLBACK")
        holder.close()


def test_a_locked_database_is_told_and_nobodys_words_are_logged(tmp_path, model):
    with application(tmp_path, model) as url, httpx.Client(base_url=url, timeout=60) as client:
        ended(client, ask(client, "一")["answers"][0]["id"])
        with locked(tmp_path / "conversations.db"):
            assert client.get("/healthz").status_code == 200
            problem(client.post("/api/questions", json={"text": WORDS}), 503, "database_unavailable")
        ended(client, ask(client, WORDS)["answers"][0]["id"])
        assert "database failed" in log(tmp_path) and "王小明" not in log(tmp_path)


def test_stopping_while_an_answer_is_being_kept_waits_for_it(tmp_path, model):
    with application(tmp_path, model) as url, httpx.Client(base_url=url, timeout=60) as client:
        asked = ask(client, "短")
        with locked(tmp_path / "conversations.db"):
            time.sleep(3)  # its text has come, its row can't be written
            threads = [
                threading.Thread(target=client.post, args=[f"/api/answers/{asked['answers'][0]['id']}/stop"]) for _ in "12"
            ]
            for thread in threads:
                thread.start()
            time.sleep(1)
        for thread in threads:
            thread.join(30)
            assert not thread.is_alive()
        assert ended(client, asked["answers"][0]["id"])["state"] == "done"


def test_a_feedback_that_was_taken_back_is_gone(here):
    asked = ask(here, "咳嗽怎么办")
    answer = ended(here, asked["answers"][0]["id"])["id"]
    here.put(f"/api/answers/{answer}/feedback", json={"liked": True})
    here.put(f"/api/answers/{answer}/feedback", json={"liked": None})
    problem(here.put(f"/api/admin/feedback/{answer}", json={"state": "approved"}), 404, "not_found")


def test_an_answer_that_cannot_be_kept_is_shown_and_says_so(tmp_path, model, postgresql):
    """On PostgreSQL, made read-only in mid-answer; what was to be kept is in no log."""
    database = postgresql.replace("/postgres", "/kept")
    admin = sa.create_engine(postgresql, isolation_level="AUTOCOMMIT")
    with admin.connect() as connection:
        connection.exec_driver_sql("CREATE DATABASE kept")
        with application(tmp_path, model, XINGLIN_DATABASE=database) as url, httpx.Client(base_url=url, timeout=60) as client:
            asked = ask(client, f"LONG {WORDS}")
            connection.exec_driver_sql("ALTER DATABASE kept SET default_transaction_read_only = on")
            others = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 'kept'"
            connection.exec_driver_sql(others)
            failed = ended(client, asked["answers"][0]["id"])
            assert failed["content"].startswith("慢慢说。" * 400) and "没有保存" in failed["error"]
            problem(client.post("/api/questions", json={"text": WORDS}), 503, "database_unavailable")
            shown = client.get(f"/api/conversations/{asked['conversation']['id']}").json()
            assert shown["messages"][1] == failed and shown["answering"] == []
            connection.exec_driver_sql("ALTER DATABASE kept SET default_transaction_read_only = off")
            connection.exec_driver_sql(others)
            ended(client, ask(client, WORDS)["answers"][0]["id"])
            end = time.monotonic() + 30
            while (late := ended(client, asked["answers"][0]["id"]))["state"] != "done" and time.monotonic() < end:
                time.sleep(0.5)
            assert late["state"] == "done" and late["content"] == failed["content"]  # kept after all
        assert "answer not kept" in log(tmp_path) and "王小明" not in log(tmp_path) and "慢慢说" not in log(tmp_path)
    admin.dispose()
