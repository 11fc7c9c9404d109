"""All of params.yaml, every section checked: what a tool reads, and what is checked before a stage starts."""

from pathlib import Path
from typing import Annotated

from pydantic import ConfigDict, Field

from app.settings import App, Serve
from evaluations.exam import Exam
from evaluations.judgements import Judgements
from stages.merged import Merged
from stages.split import Split
from xinglin.dialogues.conversion import Converted
from xinglin.hubs.settings import Base, Raw
from xinglin.params import ParamsFile
from xinglin.scoring.settings import Metrics
from xinglin.serving.decoding import Decoding
from xinglin.serving.settings import Predictions
from xinglin.training.settings import Adapter


class Params(ParamsFile):
    """The whole of params.yaml."""

    model_config = ConfigDict(extra="forbid")
    raw: Raw
    base: Base
    converted: Converted
    split: Split
    adapter: Adapter
    decoding: Decoding
    predictions: Predictions
    metrics: Metrics
    judgements: Judgements
    exam: Exam
    merged: Merged
    serve: Serve
    app: App
    candidates: Annotated[list[str], Field(min_length=1)]


def read_params(path: Path = Path("params.yaml"), profile: Path | None = None) -> Params:
    return Params.read(path, profile)
