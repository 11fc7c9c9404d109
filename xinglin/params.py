"""The one reader of params.yaml: every section is checked against the types and limits below.

Usage: from xinglin.params import read_params; adapter = read_params().adapter
"""

import difflib
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from xinglin.cli import fail
from xinglin.files import CHECKS

Count = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0, le=1)]
Seed = Annotated[int, Field(ge=0, lt=1 << 32)]
Port = Annotated[int, Field(ge=0, le=65535)]
Dtype = Literal["auto", "float32", "bfloat16", "float16"]
Format = Literal["fp8", "gptq", "gguf"]
Template = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")]  # the stage base knows LLaMA-Factory's


class Section(BaseModel):
    """A block of params.yaml; unknown keys and mistyped values are errors."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


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


class Converted(Section):
    format: Literal["auto", "huatuo", "alpaca", "sharegpt", "messages", "csv"]
    columns: dict[str, str] | None
    output: Literal["jsonl", "json"]
    system: str
    max_dialogues: Count | None
    max_turn_characters: Count
    max_reject_rate: Share

    @model_validator(mode="after")
    def columns_suffice(self) -> "Converted":
        if self.columns is None:
            return self
        if unknown := self.columns.keys() - {"title", "question", "answer", "department"}:
            raise ValueError(f"columns: unknown {', '.join(unknown)}, expected title, question, answer or department")
        if "answer" not in self.columns or not {"question", "title"} & self.columns.keys():
            raise ValueError("columns must name at least an answer, and a question or a title")
        return self


class Ratios(Section):
    train: Annotated[float, Field(gt=0, lt=1)]
    val: Annotated[float, Field(gt=0, lt=1)]
    test: Annotated[float, Field(gt=0, lt=1)]

    @model_validator(mode="after")
    def sum_is_one(self) -> "Ratios":
        total = self.train + self.val + self.test
        if abs(total - 1) > 1e-6:
            raise ValueError(f"train + val + test must be 1, not {total:g}")
        return self


class Split(Section):
    ratios: Ratios
    seed: Seed
    near_duplicate_threshold: Annotated[float, Field(gt=0, le=1)]


class Adapter(Section):
    """Names and meanings are LLaMA-Factory's own, but for `batch`, `gpus`, `nodes` and two more; `auto` is settled by the stage.

    `torch_compile` compiles layer by layer; `deepspeed` names the stage of ZeRO, not a file.
    """

    template: Template
    finetuning_type: Literal["lora", "full"]
    lora_rank: Annotated[int, Field(ge=1, le=512)]
    lora_alpha: Count
    lora_dropout: Annotated[float, Field(ge=0, lt=1)]
    lora_target: str
    learning_rate: Annotated[float, Field(gt=0, lt=1)]
    num_train_epochs: Annotated[float, Field(gt=0)]
    max_steps: Annotated[int, Field(ge=-1)]
    per_device_train_batch_size: Count
    gradient_accumulation_steps: Count
    batch: Literal["fixed", "auto"]
    cutoff_len: Annotated[int, Field(ge=16)]
    neat_packing: bool
    lr_scheduler_type: Literal["linear", "cosine", "constant", "constant_with_warmup", "cosine_with_restarts", "polynomial"]
    warmup_ratio: Share
    max_samples: Count | None
    mask_history: bool
    eval_steps: Annotated[float, Field(gt=0)]
    early_stopping_steps: Count | None
    disable_gradient_checkpointing: bool | Literal["auto"]
    bf16: bool | Literal["auto"]
    quantization_bit: Literal[4] | None
    enable_liger_kernel: bool
    torch_compile: bool
    gpus: Count
    nodes: Count
    deepspeed: Literal[2, 3] | None
    seed: Seed

    @model_validator(mode="after")
    def steps_can_be_counted(self) -> "Adapter":
        if self.max_steps == 0:
            raise ValueError("max_steps is 0: expected 1 or more, or -1 for as many as the epochs say")
        if self.eval_steps > 1 and self.eval_steps % 1:
            raise ValueError(f"eval_steps is {self.eval_steps}: expected a share of the run, up to 1, or a whole number of steps")
        return self

    @model_validator(mode="after")
    def every_trained_weight_can_move(self) -> "Adapter":
        if self.finetuning_type == "full" and self.quantization_bit:
            raise ValueError(f"quantization_bit is {self.quantization_bit} and finetuning_type 'full': "
                             "weights in 4 bit cannot be trained, set adapter.quantization_bit to null or finetuning_type to lora")  # fmt: skip
        return self

    @model_validator(mode="after")
    def packs_are_even(self) -> "Adapter":
        if self.neat_packing and self.cutoff_len % 8:
            raise ValueError(f"cutoff_len is {self.cutoff_len}: with neat_packing LLaMA-Factory needs a multiple of 8")
        return self

    @model_validator(mode="after")
    def shares_are_of_several(self) -> "Adapter":
        if self.deepspeed and self.gpus * self.nodes == 1:
            raise ValueError(f"deepspeed is {self.deepspeed}, which shares out among devices: set adapter.gpus or adapter.nodes above 1")
        return self


class Decoding(Section):
    """How each next token is chosen, wherever the model answers; a temperature of 0 is greedy."""

    temperature: Annotated[float, Field(ge=0, le=2)]
    top_p: Annotated[float, Field(gt=0, le=1)]
    top_k: Annotated[int, Field(ge=0, lt=1_000_000)]
    repetition_penalty: Annotated[float, Field(gt=0, le=2)]
    seed: Seed

    @model_validator(mode="after")
    def temperature_is_taken_as_it_is(self) -> "Decoding":
        if 0 < self.temperature < 0.01:  # vLLM takes 0.01 instead, with a warning in its log
            raise ValueError(f"temperature is {self.temperature}: expected 0 (greedy), or 0.01 and more")
        return self


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


class Metrics(Section):
    bootstrap: Annotated[int, Field(ge=100, le=100_000)]
    seed: Seed
    embedding_model: str | None


class Judgements(Section):
    base_url: Annotated[str, Field(pattern="^https?://")] | None
    model: str | None
    api_key_variable: Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]
    samples: Count | None
    concurrency: Annotated[int, Field(ge=1, le=256)]
    seed: Seed

    @model_validator(mode="after")
    def model_is_named(self) -> "Judgements":
        if self.base_url and not self.model:
            raise ValueError("base_url is set, so judgements.model must name a model")
        return self


class Exam(Section):
    path: str | None
    max_questions: Count | None


class Gate(Section):
    scores: dict[str, float]
    gains: dict[str, float]


class Merged(Section):
    gate: Gate
    dtype: Dtype
    tolerance: Annotated[float, Field(gt=0)] | None
    exports: list[Format]


class Serve(Engine):
    host: str
    port: Port
    model_name: str


class App(Section):
    host: str
    port: Port
    upstream: str | None
    database: str
    retention_days: Count
    red_flags_in_answers: bool
    requests_per_minute: Count
    concurrent_requests: Count
    max_body_bytes: Annotated[int, Field(ge=1024)]
    max_turns: Count
    max_message_characters: Count
    max_tokens: Count
    timeout_seconds: Annotated[float, Field(gt=0)]


class Params(Section):
    """The whole of params.yaml."""

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
    """Return the checked parameters, with `profile` over them; anything wrong ends the program with one line and exit status 2."""
    values = load(path)
    if profile:
        lay(load(profile), values, str(profile))
    try:
        found = Params.model_validate(values)
    except ValidationError as error:
        fail(f"{path}: {explain(error)}", 2)
    CHECKS["params"] = partial(still, path.resolve(), load(path))
    return found


def still(path: Path, values: dict) -> None:
    """Stop before an output is put in place that was made with other parameters than `path` holds by now.

    DVC reads them after the stage has run, and would note the new ones beside the old output.
    """
    if not path.is_file():
        return
    now = load(path)
    for section in values:
        if section not in ("serve", "app") and now.get(section) != values[section]:
            fail(f"{path.name}: section {section} changed while this ran: its output was not put in place, run 'dvc repro' again")


def load(path: Path) -> Any:
    try:
        return YAML(typ="safe", pure=True).load(path)
    except FileNotFoundError:
        fail(f"{path}: no such file: run this from the project's root", 2)
    except YAMLError as error:
        fail(f"{path}: not YAML: {' '.join(str(error).split())}", 2)


def lay(over: Any, values: Any, source: str, place: str = "") -> None:
    """Set each value of `over` in `values`, in place; a key that is not there is an error of `source`."""
    if not isinstance(over, dict):
        fail(f"{source}: {over!r}: expected sections of params.yaml", 2)
    for key, value in over.items():
        if key not in values:
            fail(f"{source}: {place}{key}: params.yaml has no such parameter", 2)
        if isinstance(value, dict) and value and isinstance(values[key], dict):
            lay(value, values[key], source, f"{place}{key}.")
        else:
            values[key] = value


def explain(error: ValidationError) -> str:
    """Return one line on the first thing wrong: where, the value, and what was expected."""
    first = error.errors()[0]
    place = [str(part) for part in first["loc"]]
    where = ".".join(place)
    if first["type"] == "extra_forbidden":
        known = known_keys(place[:-1])
        near = difflib.get_close_matches(place[-1], known, 1) or elsewhere(place[-1])
        return f"{where}: unknown parameter" + (f", did you mean '{near[0]}'?" if near else f", expected one of {', '.join(known)}")
    if first["type"] == "missing":
        return f"{where}: missing"
    if first["type"] == "value_error":
        return f"{where}: {first['ctx']['error']}"
    if place[-1] == "bool":  # of what may be "auto" too
        return f"{'.'.join(place[:-1])}: {first['input']!r}: expected true, false or auto"
    return f"{where}: {first['input']!r}: {first['msg'][0].lower()}{first['msg'][1:]}"


def elsewhere(key: str) -> list[str]:
    """Return where other sections have a parameter of this name."""
    return [f"{name}.{key}" for name, section in Params.model_fields.items() if key in getattr(section.annotation, "model_fields", {})]


def known_keys(place: list[str]) -> list[str]:
    """Return the keys that the section at `place` may have."""
    model: Any = Params
    for part in place:
        model = model.model_fields[part].annotation
    return list(model.model_fields)
