"""The sections `app` and `serve` of params.yaml: how the model is served, and what stands in front of it."""

from typing import Annotated

from pydantic import Field

from xinglin.params import Count, ParamsFile, Port, Section
from xinglin.serving.decoding import Decoding
from xinglin.serving.settings import Engine

Origin = Annotated[str, Field(pattern=r"^https?://[^/\s]+$")]  # as a browser sends it, without a path


class Serve(Engine):
    host: str
    port: Port
    model_name: str


class App(Section):
    host: str
    port: Port
    upstream: str | None
    compared: dict[str, str]
    provider: str
    database: str
    retention_days: Count
    session_days: Count
    red_flags_threshold: Annotated[float, Field(gt=0, le=1)]
    red_flags_in_answers: bool
    red_flags_in_prompt: bool
    mark_generated: bool
    cors_origins: list[Origin]
    requests_per_minute: Count
    concurrent_requests: Count
    max_body_bytes: Annotated[int, Field(ge=1024)]
    max_turns: Count
    max_message_characters: Count
    max_tokens: Count
    timeout_seconds: Annotated[float, Field(gt=0)]
    silence_seconds: Annotated[float, Field(gt=0)]


class Params(ParamsFile):
    """What the application reads of params.yaml."""

    app: App
    serve: Serve
    decoding: Decoding
