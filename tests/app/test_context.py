"""Conversations longer than the model reads: which turns are left out, what is asked of the tokenizer, what a client learns."""

import asyncio
import json
import lzma
from collections.abc import Iterator

import httpx
import openai
import pytest
from tokenizers import Tokenizer

from app.context import estimate, fit
from app.errors import APIError
from app.upstream import Size, Upstream
from benchmarks.bases import VOCABULARIES
from tests.application import application, model_server
from tests.conftest import ROOT, TOYHOM, params_with
from tests.model_server import count
from xinglin.serving.server import free_port

SYSTEM = {"role": "system", "content": "简短"}


class Counting:
    """An upstream whose tokens are characters; `limit` None: it says nothing of itself."""

    def __init__(self, limit: int | None, tokenizes: bool = True) -> None:
        self.limit, self.tokenizes, self.calls = limit, tokenizes, 0

    async def tokenized(self, messages: list[dict]) -> Size | None:
        self.calls += 1
        return Size(sum(len(message["content"]) for message in messages), self.limit) if self.tokenizes else None

    async def max_model_len(self) -> int | None:
        return self.limit


def turns(count: int, size: int = 50) -> list[dict]:
    """Return a conversation of `count` questions, each of `size` characters, and as long answers between them."""
    roles = [("user", "assistant")[number % 2] for number in range(2 * count - 1)]
    return [{"role": role, "content": f"{number:04d}" + "话" * (size - 4)} for number, role in enumerate(roles)]


def fitted(upstream, messages, wanted):
    return asyncio.run(fit(upstream, messages, wanted))


def test_a_conversation_that_fits_is_asked_of_once_and_goes_as_it_is():
    upstream = Counting(1000)
    assert fitted(upstream, [SYSTEM, *turns(3)], 300) == ([SYSTEM, *turns(3)], 0, 300) and upstream.calls == 1


def test_an_answer_has_what_is_left_and_a_quarter_at_the_least():
    assert fitted(Counting(1000), turns(8), 900) == (turns(8), 0, 250)
    assert fitted(Counting(1000), turns(9), 900) == (turns(9)[2:], 2, 250)
    assert fitted(Counting(1000), turns(9), 100) == (turns(9), 0, 100)


def test_the_oldest_turns_go_and_system_text_and_question_stay_by_few_calls():
    upstream = Counting(1002)
    found = fitted(upstream, [SYSTEM, *turns(500)], 250)
    assert found.messages == [SYSTEM, *turns(500)[-15:]] and found.dropped == 999 - 15 and found.max_tokens == 250
    assert upstream.calls <= 12


def test_a_question_too_long_by_itself_is_refused_with_what_to_do():
    for messages in ([SYSTEM, *turns(1, 800)], [SYSTEM, *turns(3, 800)]):
        with pytest.raises(APIError, match="请缩短问题") as refused:
            fitted(Counting(1000), messages, 250)
        assert (refused.value.status, refused.value.code) == (400, "context_length_exceeded")


def test_without_a_tokenizer_it_is_estimated_and_without_a_limit_left_alone():
    rough = fitted(Counting(1000, tokenizes=False), turns(9), 250)
    assert 0 < rough.dropped < 16 and rough.messages == turns(9)[rough.dropped :]
    assert fitted(Counting(None, tokenizes=False), turns(99), 250) == (turns(99), 0, 250)


@pytest.mark.parametrize("name", ["qwen3", "llama3_1", "tiny"])
def test_the_estimate_is_never_less_than_a_real_vocabulary_needs(name):
    """Of every text as a message by itself, whose frame the estimate counts too."""
    if name == "tiny":
        tokenizer = Tokenizer.from_file(str(ROOT / "models" / "tiny" / "tokenizer.json"))
    elif (packed := VOCABULARIES / f"{name}.tokenizer.json.xz").exists():
        tokenizer = Tokenizer.from_str(lzma.decompress(packed.read_bytes()).decode())
    else:
        pytest.skip(f"{packed} is not here")
    source = TOYHOM if TOYHOM.exists() else ROOT / "data" / "sample" / "dialogues.jsonl"
    texts = [text for line in source.read_text(encoding="utf-8").splitlines() for text in json.loads(line)["data"]]
    assert len(texts) > 100
    for text, encoding in zip(texts, tokenizer.encode_batch(texts, add_special_tokens=False), strict=True):
        assert len(encoding.ids) + 10 <= estimate([{"role": "user", "content": text}]), text


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with model_server(tmp_path_factory.mktemp("model"), free_port(), context=2048) as url:
        yield url


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory, model: str) -> Iterator[str]:
    with application(tmp_path_factory.mktemp("app"), model) as url:
        yield url


@pytest.fixture
def client(app: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{app}/v1", api_key="none", max_retries=0) as client:
        yield client


def test_the_fourth_and_the_fortieth_turn_simply_work(client, model):
    messages: list = []
    for turn in range(40):
        messages.append({"role": "user", "content": f"第{turn}问：" + "咳嗽三天了，" * 40})
        done = client.chat.completions.create(model="xinglin", messages=messages, max_tokens=1024)
        messages.append({"role": "assistant", "content": done.choices[0].message.content})
    seen = httpx.get(f"{model}/state").json()["seen"][-1]
    assert seen["messages"][-1] == messages[-2] and 1 < len(seen["messages"]) < 40 and seen["max_tokens"] >= 512
    assert done.xinglin["dropped_messages"] == 79 - len(seen["messages"])


def test_a_client_learns_how_many_messages_were_left_out_and_only_then(app, client):
    long = turns(9, 200)
    plain = client.chat.completions.with_raw_response.create(model="xinglin", messages=long)
    dropped = plain.parse().xinglin["dropped_messages"]
    assert dropped % 2 == 0 and 0 < dropped < 17 and plain.headers["x-xinglin-dropped-messages"] == str(dropped)
    stream = client.chat.completions.with_raw_response.create(model="xinglin", messages=long, stream=True)
    *before, last = list(stream.parse())
    assert stream.headers["x-xinglin-dropped-messages"] == str(dropped) and last.xinglin == {"dropped_messages": dropped}
    assert not [event for event in before if hasattr(event, "xinglin")]
    short = client.chat.completions.with_raw_response.create(model="xinglin", messages=long[:1])
    assert "x-xinglin-dropped-messages" not in short.headers and not hasattr(short.parse(), "xinglin")


def test_more_tokens_than_there_are_is_what_fits(client, model):
    for tokens in ({"max_tokens": 4096}, {"max_tokens": 10, "max_completion_tokens": 4096}):
        client.chat.completions.create(model="xinglin", messages=turns(1), **tokens)
        assert httpx.get(f"{model}/state").json()["seen"][-1]["max_tokens"] == 1024
    client.chat.completions.create(model="xinglin", messages=turns(1, 1300), max_tokens=4096)
    seen = httpx.get(f"{model}/state").json()["seen"][-1]
    assert seen["max_tokens"] == 2048 - count(seen["messages"]) < 1024


def test_too_long_a_question_is_told_and_the_same_conversation_is_counted_once(client, model):
    with pytest.raises(openai.BadRequestError, match="请缩短问题") as refused:
        client.chat.completions.create(model="xinglin", messages=turns(2, 1800))
    assert refused.value.code == "context_length_exceeded"
    before = httpx.get(f"{model}/state").json()["tokenized"]
    for _ in range(3):
        client.chat.completions.create(model="xinglin", messages=turns(2, 77))
    assert httpx.get(f"{model}/state").json()["tokenized"] == before + 1


def test_the_models_card_says_how_much_it_reads(client):
    assert client.models.list().data[0].max_model_len == client.models.retrieve("xinglin").max_model_len == 2048


def test_only_so_many_conversations_are_remembered(model, monkeypatch):
    monkeypatch.setattr("app.upstream.COUNTS", 2)

    async def counted() -> int:
        async with Upstream(model, "xinglin", 5, params_with().decoding, 5) as upstream:
            for size in (10, 20, 30, 40):
                await upstream.tokenized(turns(1, size))
            return len(upstream.sizes)

    assert asyncio.run(counted()) == 2
