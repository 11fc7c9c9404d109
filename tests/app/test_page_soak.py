"""Ten minutes of people who switch, reload, stop and leave at random: what they were shown is kept, and where it belongs."""

import random
import re
import time
from pathlib import Path

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect

from app.access import digest
from app.keys import add
from app.store import Store
from tests.application import application, model_server
from xinglin.serving.server import free_port

pytestmark = pytest.mark.soak
MINUTES, PEOPLE = 10, 4
SHOWN = """[...document.querySelectorAll('article.answer[aria-busy=false]')]
  .map(answer => answer.querySelector('.markdown')?.innerText ?? '')"""


class Reader:
    """A person in a browser; each question names the conversation that it was typed into."""

    def __init__(self, context: BrowserContext, url: str, number: int, dice: random.Random) -> None:
        self.context, self.url, self.number, self.dice = context, url, number, dice
        self.page = self.opened()
        self.tags: dict[str, str] = {}  # by conversation
        self.seen: set[tuple[str, str]] = set()  # conversation, the text of an answer that was over
        self.asked = 0

    def opened(self) -> Page:
        page = self.context.new_page()
        page.goto(self.url)
        expect(page.get_by_role("textbox", name="您的问题")).to_be_visible()
        return page

    def conversation(self) -> str:
        found = re.search(r"#/c/([0-9a-f]{32})", self.page.url)
        return found[1] if found else ""

    def act(self) -> None:
        acts = [self.ask] * 6 + [self.switch] * 4 + [self.reload] * 2 + [self.leave, self.stop, self.fresh]
        self.dice.choice(acts)()
        self.page.wait_for_timeout(self.dice.randrange(50, 1500))
        self.look()

    def ask(self) -> None:
        box, page = self.page.get_by_role("textbox", name="您的问题"), self.page
        if page.get_by_role("button", name="停止").count():
            return
        before = self.conversation()
        tag = self.tags.get(before) or f"P{self.number}N{len(self.tags)}"
        self.asked += 1
        box.fill(f"{tag}第{self.asked}问{self.dice.choice(['', '', ' LONG'])}")
        box.press("Enter")
        expect(page.get_by_role("article", name="问题").last).to_contain_text(f"第{self.asked}问")
        self.tags[self.conversation()] = tag

    def switch(self) -> None:
        links = self.page.get_by_role("navigation", name="历史对话").get_by_role("link")
        if count := links.count():
            links.nth(self.dice.randrange(min(count, 6))).click()
            expect(self.page.get_by_role("article", name="问题").first).to_be_visible()

    def reload(self) -> None:
        self.page.reload()
        expect(self.page.get_by_role("textbox", name="您的问题")).to_be_visible()

    def leave(self) -> None:
        self.page.close()
        self.page = self.opened()

    def stop(self) -> None:
        button = self.page.get_by_role("button", name="停止")
        if button.count():
            button.click()

    def fresh(self) -> None:
        self.page.get_by_role("button", name="新对话").first.click()

    def look(self) -> None:
        """Nothing of another conversation is shown; remember each answer that is over."""
        conversation = self.conversation()
        shown = self.page.evaluate(SHOWN)
        if conversation != self.conversation() or conversation not in self.tags:
            return
        log = self.page.get_by_role("log")
        words = log.inner_text() if log.count() else ""
        assert set(re.findall(r"P\d+N\d+", words)) <= {self.tags[conversation]}, (self.tags[conversation], words)
        self.seen |= {(conversation, text) for text in shown}


def plain(text: str) -> str:
    """Return a text without what Markdown draws otherwise."""
    return re.sub(r"[\s*\d.]", "", text)


def test_every_conversation_holds_exactly_what_its_reader_was_shown(browser: Browser, tmp_path: Path):
    dice = random.Random(7)
    with model_server(tmp_path, free_port(), pace=60) as model, application(tmp_path, model) as url:
        store = Store(f"sqlite:///{tmp_path}/conversations.db")
        people, persons = [], []
        for number in range(PEOPLE):
            key = store.key(add(store, f"P{number}").split("-")[1])
            store.open_session(digest(f"token{number}"), key, days=1)
            context = browser.new_context(locale="zh-CN", viewport={"width": 1200, "height": 800})
            context.add_cookies([{"name": "xinglin", "value": f"token{number}", "url": url}])
            people.append(Reader(context, url, number, dice))
            persons.append(key.person)
        end = time.monotonic() + 60 * MINUTES
        acts = 0
        while time.monotonic() < end:
            dice.choice(people).act()
            acts += 1
        time.sleep(30)  # what still runs ends
        asked = 0
        for reader, person in zip(people, persons, strict=True):
            kept = {c.id: store.messages(person, c.id) for c in store.conversations(person, limit=None)}
            for identity, nodes in kept.items():
                questions = {m.id: m.content for m in nodes if m.role == "user"}
                asked += len(questions)
                assert {q.partition("第")[0] for q in questions.values()} == {reader.tags[identity]}
                for answer in nodes:
                    assert answer.state != "running"
                    if answer.role == "assistant" and answer.state == "done" and "LONG" not in questions[answer.parent]:
                        assert questions[answer.parent] in answer.content
            for identity, text in reader.seen:
                assert plain(text) in {plain(m.content) for m in kept[identity] if m.role == "assistant"}
            assert sum(len(nodes) for nodes in kept.values()) == 2 * reader.asked
        print(f"\n{PEOPLE} people, {acts} acts, {asked} questions: each conversation holds what its reader was shown")
        store.close()
