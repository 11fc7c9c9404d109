"""The sections `raw` and `base` of params.yaml: where dialogues and base come from; and what is read of a base."""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from xinglin.bases.folder import LOADED
from xinglin.params import Count, Section, Seed

READ: dict[str, Any] = {
    "allow_patterns": [f"*{ending}" for ending in LOADED],
    "ignore_patterns": ["*/*", "consolidated*"],  # folders such as original/, Mistral's second copy: the same weights once more
}


# A file or folder, or a list of them.
Paths = Annotated[list[str], BeforeValidator(lambda value: [value] if isinstance(value, str) else value), Field(min_length=1)]
Place = Literal["sample", "path", "huggingface", "modelscope"]


class Source(Section):
    """One of several sources; what is not given has no say."""

    name: Annotated[str, Field(pattern=r"^\w[\w.-]*$")]  # files of data/raw are called by it
    source: Place
    path: Paths | None = None
    dataset: str | None = None
    file: str | None = None
    revision: str | None = None
    licence: str | None = None
    limit: Count | None = None
    share: Annotated[float, Field(gt=0, le=1)] = 1.0
    part: Literal["train", "val", "test"] | None = None

    @model_validator(mode="after")
    def place_is_named(self) -> "Source":
        given = {key for key in ("path", "dataset", "file", "revision") if getattr(self, key)}
        needed: set[str] = {"sample": set[str](), "path": {"path"}}.get(self.source, {"dataset", "file"})
        if lacking := sorted(needed - given):
            raise ValueError(f"source '{self.name}' is of '{self.source}', so it must name its {' and '.join(lacking)}")
        if idle := sorted(given - needed - ({"revision"} if "dataset" in needed else set())):
            raise ValueError(
                f"source '{self.name}' is of '{self.source}', which reads no {' and no '.join(idle)}: leave it out"
            )
        return self


class Raw(Section):
    source: Place
    path: Paths | None
    dataset: str
    file: str
    revision: str | None
    licence: str | None
    sources: list[Source]
    seed: Seed

    @model_validator(mode="after")
    def path_is_named(self) -> "Raw":
        if self.source == "path" and not self.path:
            raise ValueError("source is 'path', so raw.path must name a file")
        return self

    @model_validator(mode="after")
    def names_differ(self) -> "Raw":
        names = [source.name for source in self.sources]
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise ValueError(f"sources: two are named '{twice}': give each a name of its own")
        if "sources" in names:
            raise ValueError("sources: none may be named 'sources', which is the file that tells of them: give it another name")
        return self

    @property
    def all_sources(self) -> dict[str, Source]:
        """The sources by the place where params.yaml names them: those of `sources`, or the one beside it."""
        if self.sources:
            return {f"raw.sources.{source.name}": source for source in self.sources}
        reads = {"sample": (), "path": ("path",)}.get(self.source, ("dataset", "file", "revision"))
        given = {key: getattr(self, key) for key in (*reads, "licence")}
        return {"raw": Source(name="dialogues", source=self.source, **given)}


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
