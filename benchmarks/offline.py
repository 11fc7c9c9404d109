"""vLLM without a server for benchmarks.gpu, an adapter applied: greedy answers, 256 new tokens, the rates as JSON.

Usage: .venv-vllm/bin/python benchmarks/offline.py BASE ADAPTER ASKED OPTIONS
"""

import json
import sys
import time
from pathlib import Path

from xinglin.cli import run_command


def main() -> None:
    from vllm import LLM, SamplingParams
    from vllm.lora.request import LoRARequest

    base, tuned, file, options = sys.argv[1:]
    model = LLM(model=base, enable_lora=True, max_lora_rank=8, **json.loads(options))
    asked = [json.loads(line)["messages"] for line in Path(file).read_text(encoding="utf-8").splitlines()]
    settings, how = (
        SamplingParams(temperature=0, max_tokens=256),
        {"lora_request": LoRARequest("tuned", 1, tuned), "use_tqdm": False},
    )
    model.chat(asked[:64], settings, **how)
    start = time.perf_counter()
    given = model.chat(asked, settings, **how)
    seconds = time.perf_counter() - start
    tokens = sum(len(one.outputs[0].token_ids) for one in given)
    print("RESULT", json.dumps({"answers_per_second": len(given) / seconds, "tokens_per_second": tokens / seconds}))


if __name__ == "__main__":
    run_command(main)
