"""A streamed chat of two turns, the second an emergency, by the clients that people use, each in its own words."""

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import openai
import pytest

from tests.application import application, model_server
from tests.conftest import ROOT
from xinglin.serving.server import free_port

CLIENTS = Path(__file__).parent / "clients"
PYTHON = ROOT / ".venv-clients" / "bin" / "python"
QUESTIONS = ("咳嗽怎么办", "胸口压榨样疼，出冷汗")


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("app")
    with model_server(folder, free_port()) as model, application(folder, model) as url:
        yield url


def openai_python(url: str) -> list[dict]:
    answers, messages = [], [{"role": "developer", "content": "简短"}]
    with openai.OpenAI(base_url=url, api_key="none", max_retries=0) as client:
        for question in QUESTIONS:
            messages.append({"role": "user", "content": question})
            options = {"stream_options": {"include_usage": True}}
            with client.chat.completions.stream(model="xinglin", messages=messages, **options) as stream:
                ids = sorted({event.chunk.id for event in stream if event.type == "chunk"})
            done = stream.get_final_completion()
            message, finish = done.choices[0].message, done.choices[0].finish_reason
            messages.append(message)
            spoken = {"text": message.content, "role": message.role, "finish": finish}
            answers.append(spoken | {"ids": ids, "tokens": done.usage.total_tokens})
    return answers


def command(name: str) -> list[str | Path]:
    """Return the command line of a client; skips where what it needs is not installed."""
    if name.endswith(".py"):
        if not PYTHON.exists():
            pytest.skip("no .venv-clients: run 'make .venv-clients/ready'")
        return [PYTHON, CLIENTS / name]
    node = shutil.which("node")
    if not node or not (CLIENTS / "node_modules" / "ready").exists():
        pytest.skip("no node or no tests/app/clients/node_modules: run 'sh tests/install.sh'")
    return [node, CLIENTS / name]


def told(name: str, url: str) -> list[dict]:
    if name == "openai":
        return openai_python(url)
    done = subprocess.run([*command(name), url, *QUESTIONS], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(done.stdout.splitlines()[-1])


NAMES = ["openai", *sorted(path.name for path in CLIENTS.glob("*_client.*"))]


@pytest.mark.parametrize("name", NAMES)
def test_a_client_streams_two_turns_and_an_emergency(app, name):
    calm, urgent = told(name, f"{app}/v1")
    assert calm["text"] == "**第2轮**：您问的是“咳嗽怎么办”。\n\n1. 多休息\n2. 多喝水"
    notice, answer = urgent["text"].split("\n\n", 1)
    assert notice.startswith("【胸痛、心梗征象】") and "120" in notice
    assert answer.startswith(f"**第3轮**：您问的是“{QUESTIONS[1]}”。") and answer.count("第3轮") == 1
    for turn in (calm, urgent):
        assert (turn["role"], turn["finish"], len(turn["ids"])) == ("assistant", "stop", 1)
        assert turn.get("tokens", 14) == 14


def test_each_of_the_clients_is_here():
    expected = {"openai", "langchain_client.py", "llama_index_client.py", "openai_client.js", "ai_sdk_client.js"}
    assert set(NAMES) == expected
