"""The section `metrics` of params.yaml: the resamples behind the intervals, and the model that scores meaning."""

from typing import Annotated

from pydantic import Field

from xinglin.params import Section, Seed


class Metrics(Section):
    bootstrap: Annotated[int, Field(ge=100, le=100_000)]
    seed: Seed
    embedding_model: str | None
