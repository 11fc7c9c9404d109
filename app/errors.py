"""Errors as OpenAI clients read them: {"error": {"message", "type", "param", "code"}}; messages are for people, in Chinese."""

import logging
import sqlite3
from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from starlette.exceptions import HTTPException

from app.store import Missing

KINDS = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
}
WORDS = {400: "请求无法解析：应为 UTF-8 编码的 JSON。", 405: "这个地址不支持该方法。"}


log = logging.getLogger("xinglin")


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
        done = APIError(error.status_code, reason(error.status_code, request.url.path)).response()
        done.headers.update(error.headers or {})
        return done

    @app.exception_handler(Missing)
    async def missing(request: Request, error: Missing) -> JSONResponse:
        return APIError(404, "没有找到，可能已经删除。", "not_found").response()

    @app.exception_handler(sa.exc.SQLAlchemyError)
    async def unkept(request: Request, error: sa.exc.SQLAlchemyError) -> JSONResponse:
        log.error("database failed", extra={"fields": {"request_id": request.state.id, "reason": fault(error)}})
        return APIError(503, "数据库暂时不可用，请稍后再试。", "database_unavailable", retry_after=5).response()


def fault(error: sa.exc.SQLAlchemyError) -> str:
    """Return what is wrong with the database, without anything that was to be kept (PostgreSQL's messages may quote it)."""
    cause = getattr(error, "orig", None) or error
    return str(cause) if isinstance(cause, sqlite3.Error) else type(cause).__name__


def reason(status: int, path: str) -> str:
    """Return why a request is refused; an endpoint that is not here names those that are."""
    if status != 404:
        return WORDS.get(status, "请求被拒绝。")
    if path.startswith("/v1/"):
        return f"网关没有 {path[:80]}，问答请用 POST /v1/chat/completions，模型列表是 GET /v1/models。"
    return "没有这个地址。API 的地址（base_url）以 /v1 结尾。"


def sentence(found: Mapping[str, Any]) -> str:
    """Return pydantic's reason, and in Chinese those that people meet."""
    words = {
        "missing": "缺少这一项。",
        "extra_forbidden": "不认识或不支持的参数。",
        "string_type": "应为文字。",
        "list_type": "应为列表。",
        "too_short": "不能为空。",
        "greater_than": "应大于 {gt}。",
        "greater_than_equal": "不能小于 {ge}。",
        "less_than_equal": "不能大于 {le}。",
    }
    if found["type"] == "literal_error":
        return f"应为 {found['ctx']['expected'].replace(' or ', '、').replace(', ', '、').replace(chr(39), '')}。"
    known = words.get(found["type"])
    return known.format_map(found.get("ctx", {})) if known else f"{found['msg']}。"
