"""A base is proven: its tokenizer and the chat template give the same token ids in training and in serving."""

import json
import tempfile
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from xinglin.bases import chat_template, tokenizer
from xinglin.bases.check import Wanted, header, proposal, read, shards
from xinglin.bases.folder import link_base
from xinglin.dialogues.cleaning import neutralise
from xinglin.serving.server import vllm_python


def proof(folder: Path, want: Wanted, out: Path) -> tuple[list[str], dict[str, Any]]:
    """Write the tokenizer and chat template of a base to `out`; return what is wrong with them, and what was seen.

    Training's ids come from LLaMA-Factory, serving's from vLLM's environment, the truth from the library `tokenizers`.
    """
    with tempfile.TemporaryDirectory() as temporary:
        view = Path(temporary) / "base"
        serving = tokenizer.Reader(vllm_python(), view)  # its imports take seconds, during which ours go on
        with serving:
            return prove(folder, want, out, view, serving)


def prove(folder: Path, want: Wanted, out: Path, view: Path, serving: Any) -> tuple[list[str], dict[str, Any]]:
    from transformers import AutoTokenizer
    from transformers import __version__ as version

    template, words = tokenizer.prepare(folder, out, want.template)
    control = tokenizer.control_tokens(template, words)
    if found := [*weights(folder), *not_single(folder, control, want.template)]:
        return found, {}
    link_base(folder, out, view)
    chats = tokenizer.dialogues(control)
    prompts = [turns[:end] for turns in chats for end in range(1, len(turns) + 1) if turns[end - 1]["role"] == "user"]
    texts = [*tokenizer.TEXTS, " ".join(sorted(control))]
    served = serving.read(texts, prompts)
    if "error" in served:
        return [f"vLLM's environment cannot read the tokenizer: {served['error']}"], {}
    words = AutoTokenizer.from_pretrained(view)
    true, known = tokenizer.truth(out, texts), dict(zip(map(json.dumps, prompts), served["prompt_ids"], strict=True))
    trained = words(texts, add_special_tokens=False)["input_ids"]
    found = [
        *misread(texts, true, trained, served["ids"], served["texts"], version),
        *other_prompts(template, words, chats, known, want),
        *typed(out, control),
    ]
    characters = "".join(tokenizer.TEXTS[:3])
    return found, {
        "template": want.template,
        "texts": len(texts),
        "prompts": len(prompts),
        "tokens_per_character": round(sum(map(len, true[:3])) / len(characters), 4),
        "training": f"transformers {version}",
        "serving": f"transformers {served['version']}",
    }


def weights(folder: Path) -> Iterator[str]:
    """Yield how the weights differ from what transformers builds of config.json, by name, shape, and numbers that are none."""
    import torch
    from safetensors import safe_open
    from transformers import AutoConfig, AutoModelForCausalLM

    try:
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder))
    except Exception as error:  # of many kinds; each means that this base cannot be built
        yield f"config.json: transformers cannot build this model: {' '.join(str(error).split())[:200]}: take another base"
        return
    found = {name: (file, tensor["shape"]) for file in shards(folder) for name, tensor in header(file).items()}
    prefix = f"{model.base_model_prefix}."
    tied = (
        set(getattr(model, "_tied_weights_keys", None) or []) if model.config.get_text_config().tie_word_embeddings else set()
    )
    for name, parameter in model.named_parameters():
        seen = found.get(name) or found.get(name.removeprefix(prefix))
        if seen and seen[1] != list(parameter.shape):
            yield (
                f"{name} is {seen[1]}, config.json makes it {list(parameter.shape)}: config.json and weights are of two models"
            )
            return
        if not seen and name not in tied and ".experts." not in name:  # whose files have another form
            yield f"the weights have no {name}: they are of another model, or wrapped by what saved them"
            return
    for name, (file, shape) in found.items():
        if len(shape) == 1:
            with safe_open(file, framework="pt") as opened:
                if not opened.get_tensor(name).isfinite().all():
                    yield f"{file.name}: {name} holds NaN or infinity: the weights are damaged, fetch them again"
                    return


def not_single(folder: Path, control: set[str], template: str) -> Iterator[str]:
    """Yield the first control token that this vocabulary takes apart."""
    for token, ids in zip(sorted(control), tokenizer.truth(folder, sorted(control)), strict=True):
        if len(ids) != 1:
            here = {token["content"] for token in read(folder / "tokenizer.json").get("added_tokens", [])}
            yield f"adapter.template: {template}: {token} is {len(ids)} tokens in this base, not one: {proposal(here)}"
            return


def misread(texts: list[str], true: list, trained: list, served: list, decoded: list[str], version: str) -> Iterator[str]:
    """Yield the first text that an environment reads otherwise than the tokenizer itself, or that does not come back."""
    for text, ids, ours, theirs, back in zip(texts, true, trained, served, decoded, strict=True):
        for name, found in ((f"training (transformers {version})", ours), ("serving", theirs)):
            if found != ids:
                yield (
                    f"tokenizer.json: {name} reads {text[:12]!r} as {len(found)} tokens, the tokenizer "
                    f"itself as {len(ids)} others: report this base"
                )
                return
        if same(back) != same(text):
            yield f"tokenizer.json: {text[:12]!r} comes back as {back[:12]!r}: this vocabulary loses text: take another base"
            return


def same(text: str) -> str:
    """Return a text as it is compared: one way of writing, no space before it."""
    return unicodedata.normalize("NFKC", text).strip()


def other_prompts(template: Any, words: Any, chats: list, served: dict[str, list[int]], want: Wanted) -> Iterator[str]:
    """Yield the first prompt that training and serving read as other ids."""
    for turns in chats:
        ends = [end for end in range(1, len(turns) + 1) if turns[end - 1]["role"] == "user"]
        trained = tokenizer.trained_ids(template, words, turns, want.mask_history)
        for end, ids in zip(ends[-len(trained) :], trained, strict=True):
            if served[json.dumps(turns[:end])] != ids:
                if not want.mask_history and chat_template.reasons(template):
                    yield (
                        f"adapter.mask_history: false: with the reasoning template {want.template} training shows an empty "
                        "thought in every turn, serving in the last alone: set it to true"
                    )
                else:
                    asked = turns[end - 1]["content"]
                    yield (
                        f"adapter.template: {want.template}: training reads the prompt of {asked[:12]!r}, turn {end}, as other "
                        "token ids than serving: take another template"
                    )
                return


def typed(folder: Path, control: set[str]) -> Iterator[str]:
    """Yield the control tokens of the template that a user could type."""
    for token, ids in zip(sorted(control), tokenizer.truth(folder, sorted(control)), strict=True):
        read_back = tokenizer.truth(folder, [neutralise(token)])[0]
        if ids[0] in read_back:
            yield f"templates/neutral.jinja: {token}, typed as text, is read as a control token: add it to the rule there"


def summary(seen: dict[str, Any]) -> str:
    """Return in a line what the proof saw."""
    return (
        f"template {seen['template']}: {seen['texts']} texts and {seen['prompts']} prompts read as the same token ids "
        f"by training ({seen['training']}) and serving ({seen['serving']})"
    )
