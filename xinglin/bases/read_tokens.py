"""What transformers reads of a tokenizer, printed as JSON; run by the Python of any environment.

Usage: PYTHON -m xinglin.bases.read_tokens FOLDER < {"texts": [...], "dialogues": [...]}
"""

import json
import sys

from xinglin.cli import run_command


def main() -> None:
    from transformers import AutoTokenizer, __version__

    asked = json.load(sys.stdin)
    tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
    ids = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in asked["texts"]]
    prompts = [tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True) for turns in asked["dialogues"]]
    print(
        json.dumps(
            {
                "ids": ids,
                "texts": [tokenizer.decode(one, clean_up_tokenization_spaces=False) for one in ids],
                "prompts": prompts,
                "prompt_ids": [tokenizer(prompt, add_special_tokens=False)["input_ids"] for prompt in prompts],
                "version": __version__,
            }
        )
    )


if __name__ == "__main__":
    run_command(main)
