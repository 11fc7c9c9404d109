"""The section `predictions` of params.yaml, and what every section says that starts a vLLM."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from xinglin.params import Count, Dtype, Section


class Engine(Section):
    """How vLLM holds a model."""

    max_model_len: Annotated[int, Field(ge=64)]
    dtype: Dtype
    gpu_memory_utilization: Annotated[float, Field(gt=0, le=1)]
    tensor_parallel_size: Count
    data_parallel_size: Count


class Predictions(Engine):
    part: Literal["test", "val"]
    max_new_tokens: Count
    max_samples: Count | None
    concurrency: Annotated[int, Field(ge=1, le=4096)]
    base_url: str | None
    batch_invariant: bool
    parity_samples: Count

    @model_validator(mode="after")
    def answer_fits(self) -> "Predictions":
        if self.max_new_tokens >= self.max_model_len:
            raise ValueError(f"max_new_tokens ({self.max_new_tokens}) must be below max_model_len ({self.max_model_len})")
        return self
