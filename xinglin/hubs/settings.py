"""The sections `raw` and `base` of params.yaml: where dialogues and base come from; and what is read of a base."""

from typing import Any, Literal

from pydantic import model_validator

from xinglin.bases.folder import LOADED
from xinglin.params import Section

READ: dict[str, Any] = {
    "allow_patterns": [f"*{ending}" for ending in LOADED],
    "ignore_patterns": ["*/*", "consolidated*"],  # folders such as original/, Mistral's second copy: the same weights once more
}


class Raw(Section):
    source: Literal["sample", "path", "huggingface", "modelscope"]
    path: str | None
    dataset: str
    file: str
    revision: str | None

    @model_validator(mode="after")
    def path_is_named(self) -> "Raw":
        if self.source == "path" and not self.path:
            raise ValueError("source is 'path', so raw.path must name a file")
        return self


class Base(Section):
    source: Literal["tiny", "path", "huggingface", "modelscope"]
    path: str | None
    model: str | None
    revision: str | None

    @model_validator(mode="after")
    def model_is_named(self) -> "Base":
        if self.source == "path" and not self.path:
            raise ValueError("source is 'path', so base.path must name a folder")
        if self.on_a_hub and not self.model:
            raise ValueError(f"source is '{self.source}', so base.model must name a model")
        return self

    @property
    def on_a_hub(self) -> bool:
        return self.source in ("huggingface", "modelscope")
