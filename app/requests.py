"""A chat request as OpenAI's clients send it: what is passed on, what is ignored, and what is refused by name."""

from collections import Counter
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from app.errors import APIError
from app.settings import App
from xinglin.dialogues.cleaning import tidy
from xinglin.dialogues.dialogue import Unusable

GENERATED = "（本回答由人工智能生成，仅供参考，不能代替就诊。）"
# What changes nothing here, whatever its value
IGNORED = {
    "annotations",
    "cache_control",
    "metadata",
    "name",
    "parallel_tool_calls",
    "prediction",
    "prompt_cache_key",
    "prompt_cache_retention",
    "reasoning",
    "reasoning_content",
    "reasoning_effort",
    "refusal",
    "safety_identifier",
    "service_tier",
    "store",
    "user",
    "verbosity",
}
# What asks for nothing but what is done anyway
HARMLESS: dict[str, tuple[Any, ...]] = {
    "function_call": ("none", "auto"),
    "modalities": (["text"],),
    "n": (1,),
    "response_format": ({"type": "text"},),
    "tool_choice": ("none", "auto"),
    "top_logprobs": (0,),
}
REASONS = {
    "audio": "不支持语音，只回答文字。",
    "file": "不支持文件，只能读文字。",
    "function_call": "不支持函数调用。",
    "functions": "不支持函数调用。",
    "image_url": "不支持图片，只能读文字。",
    "input_audio": "不支持语音，只能读文字。",
    "logprobs": "不提供 token 的概率。",
    "modalities": "只回答文字，modalities 只能是 [\"text\"]。",
    "n": "每次只给一个回答，n 只能是 1。",
    "response_format": "只回答普通文字，不支持 JSON 等格式，response_format 只能是 {\"type\": \"text\"}。",
    "tool_calls": "不支持工具调用。",
    "tool_choice": "不支持工具调用。",
    "tools": "不支持工具调用。",
    "top_logprobs": "不提供 token 的概率。",
    "web_search_options": "不能联网搜索。",
}  # fmt: skip


class Lenient(BaseModel):
    """What a client sends; fields that are not named here are looked at by `check_unknown`."""

    model_config = ConfigDict(extra="allow")


class ContentPart(Lenient):
    type: str
    text: str | None = None
    refusal: str | None = None


class Message(Lenient):
    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[ContentPart] | None = None


class StreamOptions(Lenient):
    include_usage: bool | None = None


class ChatRequest(Lenient):
    """A chat completion request. Fields that change nothing are ignored; tools, images, several choices, JSON as the
    answer's format and the model server's own switches are refused by name."""

    model: str
    messages: Annotated[list[Message], Field(min_length=1)]
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    stop: str | Annotated[list[str], Field(max_length=4)] | None = None

    @property
    def usage_wanted(self) -> bool:
        return bool(self.stream and self.stream_options and self.stream_options.include_usage)


PASSED_ON = ("temperature", "top_p", "presence_penalty", "frequency_penalty", "seed", "stop")


def payload(body: ChatRequest, settings: App, model: str) -> dict[str, Any]:
    """Return what is sent to the model's server; raises APIError for what a request may not be."""
    if body.model != model:
        raise no_model(body.model, model)
    check_unknown(body.model_extra)
    wanted = body.max_completion_tokens or body.max_tokens or settings.max_tokens
    return {
        "model": model,
        "messages": conversation(body.messages, settings),
        "stream": bool(body.stream),
        "max_tokens": min(wanted, settings.max_tokens),
        **({"stream_options": {"include_usage": True}} if body.usage_wanted else {}),
        **{name: value for name in PASSED_ON if (value := getattr(body, name)) not in (None, "", [])},
    }


def no_model(name: str, model: str) -> APIError:
    return APIError(404, f"没有模型 {name[:80]}，可用的是 {model}。", "model_not_found", "model")


def check_unknown(fields: dict[str, Any] | None, place: str = "") -> None:
    """Raise APIError for the first field that asks for what cannot be done; what is null, false or empty asks for nothing."""
    for name, value in (fields or {}).items():
        empty = value is None or value is False or value in ("", [], {})
        if not (empty or name in IGNORED or value in HARMLESS.get(name, ())):
            raise unsupported(name, place + name)


def unsupported(name: str, place: str) -> APIError:
    reason = REASONS.get(name, "网关不支持这个参数，请去掉它。")
    return APIError(400, f"{place[:80]}：{reason}", "unsupported_parameter", place[:80])


def conversation(messages: list[Message], settings: App) -> list[dict[str, str]]:
    """Return what the model gets: a system text or none, then user and assistant in turn, as it was trained.

    System texts at the beginning are joined, and so are neighbours of one role. Answers without a word and a greeting before
    the first question are left out.
    """
    if len(messages) > settings.max_turns:
        raise APIError(
            400, f"对话有 {len(messages)} 条消息，最多 {settings.max_turns} 条，请新建对话。", "too_many_messages", "messages"
        )
    said: list[tuple[str, str]] = [
        (message.role, text_of(message, number, settings)) for number, message in enumerate(messages)
    ]
    said = [("system" if role == "developer" else role, text) for role, text in said if text]
    begin = next((place for place, (role, _) in enumerate(said) if role != "system"), len(said))
    turns = said[begin:]
    first = next((place for place, (role, _) in enumerate(turns) if role == "user"), len(turns))
    if any(role == "system" for role, _ in turns):
        raise wrong_order("system（或 developer）消息只能在对话的最前面。")
    if not turns or turns[-1][0] != "user":
        raise wrong_order("最后一条消息必须是 user 的问题。")
    system = [{"role": "system", "content": "\n\n".join(text for _, text in said[:begin])}] if begin else []
    return system + joined(turns[first:])


def wrong_order(reason: str) -> APIError:
    return APIError(400, f"消息的顺序不对：{reason}", "invalid_role_order", "messages")


def joined(turns: list[tuple[str, str]]) -> list[dict[str, str]]:
    """Return the turns with neighbours of one role as one message."""
    found: list[dict[str, str]] = []
    for role, text in turns:
        if found and found[-1]["role"] == role:
            found[-1]["content"] += f"\n{text}"
        else:
            found.append({"role": role, "content": text})
    return found


def text_of(message: Message, number: int, settings: App) -> str:
    """Return a message's tidy text without special tokens; "" only where it may be without a word.

    An answer that the model gave comes back as it may be: of any length, and without the characters that it broke.
    """
    place = f"messages.{number}"
    check_unknown(message.model_extra, f"{place}.")
    text, answer = written(message.content, place), message.role == "assistant"
    if answer:
        text = text.replace("\ufffd", "").removesuffix(GENERATED)
    elif len(text) > settings.max_message_characters:
        raise wrong_text(f"超过 {settings.max_message_characters} 个字。", "message_too_long", number)
    try:
        text = tidy(text, Counter())
    except Unusable:
        raise wrong_text("含有损坏的字符。", "invalid_text", number)
    if not text and message.role == "user":
        raise wrong_text("是空的。", "empty_message", number)
    return text


def wrong_text(reason: str, code: str, number: int) -> APIError:
    return APIError(400, f"第 {number + 1} 条消息{reason}", code, f"messages.{number}.content")


def written(content: str | list[ContentPart] | None, place: str) -> str:
    """Return the text of a message's content; raises APIError for an image and the like."""
    if not isinstance(content, list):
        return content or ""
    for number, part in enumerate(content):
        if part.type not in ("text", "refusal"):
            raise unsupported(part.type, f"{place}.content.{number}")
        check_unknown(part.model_extra, f"{place}.content.{number}.")
    return "\n".join(part.text or part.refusal or "" for part in content)
