"""The chat template of a base, written from LLaMA-Factory's own: Jinja for transformers and vLLM, Go for Ollama.

LLaMA-Factory describes a template by slots: texts, `{{content}}`, and tokens by their role. Both languages are made from
them, so that any template that it knows can be served. Texts of a dialogue go through the macro of templates/neutral.jinja.
"""

import ast
import re
from collections.abc import Iterator
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

NEUTRAL = Path(__file__).parents[2] / "templates" / "neutral.jinja"
CONTENT = "{{content}}"
CONTROL = re.compile(r"<[|｜][^<>]+?[|｜]>")  # how most vocabularies spell a control token
SLOTS = ("format_prefix", "format_system", "format_user", "format_assistant")
ALTERNATE = "roles must be user and assistant, not "


@cache
def known_templates() -> dict[str, set[str]]:
    """Return LLaMA-Factory's templates by name, each with the control tokens that its source spells out.

    Of the stop words the first counts, the end of a turn: LLaMA-Factory names others that only some bases have. The source
    is read, not imported: the import takes some eight seconds.
    """
    spec = find_spec("llamafactory")
    assert spec and spec.submodule_search_locations, "llamafactory is not installed"
    file = Path(spec.submodule_search_locations[0]) / "data" / "template.py"
    found = {}
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "register_template":
            words = {word.arg: word.value for word in node.keywords}
            first_stop = next(iter(getattr(words.get("stop_words"), "elts", [])), None)
            found[ast.literal_eval(words["name"])] = set().union(*map(spelt, [*map(words.get, SLOTS), first_stop]))
    return found


def spelt(node: ast.AST | None) -> set[str]:
    """Return the control tokens in the strings of a piece of source."""
    strings = [part.value for part in ast.walk(node) if isinstance(part, ast.Constant)] if node else []
    return {token for text in strings if isinstance(text, str) for token in CONTROL.findall(text)}


def pieces(slots: list[Any], tokenizer: Any) -> Iterator[str]:
    """Yield the texts of LLaMA-Factory's `slots` in turn; CONTENT stands for what is said."""
    for slot in slots:
        if isinstance(slot, str):
            yield from filter(None, re.split(f"({re.escape(CONTENT)})", slot))
        elif isinstance(slot, dict):
            yield slot["token"]
        else:
            named = (tokenizer.bos_token if "bos_token" in slot else "", tokenizer.eos_token if "eos_token" in slot else "")
            yield from filter(None, named)


def jinja(template: Any, tokenizer: Any) -> str:
    """Return LLaMA-Factory's `template` in Jinja, the thought of a reasoning model closed before it answers."""

    def write(slots: list[Any], content: str) -> str:
        return " + ".join(content if piece == CONTENT else quoted(piece) for piece in pieces(slots, tokenizer))

    first_question = type(template).__name__ == "Llama2Template"  # which has the system text in it
    said = "(message.content.split(" + quoted(template.thought_words[1].strip()) + ")[-1] | trim)"
    answer = f"text{said if reasons(template) else '(message.content | trim)'}"
    system = write(template.format_system.slots[:1] if first_question else template.format_system.slots, "text(system)")
    asked = "(before if loop.first else '') + text(message.content)" if first_question else "text(message.content)"
    prefix, user = write(template.format_prefix.slots, ""), write(template.format_user.slots, asked)
    lines = [
        f"{{%- set system = {quoted(template.default_system)} -%}}",
        "{%- if messages[0].role == 'system' -%}",
        "  {%- set system = messages[0].content or system -%}",
        "  {%- set messages = messages[1:] -%}",
        "{%- endif -%}",
        *([f"{{{{- {prefix} -}}}}"] if prefix else []),
        f"{{%- set before = {system} if system else '' -%}}",
        *([] if first_question else ["{{- before -}}"]),
        "{%- for message in messages -%}",
        "  {%- if message.role == 'user' -%}",
        f"    {{{{- {user} -}}}}",
        "  {%- elif message.role == 'assistant' -%}",
        f"    {{{{- {write(template.format_assistant.slots, answer)} -}}}}",
        "  {%- else -%}",
        f"    {{{{- raise_exception({quoted(ALTERNATE)} + message.role) -}}}}",
        "  {%- endif -%}",
        "{%- endfor -%}",
    ]
    if reasons(template):
        lines += [f"{{%- if add_generation_prompt -%}}{{{{- {quoted(template.add_thought())} -}}}}{{%- endif -%}}"]
    return NEUTRAL.read_text(encoding="utf-8").splitlines()[0] + "\n" + "\n".join(lines) + "\n"


def reasons(template: Any) -> bool:
    """Say whether LLaMA-Factory counts the template among those of reasoning models."""
    return any(kind.__name__ == "ReasoningTemplate" for kind in type(template).__mro__)


def quoted(text: str) -> str:
    """Return `text` as a string of Jinja's."""
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'").replace("\n", "\\n") + "'"


def ollama(template: Any, tokenizer: Any) -> str:
    """Return `template` in Go, as Ollama's Modelfile takes it; raises ValueError for one that Ollama cannot express."""

    def write(slots: list[Any], content: str) -> str:
        return "".join(content if piece == CONTENT else piece for piece in pieces(slots, tokenizer))

    if type(template).__name__ == "Llama2Template":
        raise ValueError("it puts the system text into the first question")
    spoken = f"{{{{ if .System }}}}{{{{ .System }}}}{{{{ else }}}}{template.default_system}{{{{ end }}}}"
    system = write(template.format_system.slots, spoken if template.default_system else "{{ .System }}")
    user, assistant = (write(part.slots, "{{ .Content }}") for part in (template.format_user, template.format_assistant))
    return (
        write(template.format_prefix.slots, "")
        + (system if template.default_system else f"{{{{ if .System }}}}{system}{{{{ end }}}}")
        + f'{{{{ range .Messages }}}}{{{{ if eq .Role "user" }}}}{user}'
        + f'{{{{ else if eq .Role "assistant" }}}}{assistant}{{{{ end }}}}{{{{ end }}}}'
        + (template.add_thought() if reasons(template) else "")
    )
