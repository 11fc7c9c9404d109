"""The chat page in a real browser on a desk, a phone and paper: the keyboard, accessibility, dark colours, safety."""

import httpx
import pytest
from playwright.sync_api import Page, expect

from tests.app.chat_page import answers, ask, enter, finished, question, streaming
from tests.conftest import ROOT

AXE = ROOT / "app" / "web" / "node_modules" / "axe-core" / "axe.min.js"
SMALL = """[...document.querySelectorAll('button, a[href]')].filter(e => e.offsetParent).filter(e => {
  const box = e.getBoundingClientRect(); return box.width && (box.width < 44 || box.height < 44)
}).map(e => e.ariaLabel || e.innerText)"""


def test_a_script_in_an_answer_or_a_question_does_not_run(page):
    ask(page, "SCRIPT <img src=x onerror='window.hacked = 3'>")
    expect(finished(page, 1)).to_contain_text("<script>window.hacked = 1</script>")
    page.reload()
    finished(page, 1)
    assert page.evaluate("window.hacked") is None


def test_a_conversation_on_paper_is_whole_and_marked(page):
    ask(page, "LONG")
    finished(page, 1)
    page.emulate_media(media="print")
    expect(page.get_by_text("内容由人工智能生成").first).to_be_visible()
    expect(question(page)).to_be_hidden()
    expect(page.get_by_role("navigation", name="历史对话")).to_be_hidden()
    assert page.evaluate("document.querySelector('.scroll').scrollHeight <= document.querySelector('.scroll').clientHeight + 1")


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
