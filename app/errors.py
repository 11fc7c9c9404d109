"""Errors as OpenAI clients read them: {"error": {"message", "type", "param", "code"}}; messages are for people, in Chinese."""

from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from starlette.exceptions import HTTPException

KINDS = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
}
WORDS = {400: "请求无法解析：应为 UTF-8 编码的 JSON。", 404: "没有这个地址。", 405: "这个地址不支持该方法。"}


class Detail(BaseModel):
    message: str
    type: str
    param: str | None = None
    code: str | None = None


class Problem(BaseModel):
    """What every error looks like."""

    error: Detail


class APIError(Exception):
    """An error to be told to the client: `status`, a sentence, a code, the parameter at fault, seconds to wait."""

    def __init__(
        self, status: int, message: str, code: str | None = None, param: str | None = None, retry_after: int | None = None
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.code, self.param, self.retry_after = status, message, code, param, retry_after

    def problem(self) -> dict[str, Any]:
        return Problem(
            error=Detail(message=self.message, type=KINDS.get(self.status, "server_error"), param=self.param, code=self.code)
        ).model_dump()

    def response(self) -> JSONResponse:
        headers = {} if self.retry_after is None else {"Retry-After": str(self.retry_after)}
        if self.status == 401:
            headers["WWW-Authenticate"] = "Bearer"
        return JSONResponse(self.problem(), self.status, headers)


def responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return what the OpenAPI document says of an endpoint's errors."""
    return {status: {"model": Problem} for status in statuses}


def install(app: FastAPI) -> None:
    """Make every error of `app` one of these; what is unforeseen tells nothing of the inside."""

    @app.exception_handler(APIError)
    async def told(request: Request, error: APIError) -> JSONResponse:
        return error.response()

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        first: Mapping[str, Any] = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"] if part != "body")
        if first["type"] == "json_invalid":
            return APIError(400, WORDS[400], "invalid_json").response()
        return APIError(400, f"参数 {place or '请求体'} 无效：{sentence(first)}", "invalid_value", place or None).response()

    @app.exception_handler(HTTPException)
    async def refused(request: Request, error: HTTPException) -> JSONResponse:
        done = APIError(error.status_code, WORDS.get(error.status_code, "请求被拒绝。")).response()
        done.headers.update(error.headers or {})
        return done

    @app.exception_handler(Exception)
    async def unforeseen(request: Request, error: Exception) -> JSONResponse:
        return APIError(500, "服务内部出错，已记录。", "internal_error").response()


def sentence(found: Mapping[str, Any]) -> str:
    """Return pydantic's reason, and in Chinese those that people meet."""
    words = {
        "missing": "缺少这一项。",
        "extra_forbidden": "不认识或不支持的参数。",
        "string_type": "应为文字。",
        "list_type": "应为列表。",
        "too_short": "不能为空。",
    }
    return words.get(found["type"], f"{found['msg']}。")
