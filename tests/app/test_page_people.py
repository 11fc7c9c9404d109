"""People on the chat page in a real browser: their history, feedback and data, keys and sessions, administrators."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
from playwright.sync_api import BrowserContext, Page, expect

from app.keys import add
from tests.app.chat_page import answers, ask, conversations, enter, finished, open_conversation, question
from tests.application import application, model_server
from xinglin.serving.server import free_port

AWAY = {"X-Forwarded-For": "10.0.0.7"}  # as through a proxy: a key is asked for


def test_thumbs_and_corrections_stay_and_are_marked(page, app):
    ask(page, "咳嗽怎么办")
    finished(page, 1).get_by_role("button", name="有用", exact=True).click()
    expect(answers(page).last.get_by_role("button", name="有用", exact=True)).to_have_attribute("aria-pressed", "true")
    answers(page).last.get_by_role("button", name="改正回答").click()
    page.get_by_role("textbox", name="您认为正确的回答").fill("应该去看医生")
    page.get_by_role("button", name="保存改正").click()
    expect(answers(page).last).to_contain_text("已改正")
    page.reload()
    expect(finished(page, 1)).to_contain_text("应该去看医生")
    answers(page).last.get_by_role("button", name="看原来的回答").click()
    expect(answers(page).last).to_contain_text("多休息")
    [talk] = conversations(app)
    assert (talk["messages"][1]["liked"], talk["messages"][1]["correction"]) == (True, "应该去看医生")


def test_conversations_are_found_renamed_pinned_and_deleted(page, app):
    for text in ("感冒怎么办", "胃疼怎么办"):
        page.get_by_role("button", name="新对话").first.click()
        ask(page, text)
        finished(page, 1)
    history = page.get_by_role("navigation", name="历史对话")
    history.get_by_role("searchbox").fill("感冒")
    expect(history.get_by_role("link")).to_have_count(1)
    history.get_by_role("searchbox").fill("")
    expect(history.get_by_role("link")).to_have_count(2)
    history.get_by_role("button", name="“感冒怎么办”的操作").click()
    page.get_by_role("menuitem", name="置顶").click()
    expect(history.get_by_role("heading").first).to_have_text("置顶")
    history.get_by_role("button", name="“感冒怎么办”的操作").click()
    page.get_by_role("menuitem", name="改名").click()
    page.get_by_role("textbox", name="对话名称").fill("冬天的感冒")
    page.keyboard.press("Enter")
    expect(history).to_contain_text("冬天的感冒")
    history.get_by_role("button", name="“胃疼怎么办”的操作").click()
    page.get_by_role("menuitem", name="删除").click()
    page.get_by_role("dialog").get_by_role("button", name="删除").click()
    expect(history.get_by_role("link")).to_have_count(1)
    assert [talk["title"] for talk in conversations(app)] == ["冬天的感冒"]


def test_own_data_are_exported_and_erased(page, app):
    ask(page, "咳嗽怎么办")
    finished(page, 1)
    page.get_by_role("button", name="我的数据与设置").click()
    with page.expect_download() as download:
        page.get_by_role("menuitem", name="导出我的全部对话").click()
    whole = json.loads(Path(download.value.path()).read_text(encoding="utf-8"))
    assert whole["conversations"][0]["messages"][0]["content"] == "咳嗽怎么办" and "AIGC" in whole
    page.get_by_role("button", name="我的数据与设置").click()
    page.get_by_role("menuitem", name="删除我的全部对话").click()
    page.get_by_role("dialog").get_by_role("button", name="全部删除").click()
    expect(page.get_by_text("还没有对话")).to_be_visible()
    assert conversations(app) == []


# who


def log_in(context: BrowserContext, url: str, key: str) -> Page:
    page = context.new_page()
    page.goto(url)
    page.get_by_label("密钥").fill(key)
    page.get_by_role("button", name="进入").click()
    expect(question(page)).to_be_visible()
    return page


def test_one_person_on_two_devices_and_a_stranger(visit, app, store):
    key = add(store, "张医生")
    desk, phone, stranger = (visit(extra_http_headers=AWAY) for _ in range(3))
    page = log_in(desk, app, key)
    ask(page, "我是张医生的问题")
    finished(page, 1)
    other = log_in(phone, app, add(store, "手机", person=store.key(key.split("-")[1]).person))
    open_conversation(other, "我是张医生的问题")
    finished(other, 1)
    ask(other, "手机上再问")
    finished(other, 2)
    page.bring_to_front()
    page.evaluate("window.dispatchEvent(new Event('focus'))")
    finished(page, 2)
    nobody = log_in(stranger, app, add(store, "别人"))
    expect(nobody.get_by_text("还没有对话")).to_be_visible()
    page.locator(".person").click()
    page.get_by_role("menuitem", name="退出", exact=True).click()
    expect(page.get_by_label("密钥")).to_be_visible()
    page.get_by_label("密钥").fill("xl-wrong-key")
    page.get_by_role("button", name="进入").click()
    expect(page.get_by_text("密钥不对")).to_be_visible()


def test_a_session_that_ends_asks_for_the_key_and_the_words_stay(visit, app, store):
    key = add(store, "李医生")
    page = log_in(visit(extra_http_headers=AWAY), app, key)
    question(page).fill("写了一半的问题")
    store.close_sessions(store.key(key.split("-")[1]).person)
    question(page).press("Enter")
    page.get_by_label("密钥").fill(key)
    page.get_by_role("button", name="进入").click()
    expect(page.get_by_label("密钥")).to_have_count(0)
    expect(question(page)).to_have_value("写了一半的问题")


def test_another_person_on_the_same_browser_sees_nothing_of_the_first(visit, app, store):
    first, second = add(store, "赵医生"), add(store, "钱医生")
    page = log_in(visit(extra_http_headers=AWAY), app, first)
    ask(page, "赵医生的问题")
    finished(page, 1)
    question(page).fill("赵医生写了一半")
    page.get_by_role("searchbox").fill("赵医生")
    expect(page.locator(".match")).to_be_visible()
    store.close_sessions(store.key(first.split("-")[1]).person)
    page.evaluate("window.dispatchEvent(new Event('focus'))")
    page.get_by_label("密钥").fill(second)
    expect(page.get_by_text("赵医生").filter(visible=True)).to_have_count(0)
    expect(page).to_have_title("杏林 · 医疗问答")
    page.get_by_role("button", name="进入").click()
    expect(page.get_by_text("还没有对话")).to_be_visible()
    expect(page.get_by_role("searchbox")).to_have_value("")
    expect(question(page)).to_have_value("")
    assert page.url.endswith("#/")
    assert "赵医生" not in page.content()


class Elsewhere(BaseHTTPRequestHandler):
    """Another site, with a link to the page."""

    target = ""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        self.wfile.write(f'<a href="{self.target}/">link</a>'.encode())

    def log_message(self, *words: object) -> None:
        pass


def test_a_link_from_another_site_opens_the_same_history(visit, app, store):
    page = log_in(visit(extra_http_headers=AWAY), app, add(store, "王医生"))
    ask(page, "王医生的问题")
    finished(page, 1)
    Elsewhere.target = app
    with ThreadingHTTPServer(("127.0.0.1", 0), Elsewhere) as site:
        threading.Thread(target=site.serve_forever, daemon=True).start()
        page.goto(f"http://localhost:{site.server_port}/")  # another site than 127.0.0.1
        page.get_by_text("link").click()
        open_conversation(page, "王医生的问题")
        finished(page, 1)
        site.shutdown()


def test_administrators_look_at_feedback_and_make_keys(page, app):
    ask(page, "发烧怎么办")
    finished(page, 1).get_by_role("button", name="改正回答").click()
    page.get_by_role("textbox", name="您认为正确的回答").fill("超过三天就诊")
    page.get_by_role("button", name="保存改正").click()
    expect(answers(page).last).to_contain_text("已改正")
    page.get_by_role("button", name="我的数据与设置").click()
    page.get_by_role("menuitem", name="管理").click()
    main = page.get_by_role("main")
    expect(main).to_contain_text("超过三天就诊")
    main.get_by_role("button", name="通过").first.click()
    expect(main).not_to_contain_text("超过三天就诊")
    assert "超过三天就诊" in httpx.get(f"{app}/api/admin/feedback/export").text


def test_two_models_stand_side_by_side(visit, model, tmp_path):
    (tmp_path / "second").mkdir()
    with (
        model_server(tmp_path / "second", free_port()) as second,
        application(tmp_path, model, {"app.compared": {"old": second}}) as url,
    ):
        page = enter(visit(), url)
        page.get_by_role("switch").click()
        ask(page, "咳嗽怎么办")
        finished(page, 2)
        boxes = [answers(page).nth(n).bounding_box() for n in range(2)]
        assert boxes[0]["y"] == boxes[1]["y"] and boxes[1]["x"] >= boxes[0]["x"] + boxes[0]["width"]
