"""What clients put into a request: what is harmless is taken, what cannot be done refused by name, roles put in order."""

from collections.abc import Iterator

import httpx
import openai
import pytest

from app.errors import APIError
from app.requests import GENERATED, ChatRequest, payload
from tests.application import application, model_server
from tests.conftest import params_with
from xinglin.serving.server import free_port

ASKED = [{"role": "user", "content": "咳嗽怎么办"}]
ANSWERED = {"role": "assistant", "content": "多喝水"}
NULLS = dict.fromkeys(("refusal", "audio", "annotations", "function_call", "tool_calls", "reasoning", "name"))
SETTINGS = params_with().app


def sent(messages: list | None = None, **fields: object) -> dict:
    body = {"model": "xinglin", "messages": ASKED if messages is None else messages}
    return payload(ChatRequest.model_validate(body | fields), SETTINGS, "xinglin")


def said(*messages: dict) -> list[tuple[str, str]]:
    """Return what the model gets of these messages."""
    return [(message["role"], message["content"]) for message in sent(list(messages))["messages"]]


HARMLESS = [
    {"logprobs": False},
    {"top_logprobs": 0},
    {"tools": []},
    {"tools": None, "tool_choice": None},
    {"tool_choice": "none", "functions": [], "function_call": "auto"},
    {"response_format": {"type": "text"}},
    {"store": True},
    {"metadata": {"team": "a"}},
    {"parallel_tool_calls": True},
    {"service_tier": "auto"},
    {"reasoning_effort": "low", "verbosity": "low"},
    {"stream_options": None, "stream": None},
    {"stream_options": {"include_usage": False, "include_obfuscation": False}},
    {"n": 1},
    {"user": "x", "safety_identifier": "x", "prompt_cache_key": "x"},
    {"modalities": ["text"], "audio": None, "logit_bias": {}},
    {"guided_json": None, "chat_template_kwargs": {}, "extra_body": {}},
    {"stop": "", "temperature": None, "max_tokens": None},
]


@pytest.mark.parametrize("fields", HARMLESS, ids=lambda fields: "-".join(fields))
def test_a_field_that_changes_nothing_is_taken(fields):
    assert sent(**fields) == sent()


REFUSED = {
    "tools": [{"type": "function", "function": {"name": "f"}}],
    "tool_choice": "required",
    "functions": [{"name": "f"}],
    "n": 3,
    "logprobs": True,
    "top_logprobs": 5,
    "response_format": {"type": "json_object"},
    "modalities": ["text", "audio"],
    "audio": {"voice": "alloy", "format": "wav"},
    "web_search_options": {"search_context_size": "low"},
    "chat_template": "{{ messages }}",
    "guided_regex": "a+",
    "structured_outputs": {"regex": "a+"},
    "extra_body": {"top_k": 3},
    "top_k": 5,
    "logit_bias": {"50256": -100},
    "unheard_of": "x",
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_done_is_refused_by_its_name_in_chinese(name):
    with pytest.raises(APIError) as refused:
        sent(**{name: REFUSED[name]})
    error = refused.value
    assert (error.status, error.code, error.param) == (400, "unsupported_parameter", name)
    assert error.message.startswith(f"{name}：") and any("\u4e00" <= character <= "\u9fff" for character in error.message)


IN_MESSAGES = {
    "messages.0.content.0": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:"}}]}],
    "messages.0.content.1": [{"role": "user", "content": [{"type": "text", "text": "看"}, {"type": "input_audio"}]}],
    "messages.1.tool_calls": [*ASKED, {"role": "assistant", "content": None, "tool_calls": [{"id": "1"}]}, *ASKED],
    "messages.1.prefix": [*ASKED, ANSWERED | {"prefix": True}, *ASKED],
}


@pytest.mark.parametrize("place", IN_MESSAGES)
def test_what_a_message_may_not_hold_is_refused_by_its_place(place):
    with pytest.raises(APIError) as refused:
        sent(IN_MESSAGES[place])
    assert (refused.value.code, refused.value.param) == ("unsupported_parameter", place)


def test_roles_become_what_the_model_was_trained_on():
    asked, again = ("user", "咳嗽怎么办"), ("user", "还咳")
    developer, greeting = {"role": "developer", "content": "简短"}, {"role": "assistant", "content": "您好，请讲。"}
    system, more = {"role": "system", "content": "你是护士"}, {"role": "user", "content": "还咳"}
    assert said(developer, *ASKED) == [("system", "简短"), asked]
    assert said(system, developer, *ASKED) == [("system", "你是护士\n\n简短"), asked]
    assert said(system, greeting, *ASKED, ANSWERED, more) == [("system", "你是护士"), asked, ("assistant", "多喝水"), again]
    assert said(greeting, greeting, *ASKED) == [asked]
    assert said(*ASKED, more) == [("user", "咳嗽怎么办\n还咳")]
    assert said(*ASKED, ANSWERED, ANSWERED, more)[1] == ("assistant", "多喝水\n多喝水")
    assert said({"role": "system", "content": ""}, *ASKED) == [asked]


@pytest.mark.parametrize("content", [None, "", " ", []])
def test_a_stopped_answer_without_a_word_is_left_out(content):
    empty = {"role": "assistant", "content": content} | NULLS
    assert said(*ASKED, empty, {"role": "user", "content": "还咳"}) == [("user", "咳嗽怎么办\n还咳")]
    assert said(*ASKED, empty) == [("user", "咳嗽怎么办")]


def test_an_answer_comes_back_as_it_was_given_without_its_mark_and_broken_characters():
    long = {"role": "assistant", "content": "好" * 5000 + f"\ufffd\n\n{GENERATED}"}
    assert said(*ASKED, long, *ASKED)[1] == ("assistant", "好" * 5000)


@pytest.mark.parametrize(
    ("messages", "reason"),
    [
        ([*ASKED, ANSWERED], "最后一条消息必须是 user"),
        ([ANSWERED], "最后一条消息必须是 user"),
        ([{"role": "developer", "content": "x"}], "最后一条消息必须是 user"),
        ([*ASKED, {"role": "system", "content": "x"}, *ASKED], "只能在对话的最前面"),
        ([{"role": "user", "content": None}], "第 1 条消息是空的"),
    ],
)
def test_an_order_that_makes_no_sense_is_refused_with_the_reason(messages, reason):
    with pytest.raises(APIError, match=reason):
        sent(messages)


# over HTTP


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("app")
    changes = {"app.mark_generated": True, "app.cors_origins": ["https://clinic.example"]}
    with model_server(folder, free_port()) as model, application(folder, model, changes) as url:
        yield url


@pytest.fixture
def client(app: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{app}/v1", api_key="none", max_retries=0) as client:
        yield client


def test_the_answer_goes_back_as_the_tutorials_do_it(client):
    messages: list = [{"role": "developer", "content": "简短"}, *ASKED]
    for _ in range(2):
        done = client.chat.completions.create(model="xinglin", messages=messages, store=True, logprobs=False)
        messages.append(done.choices[0].message)
        messages.append({"role": "user", "content": "还咳", "name": "li"})
    assert "第3轮" in done.choices[0].message.content and "还咳" in done.choices[0].message.content


def test_a_wrong_role_or_value_is_told_in_chinese(client):
    with pytest.raises(openai.BadRequestError, match=r"messages\.1\.role 无效：应为 system、developer、user、assistant。"):
        client.chat.completions.create(model="xinglin", messages=[*ASKED, {"role": "tool", "content": "x"}])
    with pytest.raises(openai.BadRequestError, match="temperature 无效：不能大于 2"):
        client.chat.completions.create(model="xinglin", messages=ASKED, temperature=9)


@pytest.mark.parametrize("question", ["咳嗽怎么办", "胸口压榨样疼，出冷汗"])
def test_an_answer_ends_with_the_mark_of_ai_once_streamed_or_not(client, question):
    asked = {"model": "xinglin", "messages": [{"role": "user", "content": question}]}
    whole = client.chat.completions.create(**asked).choices[0].message.content
    with client.chat.completions.stream(**asked) as stream:
        events = list(stream)
    done = stream.get_final_completion().choices[0]
    assert whole == done.message.content and whole.endswith(f"\n\n{GENERATED}") and whole.count(GENERATED) == 1
    assert done.message.role == "assistant" and done.finish_reason == "stop"
    assert len({event.chunk.id for event in events if event.type == "chunk"}) == 1


def test_other_endpoints_say_which_to_use(client, app):
    for call in (
        lambda: client.completions.create(model="xinglin", prompt="x"),
        lambda: client.embeddings.create(model="xinglin", input="x"),
        lambda: client.responses.create(model="xinglin", input="x"),
    ):
        with pytest.raises(openai.NotFoundError, match="/v1/chat/completions"):
            call()
    assert "/v1 结尾" in httpx.get(f"{app}/models").json()["error"]["message"]


def test_a_models_card_and_what_is_no_model(client):
    assert client.models.retrieve("xinglin").id == "xinglin" and not hasattr(client.models.retrieve("xinglin"), "max_model_len")
    with pytest.raises(openai.NotFoundError, match="没有模型 gpt-4"):
        client.models.retrieve("gpt-4")


@pytest.mark.parametrize("path", ["/v1/models", "/v1/models/xinglin", "/healthz", "/metrics", "/openapi.json", "/favicon.ico"])
def test_head_is_answered_as_get_without_a_body(app, path):
    head, got = httpx.head(app + path), httpx.get(app + path)
    assert (head.status_code, head.content) == (200, b"") and head.headers["content-type"] == got.headers["content-type"]


CLINIC = {"Origin": "https://clinic.example"}
PREFLIGHT = CLINIC | {
    "Access-Control-Request-Method": "POST",
    "Access-Control-Request-Headers": "authorization,content-type",
}


def test_a_page_of_an_allowed_origin_may_call_the_api_and_nothing_else(app):
    asked = httpx.options(f"{app}/v1/chat/completions", headers=PREFLIGHT)
    assert asked.status_code == 200 and asked.headers["access-control-allow-origin"] == CLINIC["Origin"]
    assert {"authorization", "content-type"} <= set(asked.headers["access-control-allow-headers"].lower().split(", "))
    for body in ({"model": "xinglin", "messages": ASKED}, {"model": "gpt-4", "messages": ASKED}):
        reply = httpx.post(f"{app}/v1/chat/completions", headers=CLINIC, json=body)
        assert reply.headers["access-control-allow-origin"] == CLINIC["Origin"]
        assert "X-Request-ID" in reply.headers["access-control-expose-headers"]
        assert "access-control-allow-credentials" not in reply.headers
    other = {"Origin": "https://other.example"}
    assert httpx.options(f"{app}/v1/chat/completions", headers=PREFLIGHT | other).status_code == 400
    assert "access-control-allow-origin" not in httpx.get(f"{app}/v1/models", headers=other).headers
    assert "access-control-allow-origin" not in httpx.get(f"{app}/healthz", headers=CLINIC).headers


@pytest.mark.parametrize("origin", ["clinic.example", "https://clinic.example/page", "https://", "*"])
def test_an_origin_that_no_browser_sends_is_refused_when_it_starts(origin):
    with pytest.raises(ValueError, match="cors_origins"):
        params_with({"app.cors_origins": [origin]})
