"""Asking on the chat page in a real browser: streaming, reloads, switches, branches, a model's server that fails, a restart."""

import re
import time

import httpx
import pytest
from playwright.sync_api import expect

from tests.app.chat_page import answers, ask, conversations, enter, finished, open_conversation, question, streaming
from tests.application import application, model_server
from tests.ports import quiet_port

LONG = "慢慢说。" * 400


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


def test_a_copied_answer_is_what_one_sees(page):
    ask(page, "血压 <90 & >60")
    finished(page, 1).get_by_role("button", name="复制").click()
    copied = page.evaluate("navigator.clipboard.readText()")
    assert "“血压 <90 & >60”" in copied and "&lt;" not in copied


def test_while_the_model_loads_the_page_says_so_and_then_answers(visit, tmp_path):
    port = quiet_port()
    with application(tmp_path, f"http://127.0.0.1:{port}") as url:
        page = enter(visit(), url)
        expect(page.get_by_text("模型正在加载")).to_be_visible()
        with model_server(tmp_path, port):
            expect(page.get_by_text("模型正在加载")).to_have_count(0, timeout=30_000)
            ask(page, "咳嗽怎么办")
            finished(page, 1)
