"""The section `adapter` of params.yaml: how the adapter is trained."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from xinglin.params import Count, Section, Seed, Share, Template


class Adapter(Section):
    """Names and meanings are LLaMA-Factory's, but for `batch`, `gpus`, `nodes` and two more; `auto` is settled by the stage.

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
            raise ValueError(
                f"eval_steps is {self.eval_steps}: expected a share of the run, up to 1, or a whole number of steps"
            )
        return self

    @model_validator(mode="after")
    def every_trained_weight_can_move(self) -> "Adapter":
        if self.finetuning_type == "full" and self.quantization_bit:
            raise ValueError(
                f"quantization_bit is {self.quantization_bit} and finetuning_type 'full': "
                "weights in 4 bit cannot be trained, set adapter.quantization_bit to null or finetuning_type to lora"
            )
        return self

    @model_validator(mode="after")
    def packs_are_even(self) -> "Adapter":
        if self.neat_packing and self.cutoff_len % 8:
            raise ValueError(f"cutoff_len is {self.cutoff_len}: with neat_packing LLaMA-Factory needs a multiple of 8")
        return self

    @model_validator(mode="after")
    def shares_are_of_several(self) -> "Adapter":
        if self.deepspeed and self.gpus * self.nodes == 1:
            raise ValueError(
                f"deepspeed is {self.deepspeed}, which shares out among devices: set adapter.gpus or adapter.nodes above 1"
            )
        return self
