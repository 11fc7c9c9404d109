"""The chat page in a real browser, as people use it: mouse, keyboard, an input method, a phone, the dark."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import sqlalchemy as sa
from playwright.sync_api import Browser, BrowserContext, Page, expect

from app import feedback
from app.keys import add
from app.store import Store, messages
from tests.application import application, model_server
from xinglin.serving.server import free_port

BACKGROUND = "getComputedStyle(document.querySelector('gradio-app')).backgroundColor"


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
def context(browser: Browser) -> Iterator[BrowserContext]:
    opened = browser.new_context(viewport={"width": 1100, "height": 800}, locale="zh-CN")
    opened.set_default_timeout(20_000)
    yield opened
    opened.close()


@pytest.fixture
def page(context: BrowserContext, app: str) -> Page:
    return open_page(context, app)


def open_page(context: BrowserContext, app: str) -> Page:
    page = context.new_page()
    page.goto(app)
    expect(question(page)).to_be_editable()
    expect(page.get_by_text("本页由语言模型回答，不是医生")).to_be_visible()
    page.wait_for_timeout(500)  # Gradio binds its events just after it draws
    return page


def question(page: Page):
    return page.locator("#question textarea")


def answers(page: Page):
    return page.locator("#chat .bot.message")


def ask(page: Page, text: str, count: int) -> None:
    """Ask and wait until the answer, the `count`th, is whole."""
    question(page).fill(text)
    question(page).press("Enter")
    expect(answers(page)).to_have_count(count)
    until_answered(page)


def until_answered(page: Page) -> None:
    expect(page.get_by_role("button", name="发送")).to_be_visible()
    expect(page.get_by_role("button", name="停止")).to_be_hidden()


def correct(page: Page, text: str) -> None:
    page.get_by_role("button", name="改正答案").click()
    page.get_by_label("您认为正确的答案").fill(text)
    page.get_by_role("button", name="保存改正").click()
    expect(answers(page).first).to_have_text(text)


def sent(model: str) -> list[list[dict]]:
    """Return the messages of each request that the model has seen, but for the application's one-token probes."""
    return [request["messages"] for request in httpx.get(f"{model}/state").json()["seen"] if request["max_tokens"] > 1]


def test_ask_stream_and_ask_again_with_context(page):
    question(page).fill("LONG 请慢慢讲")
    question(page).press("Enter")
    expect(page.get_by_role("button", name="停止")).to_be_visible()
    expect(answers(page).first).to_contain_text("慢慢说。" * 3)
    early = len(answers(page).first.inner_text())
    page.wait_for_timeout(700)
    assert len(answers(page).first.inner_text()) > early
    page.get_by_role("button", name="停止").click()
    until_answered(page)
    ask(page, "那第二个问题呢", 2)
    expect(answers(page).nth(1)).to_contain_text("第2轮")
    assert answers(page).nth(1).locator("strong").inner_text() == "第2轮"
    assert answers(page).nth(1).locator("li").count() == 2


def test_stop_keeps_what_had_come_and_stops_the_model(page, model):
    before = httpx.get(f"{model}/state").json()["cancelled"]
    question(page).fill("LONG 停在半路")
    page.get_by_role("button", name="发送").click()
    expect(answers(page).first).to_contain_text("慢慢说。慢慢说。")
    page.get_by_role("button", name="停止").click()
    until_answered(page)
    kept = answers(page).first.inner_text()
    page.wait_for_timeout(800)
    assert answers(page).first.inner_text() == kept and httpx.get(f"{model}/state").json()["cancelled"] == before + 1
    page.reload()
    expect(answers(page).first).to_have_text(kept)


def test_retry_asks_the_same_again_and_replaces_the_answer(page, model):
    before = sent(model)
    ask(page, "咳嗽怎么办", 1)
    correct(page, "先前的答案")  # the model answers the same both times; this tells the first from the second
    page.get_by_role("button", name="重新回答").click()
    expect(answers(page).first).to_contain_text("多喝水")
    until_answered(page)
    expect(answers(page)).to_have_count(1)
    assert sent(model) == [*before, *2 * [[{"role": "user", "content": "咳嗽怎么办"}]]]


def test_feedback_and_a_correction_are_kept_and_exported(page, store, folder, monkeypatch):
    ask(page, "反馈的问题", 1)
    page.get_by_role("button", name="赞").first.click()
    expect(page.get_by_text("谢谢您的反馈")).to_be_visible()
    correct(page, "应当先量体温。<b>x</b>")
    [(_, answer)] = [kept for kept in store.rated() if kept[0].content == "反馈的问题"]
    assert answer.liked and answer.correction == "应当先量体温。<b>x</b>"
    monkeypatch.chdir(folder)
    feedback.main()
    rows = [json.loads(line)["data"] for line in feedback.OUT.read_text(encoding="utf-8").splitlines()]
    assert ["问：反馈的问题", "答：应当先量体温。<b>x</b>"] in rows


def test_what_is_typed_as_a_correction_stays_in_its_box(page):
    expect(question(page)).to_be_focused()
    ask(page, "改正的问题", 1)
    page.get_by_role("button", name="改正答案").click()
    page.get_by_label("您认为正确的答案").click()
    with page.expect_response("**/run/predict"):  # the page looks every five seconds whether the model is there
        page.keyboard.type("先写一半，")
    page.wait_for_timeout(300)
    page.keyboard.type("再写一半")
    assert page.get_by_label("您认为正确的答案").input_value() == "先写一半，再写一半" and question(page).input_value() == ""


def test_reload_shows_the_history_and_each_conversation_opens(page):
    ask(page, "第一个对话的问题", 1)
    page.reload()
    expect(answers(page).first).to_contain_text("第一个对话的问题")
    page.locator(".sidebar .toggle-button").click()
    page.get_by_role("button", name="新对话").click()
    expect(answers(page)).to_have_count(0)
    page.locator(".sidebar .toggle-button").click()
    ask(page, "第二个对话的问题", 1)
    page.locator(".sidebar .toggle-button").click()
    expect(page.get_by_role("radio")).to_have_count(2)
    page.get_by_role("radio", name="第一个对话的问题").check()
    expect(answers(page).first).to_contain_text("第一个对话的问题")


def test_somebody_else_sees_nothing_of_it(browser, app, page):
    ask(page, "只有我看得到", 1)
    other = browser.new_context(locale="zh-CN")
    there = open_page(other, app)
    assert "只有我看得到" not in there.content()
    other.close()


def test_own_data_are_exported_and_deleted(page, app, store):
    ask(page, "要导出的问题", 1)
    page.locator(".sidebar .toggle-button").click()
    with page.expect_download() as download:
        page.get_by_text("导出我的对话").click()
    assert download.value.suggested_filename == "我的对话.json"
    rows = json.loads(Path(download.value.path()).read_text(encoding="utf-8"))
    assert rows[0]["messages"][0]["content"] == "要导出的问题"
    page.once("dialog", lambda dialog: dialog.dismiss())
    page.get_by_role("button", name="删除我的全部对话").click()
    page.wait_for_timeout(500)
    expect(answers(page)).to_have_count(1)
    page.once("dialog", lambda dialog: dialog.accept())
    page.get_by_role("button", name="删除我的全部对话").click()
    expect(answers(page)).to_have_count(0)
    expect(page.get_by_role("radio")).to_have_count(0)
    again = page.context.new_page()
    with again.expect_response("**/run/predict") as filled:  # what the page opens with
        again.goto(app)
    assert "要导出的问题" not in str(filled.value.json())
    assert store.read(sa.select(messages.c.id).where(messages.c.content.contains("要导出的问题"))) == []


def test_nobody_exports_without_being_let_in(app):
    reply = httpx.get(f"{app}/export")
    assert reply.status_code == 303 and reply.headers["location"] == "/" and reply.text == ""


def test_an_emergency_is_on_top_before_the_answer(page):
    question(page).fill("胸口压榨样疼，出冷汗 LONG")
    question(page).press("Enter")
    alert = page.get_by_role("alert").filter(has_text="120")
    expect(alert).to_be_visible()
    assert alert.bounding_box()["y"] < page.locator("#chat").bounding_box()["y"]
    page.get_by_role("button", name="停止").click()
    until_answered(page)
    ask(page, "没有胸痛了，想问饮食", 2)
    expect(alert).to_be_hidden()


def test_an_emergency_told_over_three_messages_is_on_top(page):
    alert = page.get_by_role("alert").filter(has_text="胎动异常")
    ask(page, "我怀孕34周了，平时能吃螃蟹吗", 1)
    ask(page, "好的，那走路锻炼可以吗", 2)
    expect(alert).to_be_hidden()
    ask(page, "今天一整天都没感觉到宝宝动", 3)
    expect(alert).to_be_visible()


def test_a_script_in_an_answer_or_a_question_does_not_run(page):
    ask(page, "SCRIPT <img src=x onerror='window.hacked = 3'>", 1)
    expect(answers(page).first).to_contain_text("<script>window.hacked = 1</script>")
    assert answers(page).first.locator("strong").inner_text() == "加粗"
    assert page.evaluate("window.hacked") is None and page.locator("#chat script, #chat img").count() == 0


def test_enter_that_ends_a_composition_does_not_send(page, context):
    question(page).click()
    session = context.new_cdp_session(page)
    session.send("Input.imeSetComposition", {"text": "kesou", "selectionStart": 5, "selectionEnd": 5})
    session.send(
        "Input.dispatchKeyEvent", {"type": "rawKeyDown", "windowsVirtualKeyCode": 229, "key": "Process", "code": "Enter"}
    )
    session.send("Input.dispatchKeyEvent", {"type": "keyUp", "windowsVirtualKeyCode": 13, "key": "Enter", "code": "Enter"})
    session.send("Input.insertText", {"text": "咳嗽"})
    page.wait_for_timeout(500)
    expect(answers(page)).to_have_count(0)
    assert question(page).input_value() == "咳嗽"
    question(page).press("Shift+Enter")
    page.keyboard.insert_text("三天")
    assert question(page).input_value() == "咳嗽\n三天"
    question(page).press("Enter")
    expect(answers(page)).to_have_count(1)
    until_answered(page)


def test_the_keyboard_alone_is_enough(page):
    for _ in range(30):
        page.keyboard.press("Tab")
        if question(page).evaluate("element => element === document.activeElement"):
            break
    else:
        pytest.fail("Tab does not reach the question")
    page.keyboard.type("asked by keyboard")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.innerText") == "发送"
    page.keyboard.press("Enter")
    expect(answers(page)).to_have_count(1)
    until_answered(page)
    names = set()
    for _ in range(30):
        page.keyboard.press("Shift+Tab")
        focused = "document.activeElement.getAttribute('aria-label') || document.activeElement.innerText"
        names.add(page.evaluate(focused).strip())
    assert {"重新回答", "改正答案", "赞", "踩", "切换深色与浅色"} <= names


def test_a_screen_reader_is_told_language_log_and_alert(page):
    assert page.evaluate("document.documentElement.lang") == "zh-CN"
    assert page.locator("#chat [role=log]").get_attribute("aria-live") == "polite"
    expect(page.get_by_role("note")).to_contain_text("不是医生")
    expect(page.get_by_role("heading", name="杏林")).to_be_visible()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_a_phone_in_the_light_and_in_the_dark(browser, app, scheme):
    phone = browser.new_context(viewport={"width": 360, "height": 740}, locale="zh-CN", color_scheme=scheme, has_touch=True)
    page = open_page(phone, app)
    ask(page, "手机上的问题", 1)
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    for place in (question(page), page.get_by_role("button", name="发送"), page.get_by_role("note")):
        box = place.bounding_box()
        assert box["x"] >= 0 and box["x"] + box["width"] <= 360 and box["y"] + box["height"] <= 740
    background = page.evaluate(BACKGROUND)
    luminance = sum(map(int, re.findall(r"\d+", background)[:3])) / 3
    assert (luminance < 80) == (scheme == "dark")
    page.get_by_role("button", name="切换深色与浅色").click()
    flipped = sum(map(int, re.findall(r"\d+", page.evaluate(BACKGROUND))[:3])) / 3
    assert (flipped < 80) != (scheme == "dark")
    phone.close()


def test_examples_ask_at_a_touch_and_the_model_is_named(page):
    expect(page.locator("#model")).to_contain_text("模型 xinglin")
    page.get_by_text("幽门螺杆菌阳性一定要治吗？").click()
    expect(answers(page).first).to_contain_text("幽门螺杆菌阳性一定要治吗")
    until_answered(page)


def test_nothing_comes_from_another_host(context, app):
    foreign = []

    def is_foreign(url: str) -> bool:
        return not url.startswith((app, "data:", "blob:"))

    context.route(is_foreign, lambda route: route.fulfill(body=""))  # what the policy lets out is answered, network or not
    context.on("response", lambda reply: foreign.append(reply.url) if is_foreign(reply.url) else None)
    ask(open_page(context, app), "只用本机", 1)
    assert foreign == []


def test_an_empty_question_is_not_sent_and_trouble_is_said_in_words(page, model):
    before = sent(model)
    page.get_by_role("button", name="发送").click()
    expect(page.get_by_text("请先写下问题")).to_be_visible()
    expect(answers(page)).to_have_count(0)
    question(page).fill("BREAK 中途断开的问题，看看页面怎么说")
    question(page).press("Enter")
    expect(page.get_by_text("可以再试一次")).to_be_visible()
    assert sent(model) == [*before, [{"role": "user", "content": "BREAK 中途断开的问题，看看页面怎么说"}]]


def test_while_the_model_loads_the_page_says_so_and_then_answers(browser, tmp_path):
    port = free_port()
    with application(tmp_path, f"http://127.0.0.1:{port}") as url:
        context = browser.new_context(locale="zh-CN")
        page = open_page(context, url)
        expect(page.get_by_text("模型正在加载")).to_be_visible()
        question(page).fill("太早的问题")
        question(page).press("Enter")
        expect(page.get_by_text("模型暂时不可用")).to_be_visible()
        with model_server(tmp_path, port):
            expect(page.get_by_text("模型正在加载")).to_be_hidden(timeout=15_000)
            page.get_by_role("button", name="重新回答").click()
            expect(answers(page).first).to_contain_text("太早的问题")
        context.close()


def test_from_elsewhere_the_page_asks_for_a_key(browser, app, store):
    key = add(store, "page")
    context = browser.new_context(extra_http_headers={"X-Forwarded-For": "10.0.0.9"}, locale="zh-CN")
    page = context.new_page()
    page.goto(f"{app}/chat/")
    page.get_by_label("访问密钥").fill("xl-wrong")
    page.get_by_role("button", name="进入").click()
    expect(page.get_by_role("alert")).to_contain_text("密钥不对")
    page.get_by_label("访问密钥").fill(key)
    page.get_by_role("button", name="进入").click()
    expect(question(page)).to_be_editable()
    page.wait_for_timeout(500)
    ask(page, "远程的问题", 1)
    cookie = context.cookies()[0]
    assert cookie["httpOnly"] and cookie["sameSite"] == "Strict"
    store.revoke(key.split("-", 2)[1])
    page.goto(f"{app}/chat/")
    expect(page.get_by_label("访问密钥")).to_be_visible()
    context.close()
