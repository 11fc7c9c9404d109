"""What goes wrong on the way to the model's server, as errors that a client can act on; nothing of its inside."""

import json

import aiohttp

from app.errors import APIError

RETRY_SECONDS = 5  # what a client is told to wait while the server restarts


def unavailable() -> APIError:
    return APIError(503, "模型暂时不可用，可能正在加载或重启，请稍后再试。", "model_unavailable", retry_after=RETRY_SECONDS)


def unreadable() -> APIError:
    return APIError(502, "模型服务的回复不是 OpenAI API 的格式，无法读取。", "unreadable_answer")


def broken_off() -> APIError:
    return APIError(502, "模型在回答中途出错，回答不完整，请重试。", "answer_broken_off")


class faults:
    """Turn what goes wrong on the way to the server into an APIError."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if isinstance(error, TimeoutError) and not isinstance(error, aiohttp.ConnectionTimeoutError):
            raise APIError(504, "模型没有在限定时间内答完，请缩短问题或稍后再试。", "timeout") from error
        if isinstance(error, aiohttp.ClientError | TimeoutError | OSError):
            raise unavailable() from error


def refusal(status: int, body: bytes) -> APIError:
    """Return the error for a reply that is none; what the server says of its inside stays here."""
    try:
        said = json.loads(body)
        text = str(said.get("error", said).get("message", "")) if isinstance(said, dict) else ""
    except (ValueError, AttributeError):
        text = ""
    if status in (400, 422) and "context length" in text:
        return APIError(400, "对话太长，超过了模型能读的长度，请新建对话或缩短内容。", "context_length_exceeded", "messages")
    if status == 404 or (status in (400, 422) and "model" in text and "exist" in text):
        return unavailable()  # another model is being served
    if status in (400, 422):
        return APIError(400, "模型服务不接受这个请求。", "invalid_request")
    if status in (401, 403):
        return APIError(502, "网关没有模型服务的权限。", "upstream_refused")
    return unavailable()
