"""Ollama's templates, rendered: their Go actions put in Jinja's words."""

import re

import jinja2


def render_ollama(template: str, turns: list[tuple[str, str]]) -> str:
    """Return what Ollama makes of (role, text) turns."""
    words, opened = [], []
    for text in re.split(r"(\{\{.*?\}\})", template):
        action = text.strip("{} ") if text.startswith("{{") else None
        if action is None:
            words.append(text)
        elif action.startswith(("if", "range")):
            opened.append(action.split()[0])
            words.append("{% for m in messages %}" if opened[-1] == "range" else "{% if " + condition(action[3:]) + " %}")
        elif action == "end":
            words.append("{% endfor %}" if opened.pop() == "range" else "{% endif %}")
        elif action.startswith("else"):
            words.append("{% elif " + condition(action[8:]) + " %}" if action[4:] else "{% else %}")
        else:
            words.append({".System": "{{ system }}", ".Content": "{{ m.content }}"}[action])
    messages = [{"role": role, "content": said} for role, said in turns]
    system = "".join(said for role, said in turns if role == "system")
    return jinja2.Environment(keep_trailing_newline=True).from_string("".join(words)).render(messages=messages, system=system)


def condition(action: str) -> str:
    return "system" if action == ".System" else f"m.role == {action.removeprefix('eq .Role ')}"
