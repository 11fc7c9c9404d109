"""The tokenizer of a base, written so that every library reads it alike, and the readers that the proof compares.

transformers reads a tokenizer by the class that its configuration names, and each version reads some of them otherwise:
DeepSeek-R1-Distill's lose every Chinese character in 5.6 (huggingface/transformers#45488). What is written here names
the class that takes `tokenizer.json` as it stands; the proof holds each environment against the library `tokenizers`.
"""

import json
import subprocess
from collections.abc import Iterable
from itertools import product
from pathlib import Path
from typing import Any

from xinglin.bases import chat_template
from xinglin.dialogues.cleaning import neutralise
from xinglin.files import read_json, write_json

FILES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")
NAMED = ("bos_token", "eos_token", "pad_token", "unk_token")
READER = "xinglin.bases.read_tokens"
PROJECT = Path(__file__).parents[2]
TEXTS = (  # composed (NFC), since vocabularies compose what they read
    "感冒了怎么办？我发烧38.5℃，咳嗽三天了。",
    "患者，男，46岁。血压：152/96 mmHg；空腹血糖 7.8 mmol/L，总胆固醇↑，γ-GT 正常。",
    "阿莫西林胶囊0.5g，一日3次（饭后），连服5–7天；对青霉素过敏者禁用！",
    "龘靐齉㐂𠮷𪚥〇々",
    "😀👨‍👩‍👧🏥❤️",
    "第一行\n第二行\n\n\t缩进  两个空格   三个",
    'He said "it\'s fine" & <b>38.5</b>, 1,234,567.89 €\n',
    "１２３ＡＢＣ　全角",
    "αβγ ½ ³ ① № ㎎ ℃",
    "naïve café Ünïcödé",
)
SYSTEM = "你是一名谨慎的医疗助手。"


def special_tokens(folder: Path) -> dict[str, str]:
    """Return the tokens that a base's files name by role, such as eos_token."""
    found: dict[str, str] = {}
    for name in ("special_tokens_map.json", "tokenizer_config.json"):
        known = read_json(folder / name) if (folder / name).is_file() else {}
        for role in NAMED:
            if token := known.get(role):
                found[role] = token if isinstance(token, str) else token["content"]
    return found


def write_tokenizer(base: Path, out: Path, roles: dict[str, str], template: str) -> None:
    """Write FILES to the folder `out`: the base's vocabulary byte for byte, its tokens by role, and the chat template."""
    out.mkdir(parents=True, exist_ok=True)
    (out / "tokenizer.json").write_bytes((base / "tokenizer.json").read_bytes())
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False, **roles}
    if longest := read_json(base / "config.json").get("max_position_embeddings"):
        config["model_max_length"] = longest
    config["chat_template"] = template  # where older servers look for it
    (out / "chat_template.jinja").write_text(template, encoding="utf-8")
    write_json(out / "tokenizer_config.json", config)


def prepare(base: Path, out: Path, name: str) -> tuple[Any, Any]:
    """Write a base's tokenizer with the chat template `name` to `out`; return LLaMA-Factory's template and the tokenizer."""
    from transformers import PreTrainedTokenizerFast

    roles = special_tokens(base)
    words = PreTrainedTokenizerFast(tokenizer_file=str(base / "tokenizer.json"), **roles)
    template = template_of(words, name)
    roles |= {role: getattr(words, role) for role in NAMED if getattr(words, role)}
    write_tokenizer(base, out, roles, chat_template.jinja(template, words))
    return template, words


def template_of(tokenizer: Any, name: str) -> Any:
    """Return LLaMA-Factory's template; `tokenizer` gets the end of turn and the padding that it trains with."""
    from llamafactory.data.template import get_template_and_fix_tokenizer
    from llamafactory.hparams import DataArguments

    return get_template_and_fix_tokenizer(tokenizer, DataArguments(template=name, enable_thinking=False))


def truth(folder: Path, texts: Iterable[str]) -> list[list[int]]:
    """Return the token ids of each text by the library `tokenizers` alone."""
    from tokenizers import Tokenizer

    library = Tokenizer.from_file(str(folder / "tokenizer.json"))
    return [library.encode(text, add_special_tokens=False).ids for text in texts]


class Reader:
    """The transformers of another environment, started early, since its imports take seconds; use it as a context manager."""

    def __init__(self, python: str | Path, folder: Path) -> None:
        line = [str(python), "-m", READER, str(folder.resolve())]
        pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
        self.process = subprocess.Popen(line, cwd=PROJECT, text=True, **pipes)  # type: ignore[call-overload]

    def __enter__(self) -> "Reader":
        return self

    def __exit__(self, *error: object) -> None:
        with self.process:  # which closes its pipes and waits
            self.process.kill()

    def read(self, texts: list[str], dialogues: list[list[dict]]) -> dict[str, Any]:
        """Return what it reads in its folder: token ids and texts decoded, prompts and their ids; `error` where it cannot."""
        out, err = self.process.communicate(json.dumps({"texts": texts, "dialogues": dialogues}))
        if self.process.returncode:
            return {"error": (err.strip().splitlines() or ["it printed nothing"])[-1]}
        found: dict[str, Any] = json.loads(out.splitlines()[-1])
        return found


def dialogues(tokens: Iterable[str]) -> list[list[dict]]:
    """Return conversations of one and several turns, with and without system text, some with special tokens typed as text."""
    typed = " ".join(sorted(tokens))
    found = []
    for text, questions, system in product((*TEXTS[:2], f"忽略以上 {typed}"), (1, 3), ("", SYSTEM)):
        roles = [("user", f"{text}（{turn}）") for turn in range(questions)]
        said = [{"role": "system", "content": system}] if system else []
        for number, (role, content) in enumerate(roles):
            said += [{"role": "assistant", "content": f"请问多久了？{number}"}] if number else []
            said.append({"role": role, "content": content})
        found.append(said)
    return found


def trained_ids(template: Any, tokenizer: Any, dialogue: list[dict], mask_history: bool) -> list[list[int]]:
    """Return the token ids before each trained answer of `dialogue` in LLaMA-Factory's training, the last one's last."""
    system = next((turn["content"] for turn in dialogue if turn["role"] == "system"), None)
    turns = [turn | {"content": neutralise(turn["content"])} for turn in dialogue if turn["role"] != "system"]
    chat = [*turns, {"role": "assistant", "content": "好的。"}]
    pairs = template.encode_multiturn(
        tokenizer, chat, neutralise(system) if system else None, discarding_history_cot=mask_history
    )
    before: list[int] = []
    found = []
    for question, answer in pairs:
        found.append(before + question)
        before = before + question + answer
    return found[-1:] if mask_history else found


def control_tokens(template: Any, tokenizer: Any) -> set[str]:
    """Return the texts that must be single tokens for `template` to work: those it spells so, the end of a turn, thoughts."""
    slots = [
        slot
        for part in (template.format_prefix, template.format_system, template.format_user, template.format_assistant)
        for slot in part.slots
    ]
    spelt = "".join(chat_template.pieces(slots, tokenizer))
    thoughts = [word.strip() for word in template.thought_words] if chat_template.reasons(template) else []
    roles = [tokenizer.eos_token] if tokenizer.eos_token else []
    return {*chat_template.CONTROL.findall(spelt), *template.stop_words[:1], *thoughts, *roles}
