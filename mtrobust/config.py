"""The typed configuration of a training run. Imports pydantic only; the command line is made from these fields."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator


class StrictModel(BaseModel):
    """Unknown keys are faults; values are checked on assignment too."""

    model_config = ConfigDict(extra="forbid", validate_assignment=True, protected_namespaces=())


class PerturbSpec(StrictModel):
    """One method with its options as the user wrote them; the method's own Options class checks them."""

    name: str
    options: dict[str, Any] = Field(default_factory=dict)


class TrainConfig(StrictModel):
    """All options of `mtrobust train`; names follow Hugging Face's run_glue and run_qa where one exists there."""

    # data
    task_def: list[str] = Field(
        min_length=1, description="task-definition files, or names of shipped ones (glue, squad, textcls)"
    )
    data_dir: Path = Field(description="folder with <task>/<split>.jsonl")
    train_tasks: list[str] = Field(default_factory=list, description="tasks to train on; default: all defined")
    eval_tasks: list[str] | None = Field(None, description="tasks to evaluate; default: the training tasks")
    eval_sets: list[str] | None = Field(
        None, description="evaluation sets of these tasks: names, all, or skip; default: those with rows in data_dir"
    )
    cache_dir: Path | None = Field(None, description="where tokenised features are kept; default: DATA_DIR/.features")
    max_seq_length: int = Field(128, ge=8, description="tokens per example where the definition sets no max_len")
    max_train_samples: int | None = Field(
        None, ge=1, description="first N training rows of each task, after a seeded shuffle"
    )
    data_fraction: float = Field(
        1.0, gt=0, le=1, description="share of each task's training rows, drawn by the seed; before max_train_samples"
    )
    label_fraction: float = Field(
        1.0,
        gt=0,
        le=1,
        description="share of each task's labelled training rows, drawn by the seed, that keep their label; the others "
        "take part in regularisers only",
    )
    max_eval_samples: int | None = Field(None, ge=1, description="N dev rows of each task, evenly from the whole split")
    # model
    model_name_or_path: str = Field(description="local folder or hub name of the encoder; not with init_from")
    init_from: Path | None = Field(
        None,
        description="run folder to start from: its encoder, and its heads of tasks with the same name, type and labels",
    )
    trust_remote_code: bool = Field(False, description="run model code that comes with the checkpoint")
    attn_implementation: Literal["auto", "eager", "sdpa"] = Field("auto", description="attention kernel")
    freeze_embeddings: bool = Field(False, description="keep the embedding block as it is")
    freeze_layers: int = Field(0, ge=0, description="keep the embedding block and the first N layers as they are")
    lora_r: int | None = Field(
        None, ge=1, description="rank of low-rank adapters in the encoder, which alone learn in it; default: none, all "
        "its weights learn"
    )  # fmt: skip
    lora_alpha: float = Field(16.0, gt=0, description="adapters count alpha / r times")
    lora_dropout: float = Field(0.0, ge=0, lt=1, description="dropout before the adapters")
    lora_targets: list[str] | None = Field(
        None, description="linear layers that get adapters, or all-linear; default: those that peft has for the family"
    )
    gradient_checkpointing: bool = Field(False, description="recompute activations in the backward pass")
    # method
    perturb: list[PerturbSpec] = Field(
        default_factory=list, description="methods, composed in this order; default: standard"
    )
    # output
    output_dir: Path = Field(description="run folder")
    resume: bool = Field(False, description="go on from the last complete checkpoint of the run folder")
    overwrite_output_dir: bool = Field(False, description="delete an earlier run in the folder first")
    save_steps: int = Field(0, ge=0, description="checkpoint every N optimiser steps; 0: at the end of each epoch")
    save_total_limit: int = Field(2, ge=1, description="checkpoints kept beside the best one")
    eval_steps: int = Field(0, ge=0, description="evaluate every N optimiser steps; 0: at the end of each epoch")
    logging_steps: int = Field(20, ge=1, description="log every N optimiser steps")
    profile: int = Field(
        0, ge=0, description="time the parts of N optimiser steps, after a first one for warm-up: RUN/profile.json"
    )
    metric_for_best_model: str = Field("mean", description="`mean` over tasks of the main metric, or `<task>.<metric>`")
    early_stopping_patience: int = Field(
        0, ge=0, description="stop after N evaluations without a better metric; 0: never"
    )
    # optimisation
    learning_rate: float = Field(5e-5, gt=0)
    head_learning_rate: float | None = Field(
        None, gt=0, description="learning rate of the heads; default: learning_rate"
    )
    layerwise_lr_decay: float = Field(1.0, gt=0, le=1, description="factor on the learning rate per layer downwards")
    optim: Literal["adamw", "adamax", "adafactor"] = "adamw"
    adam_beta1: float = Field(0.9, ge=0, lt=1)
    adam_beta2: float = Field(0.999, ge=0, lt=1)
    adam_epsilon: float = Field(1e-8, gt=0)
    weight_decay: float = Field(0.0, ge=0, description="not applied to biases and layer norms")
    lr_scheduler_type: Literal["linear", "cosine", "constant", "polynomial"] = "linear"
    warmup_ratio: float = Field(0.1, ge=0, le=1)
    warmup_steps: int | None = Field(None, ge=0, description="instead of warmup_ratio")
    max_grad_norm: float = Field(1.0, ge=0, description="0: no clipping")
    num_train_epochs: float = Field(3.0, gt=0)
    max_steps: int | None = Field(None, ge=1, description="optimiser steps; instead of num_train_epochs")
    per_device_train_batch_size: int = Field(16, ge=1)
    per_device_eval_batch_size: int = Field(64, ge=1)
    gradient_accumulation_steps: int = Field(1, ge=1)
    sampling: Literal["proportional", "sqrt", "uniform", "temperature", "annealed", "main_ratio"] = Field(
        "proportional", description="how often each task's batches are drawn"
    )
    sampling_temperature: float = Field(2.0, ge=1, description="for sampling=temperature: share ~ size^(1/T)")
    main_task: str | None = Field(
        None, description="for sampling=main_ratio: the task that is seen whole; for sampling_order=main_last"
    )
    main_task_ratio: float = Field(0.4, gt=0, description="for sampling=main_ratio: other batches per main-task batch")
    sampling_order: Literal["mixed", "main_last"] = Field(
        "mixed", description="order within an epoch: all shuffled, or the batches of main_task after all others"
    )
    task_weighting: Literal["fixed", "uncertainty"] = Field(
        "fixed", description="factors on the tasks' losses: the definitions' weights, times learned ones"
    )
    task_weighting_learning_rate: float = Field(
        1e-2, gt=0, description="for task_weighting=uncertainty: of the log variances"
    )
    group_by_length: bool = Field(
        True, description="batches of similar lengths (rows are still each seen once an epoch)"
    )
    max_tokens_per_batch: int | None = Field(
        None, ge=64, description="token-budget batches instead of a fixed batch size"
    )
    bf16: bool = Field(False, description="bfloat16 autocast")
    seed: int = Field(42, ge=0, lt=2**63)
    on_nonfinite: Literal["stop", "skip"] = Field("stop", description="what to do at a non-finite loss")
    progress: Literal["auto", "bar", "lines", "off"] = "auto"
    use_cpu: bool = Field(False, description="run on the CPU though an accelerator is there")

    @model_validator(mode="before")
    @classmethod
    def _encoder_of_the_run(cls, values: Any) -> Any:
        """Without a name of its own the encoder is that of `init_from`."""
        if isinstance(values, dict) and values.get("init_from") and not values.get("model_name_or_path"):
            return {**values, "model_name_or_path": str(Path(values["init_from"]) / "model")}
        return values
