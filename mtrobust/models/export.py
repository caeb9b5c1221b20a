"""One task of a trained model as a plain Hugging Face folder that needs nothing of this package.

The family's own class is put together from the shared encoder and the task's head, saved, loaded again and compared
with the model inside before the folder appears under its name.
"""

from __future__ import annotations

import copy
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor, nn

from mtrobust import __version__
from mtrobust.errors import RunError, UserError
from mtrobust.files import refusal, usual_permissions
from mtrobust.models import adapters, usage
from mtrobust.models.loading import no_progress_bars
from mtrobust.registry import Registry, suggestion

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

    from mtrobust.config import TrainConfig
    from mtrobust.models.multitask import MultiTaskModel
    from mtrobust.tasks.taskdef import TaskDef

TOLERANCE = 1e-5  # largest difference of a logit, absolute and relative
MERGED = 1e-4  # the same where adapters were added to the weights, which rounds them


class TrainedRun(Protocol):
    """What an export needs of a finished run; `evaluation.run_folder.load_run` gives one."""

    @property
    def config(self) -> TrainConfig:
        """The run's configuration."""

    @property
    def tasks(self) -> dict[str, TaskDef]:
        """Definitions by task name."""

    @property
    def model(self) -> MultiTaskModel:
        """The trained model."""

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The encoder's tokenizer."""

    @property
    def path(self) -> Path | None:
        """The run folder, where there is one."""


@dataclass(frozen=True)
class Exported:
    """What the model card says of a kind of task. shaped: a batch of texts, [B, T] each, as its class takes it; also:
    further inputs of a forward pass, for which the comparison with the model inside takes the ids of the text."""

    auto_class: str
    pipeline_tag: str
    usage: str
    shaped: Callable[[dict[str, Tensor]], dict[str, Tensor]] = dict
    also: tuple[str, ...] = ()


EXPORTS: Registry[Callable[..., Exported]] = Registry("exportable task type")
"""By task type: `(TaskDef, config) -> Exported` fills the task's entries of the configuration."""


@EXPORTS.register("Classification")
def _classification(task: TaskDef, config: PreTrainedConfig) -> Exported:
    _name_classes(config, task.labels)
    config.problem_type = "single_label_classification"
    return Exported("AutoModelForSequenceClassification", "text-classification", usage.pipeline(task))


@EXPORTS.register("Regression")
def _regression(task: TaskDef, config: PreTrainedConfig) -> Exported:
    _name_classes(config, ["score"])
    config.problem_type = "regression"
    return Exported("AutoModelForSequenceClassification", "text-classification", usage.pipeline(task))


@EXPORTS.register("Ranking")
def _ranking(task: TaskDef, config: PreTrainedConfig) -> Exported:
    _name_classes(config, ["score"])
    config.problem_type = "regression"  # pipelines then give the score itself
    return Exported("AutoModelForSequenceClassification", "text-ranking", usage.RANKING)


@EXPORTS.register("MultipleChoice")
def _choice(task: TaskDef, config: PreTrainedConfig) -> Exported:
    one_list = lambda inputs: {name: tensor.unsqueeze(0) for name, tensor in inputs.items()}  # noqa: E731
    return Exported("AutoModelForMultipleChoice", "multiple-choice", usage.CHOICE, one_list)


@EXPORTS.register("SequenceLabeling")
def _tags(task: TaskDef, config: PreTrainedConfig) -> Exported:
    _name_classes(config, task.labels)
    return Exported("AutoModelForTokenClassification", "token-classification", usage.TAGS)


def _span(task: TaskDef, config: PreTrainedConfig) -> Exported:
    return Exported("AutoModelForQuestionAnswering", "question-answering", usage.SPAN)


@EXPORTS.register("MaskLM")
def _masked_lm(task: TaskDef, config: PreTrainedConfig) -> Exported:
    return Exported("AutoModelForMaskedLM", "fill-mask", usage.FILL)


@EXPORTS.register("SequenceGeneration")
def _generation(task: TaskDef, config: PreTrainedConfig) -> Exported:
    return Exported("AutoModelForSeq2SeqLM", "text2text-generation", usage.GENERATE, also=("decoder_input_ids",))


EXPORTS.register("SpanClassification")(_span)
EXPORTS.register("SpanClassificationYN")(_span)


def export(run: TrainedRun, task: str, out: str | os.PathLike[str], adapters_only: bool = False) -> Path:
    """Writes one task of a run as a Hugging Face folder: config, safetensors, tokenizer, model card.

    run: see `TrainedRun`; task: one of its tasks; out: a folder that does not exist yet or is empty. The folder loads
    with the class that `EXPORTS` names for the kind of task (`AutoModelForSequenceClassification` for classification,
    regression and ranking, `AutoModelForQuestionAnswering` for spans, ...) and gives the same logits; low-rank adapters
    become part of the weights. adapters_only: a folder for `PeftModel.from_pretrained` instead, with the adapters and
    the head but not their base. Raises `UserError` for an unknown task, a taken folder, a kind of task or a family
    without a Hugging Face class, adapters that are not there; `RunError` when what was written differs or the disk
    refuses. Returns `out`.
    """
    target = Path(out)
    model = run.model
    if task not in model.heads or task not in run.tasks:
        known = ", ".join(model.heads)
        raise UserError(f"--task: the run has no task '{task}'{suggestion(task, model.heads)} (its tasks: {known})")
    definition = run.tasks[task]
    describe = EXPORTS[definition.task_type]
    check_target(target)
    head: Any = model.heads[task]
    adapted = model.encoder.lora is not None
    if adapters_only:
        adapters.check_alone(model.encoder, getattr(head.net, "kind", ""))
    encoder = adapters.merged(model.encoder) if adapted and not adapters_only else model.encoder
    full = head.net.full_model(encoder.base)
    full.config.finetuning_task = task
    kind = describe(definition, full.config)
    max_len = definition.max_len or run.config.max_seq_length
    tokenizer = _tokenizer_for(run.tokenizer, max_len)
    with _appearing(target) as folder:
        with no_progress_bars():
            if adapters_only:
                kind = replace(kind, usage=_peft_usage(kind, _base_name(run.config)))
                loaded = adapters.export_adapters(model.encoder, full, folder)
            else:
                full.save_pretrained(folder)
                loaded = _loaded(type(full), folder, task)
        tokenizer.save_pretrained(folder)
        (folder / "README.md").write_text(_card(run, definition, kind, max_len), encoding="utf-8", newline="\n")
        _check_same(model, task, loaded, tokenizer, kind, MERGED if adapted else TOLERANCE)
    return target


def check_target(out: Path) -> None:
    """Raises `UserError` unless `out` is free (not there yet, or an empty folder) where one may write."""
    reason = refusal(out.parent)
    if reason:
        raise UserError(f"--out: {out}: cannot be written: {reason}")
    if out.is_dir():
        if any(out.iterdir()):
            raise UserError(f"--out: {out} is not empty; an export never overwrites: name a new folder")
    elif out.exists():
        raise UserError(f"--out: {out} is a file; name a new folder")


def _name_classes(config: PreTrainedConfig, labels: list[str]) -> None:
    config.id2label = dict(enumerate(labels))
    config.label2id = {label: index for index, label in enumerate(labels)}


def _tokenizer_for(tokenizer: PreTrainedTokenizerBase, max_len: int) -> PreTrainedTokenizerBase:
    """A copy that truncates where the task's features were truncated, without the state of earlier calls."""
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.model_max_length = min(tokenizer.model_max_length, max_len)
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:
        backend.no_truncation()
        backend.no_padding()
    return tokenizer


@contextmanager
def _appearing(target: Path) -> Iterator[Path]:
    """A temporary folder beside `target` that becomes it when the block ends well, and is removed otherwise."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".tmp", dir=target.parent))
    except OSError as error:
        raise RunError(f"{target}: cannot be written ({error.strerror})") from error
    try:
        yield folder
        for file in folder.iterdir():
            with open(file, "rb") as handle:
                os.fsync(handle.fileno())
        usual_permissions(folder)
        os.replace(folder, target)
    except OSError as error:
        raise RunError(f"{target}: cannot be written ({error.strerror or error})") from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _loaded(cls: type[PreTrainedModel], folder: Path, task: str) -> PreTrainedModel:
    """The model of a folder. Raises `RunError` where weights are missing or left over."""
    loading: Any = cls.from_pretrained(folder, output_loading_info=True, dtype=torch.float32)
    loaded, report = loading
    lost = [*report["missing_keys"], *report["mismatched_keys"], *report["unexpected_keys"]]
    if lost:
        keys = ", ".join(map(str, lost))
        raise RunError(f"export of '{task}': the written weights do not fit {cls.__name__}: {keys}")
    return loaded


@torch.no_grad()
def _check_same(
    model: MultiTaskModel,
    task: str,
    loaded: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    kind: Exported,
    tolerance: float,
) -> None:
    """Compares the logits of what was written with the model's own on two short texts of different lengths."""
    head: Any = model.heads[task]
    device = model.encoder.base.device
    texts = ["A first sentence.", "Another one, somewhat longer than the first (2 of 2)."]
    inputs = dict(tokenizer(texts, texts[::-1], padding=True, truncation=True, return_tensors="pt").to(device))
    inputs |= dict.fromkeys(kind.also, inputs["input_ids"])
    with _in_evaluation(model):
        tape = model.encoder.record({name: value for name, value in inputs.items() if name not in kind.also})
        inside = head.net(tape.last, tape.pooled, inputs)
        given = _logits(loaded.to(device).eval()(**kind.shaped(inputs))).reshape(inside.shape)
    if not torch.allclose(given.float(), inside.float(), atol=tolerance, rtol=tolerance):
        worst = (given - inside).abs().max().item()
        raise RunError(f"export of '{task}': the written model's logits differ by {worst:.2g} from the run's")


def _logits(out: Any) -> Tensor:
    """[B, C] of a classifier, [lists, C] of a chooser, [B, T, C] of a tagger, [B, T, V] of a language model, [B, T, 2]
    of a question-answering model."""
    return out["logits"] if "logits" in out else torch.stack((out["start_logits"], out["end_logits"]), dim=-1)


@contextmanager
def _in_evaluation(model: nn.Module) -> Iterator[None]:
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


# --- the model card ----------------------------------------------------------------------------------------------


def _peft_usage(kind: Exported, base: str) -> str:
    return f"""from peft import PeftModel
from transformers import AutoConfig, {kind.auto_class}, AutoTokenizer

config = AutoConfig.from_pretrained("this/folder")
base = {kind.auto_class}.from_pretrained("{base}", config=config)
model = PeftModel.from_pretrained(base, "this/folder").eval()
tokenizer = AutoTokenizer.from_pretrained("this/folder")
"""


def _base_name(config: TrainConfig) -> str:
    """The encoder that a run started from, without the folders of one machine."""
    base = config.model_name_or_path
    return Path(base).name if Path(base).exists() or Path(base).is_absolute() else base


def _card(run: TrainedRun, task: TaskDef, kind: Exported, max_len: int) -> str:
    """The model card: what it is, how it is used, where it comes from."""
    config = run.config
    base = _base_name(config)
    methods = ", ".join(spec.name for spec in config.perturb) or "standard"
    lines = [
        "---", "library_name: transformers", f"pipeline_tag: {kind.pipeline_tag}", "tags:", "- mtrobust", "---",
        f"# {task.name}", "",
        f"`{base}` fine-tuned for the task `{task.name}` ({task.task_type}) with mtrobust {__version__}.",
        f"Training method: {methods}. Tasks trained together: {', '.join(run.model.heads)}.",
        f"Texts are cut at {max_len} tokens. Class: `{kind.auto_class}`.", "",
    ]  # fmt: skip
    if task.labels:
        lines += [f"Labels, in the order of the logits: {', '.join(task.labels)}.", ""]
    metrics = _metrics(run, task.name)
    if metrics:
        rows = [f"| {key} | {value:.2f} |" for key, value in metrics.items()]
        lines += ["| metric (dev) | value |", "|---|---|", *rows, ""]
    return "\n".join([*lines, "```python", kind.usage.rstrip("\n"), "```", ""])


def _metrics(run: TrainedRun, task: str) -> dict[str, float]:
    """The task's dev metrics as the run folder has them; none where there is no such file."""
    path = run.path / "all_results.json" if run.path is not None else None
    if path is None or not path.is_file():
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8")).get(task, {})
    except (ValueError, AttributeError):
        return {}
    return {key: value for key, value in found.items() if isinstance(value, int | float) and "/" not in key}
