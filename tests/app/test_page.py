"""The chat page in a real browser, as people use it: reloads, switches, two devices, a restart, a phone, the keyboard."""

import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import Browser, BrowserContext, Locator, Page, expect

from app.keys import add
from app.store import Store
from tests.application import application, model_server
from tests.conftest import ROOT
from tests.ports import quiet_port
from xinglin.serving.server import free_port

AXE = ROOT / "app" / "web" / "node_modules" / "axe-core" / "axe.min.js"
AWAY = {"X-Forwarded-For": "10.0.0.7"}  # as through a proxy: a key is asked for
LONG = "慢慢说。" * 400
SMALL = """[...document.querySelectorAll('button, a[href]')].filter(e => e.offsetParent).filter(e => {
  const box = e.getBoundingClientRect(); return box.width && (box.width < 44 || box.height < 44)
}).map(e => e.ariaLabel || e.innerText)"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("page")


@pytest.fixture(scope="module")
def model(folder: Path) -> Iterator[str]:
    with model_server(folder, free_port(), pace=60) as url:
        yield url


@pytest.fixture(scope="module")
def app(folder: Path, model: str) -> Iterator[str]:
    with application(folder, model) as url:
        yield url


@pytest.fixture
def store(folder: Path, app: str) -> Iterator[Store]:
    opened = Store(f"sqlite:///{folder}/conversations.db")
    yield opened
    opened.close()


@pytest.fixture
def visit(browser: Browser) -> Iterator[Callable[..., BrowserContext]]:
    """Makes browser contexts: a person's browser each, closed after the test."""
    opened = []

    def make(**options: object) -> BrowserContext:
        context = browser.new_context(**({"viewport": {"width": 1200, "height": 800}, "locale": "zh-CN"} | options))
        context.set_default_timeout(15_000)
        context.grant_permissions(["clipboard-read", "clipboard-write"])
        opened.append(context)
        return context

    yield make
    for context in opened:
        context.close()


@pytest.fixture
def page(visit: Callable[..., BrowserContext], app: str) -> Page:
    """A page on this machine itself, where nobody has asked anything yet."""
    httpx.delete(f"{app}/api/conversations")
    return enter(visit(), app)


def enter(context: BrowserContext, url: str) -> Page:
    page = context.new_page()
    page.goto(url)
    expect(page.get_by_text("不是医生").first).to_be_visible()
    return page


def question(page: Page) -> Locator:
    return page.get_by_role("textbox", name="您的问题")


def answers(page: Page) -> Locator:
    return page.get_by_role("article", name="回答")


def ask(page: Page, text: str) -> None:
    question(page).fill(text)
    question(page).press("Enter")
    expect(page.get_by_role("article", name="问题").last).to_contain_text(text)
    expect(question(page)).to_have_value("")


def finished(page: Page, count: int) -> Locator:
    """The last answer, when there are `count` and all are over."""
    expect(answers(page)).to_have_count(count)
    expect(answers(page).last).to_have_attribute("aria-busy", "false", timeout=60_000)
    return answers(page).last


def streaming(page: Page) -> Locator:
    """The last answer, once its text has begun to come."""
    expect(answers(page).last).to_have_attribute("aria-busy", "true")
    expect(answers(page).last).to_contain_text("慢慢说。")
    return answers(page).last


def open_conversation(page: Page, title: str) -> None:
    page.get_by_role("navigation", name="历史对话").get_by_role("link").filter(has_text=title).click()


def conversations(app: str) -> list[dict]:
    """What the application keeps of the local person."""
    ids = [c["id"] for c in httpx.get(f"{app}/api/conversations").json()["conversations"]]
    return [httpx.get(f"{app}/api/conversations/{identity}").json() for identity in ids]


# asking


def test_ask_stream_and_go_on_with_what_was_said(page):
    ask(page, "咳嗽怎么办")
    expect(finished(page, 1)).to_contain_text("您问的是“咳嗽怎么办”")
    expect(answers(page).last.locator("strong")).to_have_text("第1轮")  # Markdown
    expect(answers(page).last.locator("li")).to_have_count(2)
    ask(page, "要吃药吗")
    expect(finished(page, 2)).to_contain_text("第2轮")
    expect(answers(page).last).to_contain_text("AI 生成")


def test_stop_keeps_what_had_come_and_says_so(page, model):
    before = httpx.get(f"{model}/state").json()["cancelled"]
    ask(page, "LONG")
    streaming(page)
    page.get_by_role("button", name="停止").click()
    expect(finished(page, 1)).to_contain_text("已停止")
    assert httpx.get(f"{model}/state").json()["cancelled"] == before + 1
    page.reload()
    expect(finished(page, 1)).to_contain_text("慢慢说。")


def test_a_reload_in_mid_answer_loses_nothing(page, app):
    ask(page, "LONG")
    streaming(page)
    page.reload()
    streaming(page)
    finished(page, 1)
    [kept] = conversations(app)
    assert kept["messages"][1]["content"] == LONG
    assert answers(page).last.locator("p").first.inner_text() == LONG


def test_a_page_without_network_for_a_while_catches_up(page):
    ask(page, "LONG")
    streaming(page)
    page.context.set_offline(True)
    time.sleep(2)
    page.context.set_offline(False)
    assert finished(page, 1).locator("p").first.inner_text() == LONG


def test_another_conversation_opened_in_mid_answer_gets_nothing_of_it(page, app):
    ask(page, "我是甲 LONG")
    streaming(page)
    page.get_by_role("button", name="新对话").first.click()
    expect(answers(page)).to_have_count(0)
    ask(page, "我是乙")
    expect(finished(page, 1)).to_contain_text("我是乙")
    expect(page.get_by_role("log")).not_to_contain_text("慢慢说")
    open_conversation(page, "我是甲")
    assert finished(page, 1).locator("p").first.inner_text() == LONG
    ask(page, "甲再问")
    finished(page, 2)
    talks = {talk["title"]: [m["content"] for m in talk["messages"] if m["role"] == "user"] for talk in conversations(app)}
    assert talks == {"我是甲 LONG": ["我是甲 LONG", "甲再问"], "我是乙": ["我是乙"]}


def test_asked_again_the_old_answer_stays_and_one_can_go_back_to_it(page, app):
    ask(page, "咳嗽怎么办")
    finished(page, 1).get_by_role("button", name="重新回答").click()
    expect(finished(page, 1).get_by_role("group", name="回答的版本")).to_contain_text("2 / 2")
    answers(page).last.get_by_role("button", name="上一版").click()
    expect(answers(page).last.get_by_role("group", name="回答的版本")).to_contain_text("1 / 2")
    [talk] = conversations(app)
    assert [m["role"] for m in talk["messages"]] == ["user", "assistant", "assistant"]


def test_an_edited_question_is_a_branch(page, app, model):
    ask(page, "咳嗽怎么办")
    finished(page, 1)
    ask(page, "第二问")
    finished(page, 2)
    second = page.get_by_role("article", name="问题").last
    second.get_by_role("button", name="修改问题").click()
    page.get_by_role("textbox", name="修改问题").fill("第二问，改过")
    page.get_by_role("button", name="提问").click()
    expect(page.get_by_role("article", name="问题").last).to_contain_text("第二问，改过")
    finished(page, 2)
    assert "第二问，改过" in httpx.get(f"{model}/state").json()["seen"][-1]["messages"][-1]["content"]
    page.get_by_role("article", name="问题").last.get_by_role("button", name="上一版").click()
    expect(page.get_by_role("article", name="问题").last).not_to_contain_text("改过")
    page.reload()
    finished(page, 2)


def test_the_models_server_down_the_old_answer_stays(visit, tmp_path):
    port = quiet_port()
    with application(tmp_path, f"http://127.0.0.1:{port}") as url:
        page = None
        with model_server(tmp_path, port):
            page = enter(visit(), url)
            ask(page, "咳嗽怎么办")
            old = finished(page, 1).locator("p").first.inner_text()
        for _ in range(2):
            finished(page, 1).get_by_role("button", name="重新回答").first.click()
            expect(finished(page, 1)).to_contain_text("模型暂时不可用")
        answers(page).last.get_by_role("button", name="上一版").click()
        answers(page).last.get_by_role("button", name="上一版").click()
        assert answers(page).last.locator("p").first.inner_text() == old
        ask_failed = question(page)
        ask_failed.fill("还有一问")
        ask_failed.press("Enter")
        expect(finished(page, 2)).to_contain_text("模型暂时不可用")
        with model_server(tmp_path, port):
            answers(page).last.get_by_role("button", name="重新回答").first.click()
            expect(answers(page).last).to_contain_text("还有一问", timeout=30_000)


def test_after_a_restart_the_conversation_goes_on_where_it_was(visit, model, tmp_path):
    changes = {"app.port": quiet_port()}
    with application(tmp_path, model, changes) as url:
        page = enter(visit(), url)
        ask(page, "我对青霉素过敏")
        finished(page, 1)
    with application(tmp_path, model, changes) as url:
        ask(page, "嗓子疼吃什么药")
        finished(page, 2)
        [talk] = conversations(url)
        assert [m["content"] for m in talk["messages"] if m["role"] == "user"] == ["我对青霉素过敏", "嗓子疼吃什么药"]
        assert "青霉素" in str(httpx.get(f"{model}/state").json()["seen"][-1]["messages"])


def test_asked_again_after_the_model_was_renamed(visit, model, tmp_path):
    changes = {"app.port": quiet_port()}
    with application(tmp_path, model, changes) as url:
        page = enter(visit(), url)
        ask(page, "咳嗽怎么办")
        finished(page, 1)
    with application(tmp_path, model, changes | {"serve.model_name": "renamed"}) as url:
        answers(page).last.get_by_role("button", name="重新回答").click()
        expect(finished(page, 2)).to_contain_text("咳嗽怎么办")
        page.reload()
        expect(answers(page)).to_have_count(2)
        answers(page).first.get_by_role("button", name="重新回答").click()
        expect(page.get_by_role("group", name="回答的版本")).to_contain_text("2 / 2")
        finished(page, 2)
        [talk] = conversations(url)
        assert [m["model"].split("@")[0] for m in talk["messages"][1:]] == ["xinglin", "renamed", "renamed"]


def test_what_is_typed_while_a_question_is_sent_stays(page):
    held = []
    page.route("**/api/questions", lambda route: held.append(route))

    def send() -> None:
        with page.expect_request("**/api/questions"):
            question(page).press("Enter")
        expect(question(page)).to_have_value("")

    question(page).fill("咳嗽怎么办")
    send()
    question(page).fill("要吃药吗")
    held[0].continue_()
    finished(page, 1)
    expect(question(page)).to_have_value("要吃药吗")
    send()
    held[1].abort()
    expect(page.get_by_role("alert").filter(has_text="网络不通")).to_be_visible()
    expect(question(page)).to_have_value("要吃药吗")


def test_an_example_leaves_the_draft(page):
    question(page).fill("写了一半")
    page.locator(".welcome button").first.click()
    finished(page, 1)
    expect(question(page)).to_have_value("写了一半")


def test_too_many_questions_say_for_how_long_and_the_text_stays(visit, model, tmp_path):
    with application(tmp_path, model, {"app.requests_per_minute": 1}) as url:
        page = enter(visit(), url)
        ask(page, "一")
        finished(page, 1)
        question(page).fill("二")
        question(page).press("Enter")
        expect(page.get_by_text(re.compile(r"\d+ 秒后可以再试"))).to_be_visible()
        expect(question(page)).to_have_value("二")
        page.reload()
        finished(page, 1)
        expect(page.get_by_role("article", name="问题")).to_have_count(1)


@pytest.mark.parametrize("fault", ["CRASH", "BREAK", "MIDERROR"])
def test_a_fault_of_the_model_is_said_and_the_page_goes_on(page, fault):
    ask(page, fault)
    expect(finished(page, 1).locator(".state")).to_be_visible()
    page.get_by_role("button", name="新对话").first.click()
    ask(page, "咳嗽怎么办")
    expect(finished(page, 1)).to_contain_text("咳嗽怎么办")


# what is said and shown


def test_an_emergency_is_on_top_of_its_conversation_and_calls_at_a_touch(page):
    for text in ("今天下午开始的", "是我爸", "他突然口角歪斜，话说不清"):
        ask(page, text)
        finished(page, answers(page).count() or 1)
    alert = page.locator(".notice")
    expect(alert).to_contain_text("120")
    assert alert.locator("a").first.get_attribute("href") == "tel:120"
    page.reload()
    expect(alert).to_be_visible()
    page.get_by_role("button", name="新对话").first.click()
    expect(alert).to_have_count(0)


def test_a_script_in_an_answer_or_a_question_does_not_run(page):
    ask(page, "SCRIPT <img src=x onerror='window.hacked = 3'>")
    expect(finished(page, 1)).to_contain_text("<script>window.hacked = 1</script>")
    page.reload()
    finished(page, 1)
    assert page.evaluate("window.hacked") is None


def test_a_copied_answer_is_what_one_sees(page):
    ask(page, "血压 <90 & >60")
    finished(page, 1).get_by_role("button", name="复制").click()
    copied = page.evaluate("navigator.clipboard.readText()")
    assert "“血压 <90 & >60”" in copied and "&lt;" not in copied


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


def test_a_conversation_on_paper_is_whole_and_marked(page):
    ask(page, "LONG")
    finished(page, 1)
    page.emulate_media(media="print")
    expect(page.get_by_text("内容由人工智能生成").first).to_be_visible()
    expect(question(page)).to_be_hidden()
    expect(page.get_by_role("navigation", name="历史对话")).to_be_hidden()
    assert page.evaluate("document.querySelector('.scroll').scrollHeight <= document.querySelector('.scroll').clientHeight + 1")


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


# with what


def test_enter_that_ends_a_composition_does_not_send(page):
    question(page).click()
    session = page.context.new_cdp_session(page)
    session.send("Input.imeSetComposition", {"text": "kesou", "selectionStart": 5, "selectionEnd": 5})
    event = {"key": "Process", "code": "Enter", "windowsVirtualKeyCode": 229}
    session.send("Input.dispatchKeyEvent", {"type": "rawKeyDown"} | event)
    session.send("Input.insertText", {"text": "咳嗽"})
    session.send("Input.dispatchKeyEvent", {"type": "keyUp"} | event)
    expect(question(page)).to_have_value("咳嗽")
    expect(page.get_by_role("article", name="问题")).to_have_count(0)
    question(page).press("Enter")
    expect(page.get_by_role("article", name="问题")).to_have_count(1)


def test_the_keyboard_alone_is_enough(page):
    page.keyboard.type("咳嗽怎么办 LONG")  # the box has the focus
    page.keyboard.press("Enter")
    streaming(page)
    page.get_by_role("button", name="我的数据与设置").press("Enter")
    expect(page.get_by_role("menu")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.get_by_role("menu")).to_be_hidden()
    streaming(page)  # the key was for the menu
    page.keyboard.press("Escape")
    expect(finished(page, 1)).to_contain_text("已停止")
    page.keyboard.press("Control+k")
    page.keyboard.type("咳嗽")
    expect(page.get_by_role("searchbox")).to_have_value("咳嗽")
    page.keyboard.press("Control+Shift+o")
    expect(answers(page)).to_have_count(0)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [{"width": 1200, "height": 800}, {"width": 390, "height": 844}], ids=["desk", "phone"])
def test_it_keeps_to_wcag_aa_and_fits(visit, app, scheme, size):
    """axe-core finds nothing on the empty page, a conversation with an emergency, and the administrators' view."""
    if not AXE.exists():
        pytest.skip("app/web/node_modules is not there (make test installs it where npm is)")
    phone = size["width"] < 500
    page = enter(visit(viewport=size, color_scheme=scheme, has_touch=phone, is_mobile=phone), app)
    found = [violations(page)]
    ask(page, "我爸突然口角歪斜，话说不清")
    finished(page, 1)
    found.append(violations(page))
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    if phone:
        found.append([name for name in page.evaluate(SMALL) if name not in ("120", "12356")])  # within a sentence
    page.goto(f"{app}/#/admin")
    expect(page.get_by_role("main")).to_contain_text("反馈")
    found.append(violations(page))
    assert found == [[]] * len(found)


def violations(page: Page) -> list[str]:
    page.wait_for_timeout(400)  # colours fade in
    page.evaluate(AXE.read_text(encoding="utf-8"))
    tags = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa"]
    result = page.evaluate("tags => axe.run({runOnly: tags})", tags)
    return [f"{v['id']}: {v['nodes'][0]['html'][:200]}" for v in result["violations"]]


def test_nothing_comes_from_another_host_and_the_policy_is_never_broken(visit, app):
    context = visit()
    page, asked, said = context.new_page(), [], []
    page.on("request", lambda request: asked.append(request.url))
    page.on("console", lambda message: said.append(message.text))
    page.goto(app)
    ask(page, "公式 $x^2$ 和 SCRIPT")
    finished(page, 1)
    assert all(url.startswith((app, "data:", "blob:")) for url in asked)
    assert [text for text in said if "Content Security Policy" in text] == []
    policy = httpx.get(app).headers["content-security-policy"]
    assert "unsafe-eval" not in policy and "script-src 'self';" in policy


def test_while_the_model_loads_the_page_says_so_and_then_answers(visit, tmp_path):
    port = quiet_port()
    with application(tmp_path, f"http://127.0.0.1:{port}") as url:
        page = enter(visit(), url)
        expect(page.get_by_text("模型正在加载")).to_be_visible()
        with model_server(tmp_path, port):
            expect(page.get_by_text("模型正在加载")).to_have_count(0, timeout=30_000)
            ask(page, "咳嗽怎么办")
            finished(page, 1)
