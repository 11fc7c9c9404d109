"""What a person does on the chat page and sees there, for the tests in a real browser."""

import httpx
from playwright.sync_api import BrowserContext, Locator, Page, expect


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
