"""LLaMA-Factory's own chat page or board, on loopback, with base, adapter, template and data of the pipeline filled in.

Usage: make chat | make webui        (GRADIO_SERVER_PORT=… for another port than 7860)
"""

import json
import os
import sys
from importlib.metadata import version
from pathlib import Path

from tools.all_params import read_params
from xinglin.bases.folder import open_base
from xinglin.cli import CommandError, run_command
from xinglin.files import read_json
from xinglin.serving.decoding import Decoding

ADAPTER, SPLIT = Path("models/adapter"), Path("data/split")
BASE, TOKENIZER = Path("models/base.json"), Path("models/tokenizer")


def settings() -> dict:
    """Return what both pages need: the base's folder and the adapter's, or the tuned model's alone, and the template."""
    template = read_params().adapter.template
    if (ADAPTER / "config.json").is_file():
        return {"model_name_or_path": str(ADAPTER), "template": template}
    if not (ADAPTER / "adapter_config.json").is_file():
        raise CommandError(f"{ADAPTER}: no adapter: run 'dvc repro adapter' to make it")
    base = open_base(read_json(BASE), TOKENIZER)
    return {"model_name_or_path": str(base), "adapter_name_or_path": str(ADAPTER), "template": template}


def generating(decoding: Decoding) -> dict:
    """Return the decoding by LLaMA-Factory's names; where tokens are sampled, the page's sliders say temperature and top_p."""
    return {"do_sample": decoding.temperature > 0, "top_k": decoding.top_k, "repetition_penalty": decoding.repetition_penalty}


def chat(known: dict, decoding: Decoding) -> None:
    options = [word for name, value in (known | generating(decoding)).items() for word in (f"--{name}", str(value))]
    program = f"{sys.prefix}/bin/llamafactory-cli"
    os.execv(program, [program, "webchat", *options, "--enable_thinking", "false"])


def webui(known: dict, decoding: Decoding) -> None:
    """Open the board; LLaMA-Factory has no option for what is chosen at the start, so its first values are replaced."""
    import gradio as gr
    from llamafactory.webui import engine, interface
    from llamafactory.webui.components import top

    adapters = [known["adapter_name_or_path"]] if "adapter_name_or_path" in known else []
    resume = engine.Engine.resume
    train = {"value": ["train"], "choices": ["train", "val", "test"]}
    filled = {
        "train.dataset_dir": {"value": str(SPLIT)},
        "train.dataset": train,
        "eval.dataset_dir": {"value": str(SPLIT)},
        "eval.dataset": train | {"value": ["test"]},
        "infer.extra_args": {"value": json.dumps(generating(decoding))},
    }
    if decoding.temperature:
        filled |= {f"infer.{name}": {"value": getattr(decoding, name)} for name in ("temperature", "top_p")}

    def resume_filled(self):
        for update in resume(self):
            yield update | self._update_component(filled)

    def get_model_info(model_name):
        return known["model_name_or_path"], known["template"]

    def list_checkpoints(model_name, finetuning_type):
        return gr.Dropdown(value=adapters, choices=adapters, multiselect=True)

    for place, name in ((engine, "load_config"), (engine.Engine, "resume"), (top, "get_model_info"), (top, "list_checkpoints")):
        if not hasattr(place, name):
            raise CommandError(
                f"tools/board.py: LLaMA-Factory {version('llamafactory')} has no {place.__name__}.{name}: install "
                "requirements/pipeline.txt (make setup)"
            )
    engine.load_config = lambda: {"lang": "zh", "hub_name": "modelscope", "last_model": "Custom", "path_dict": {}}
    engine.Engine.resume = resume_filled
    top.get_model_info, top.list_checkpoints = get_model_info, list_checkpoints
    interface.run_web_ui()


def main() -> None:
    pages = {"chat": chat, "webui": webui}
    page = pages.get(sys.argv[1] if len(sys.argv) > 1 else "")
    if page is None:
        raise CommandError(f"expected one of {', '.join(pages)}", 2)
    os.environ |= {"GRADIO_SERVER_NAME": "127.0.0.1", "GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_OFFLINE": "1"}
    page(settings(), read_params().decoding)


if __name__ == "__main__":
    run_command(main)
