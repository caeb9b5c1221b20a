"""MT-DNN's flags are answered with the name here, and every name in the answers exists."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from mtrobust.cli import COMMANDS, main
from mtrobust.config import TrainConfig
from mtrobust.config_parse import parse_train
from mtrobust.perturb import METHODS
from mtrobust.tasks.mtdnn_flags import FLAGS, answer
from mtrobust.tasks.taskdef import TaskDef
from tests.mtdnn.definitions import words

PAGE = Path(__file__).resolve().parents[2] / "docs" / "from_mt_dnn.md"
SAME = ["task_def", "data_dir", "output_dir", "learning_rate", "weight_decay", "seed", "resume"]
# the flags of its `train.py`
THEIRS = words("""
log_file tensorboard tensorboard_logdir init_checkpoint data_dir data_sort_on name task_def train_datasets test_datasets
glue_format_on mkd_opt do_padding tokenizer dataloader_num_workers update_bert_opt multi_gpu_on mem_cum_type
answer_num_turn answer_mem_drop_p answer_att_hidden_size answer_att_type answer_rnn_type answer_sum_att_type
answer_merge_opt answer_mem_type max_answer_len answer_dropout_p answer_weight_norm_on dump_state_on answer_opt
pooler_actf mtl_opt ratio mix_opt max_seq_len init_ratio encoder_type num_hidden_layers bert_model_type do_lower_case
masked_lm_prob short_seq_prob max_predictions_per_seq bin_on bin_size bin_grow_ratio local_rank world_size master_addr
master_port backend cuda log_per_updates save_per_updates save_per_updates_on epochs batch_size batch_size_eval
optimizer grad_clipping global_grad_clipping weight_decay learning_rate momentum warmup warmup_schedule adam_eps
vb_dropout dropout_p dropout_w bert_dropout_p model_ckpt resume scheduler_type output_dir seed grad_accumulation_step
fp16 fp16_opt_level adv_train adv_opt adv_norm_level adv_p_norm adv_alpha adv_k adv_step_size adv_noise_var adv_epsilon
encode_mode debug transformer_cache
""")


def test_every_flag_of_theirs_is_ours_or_answered():
    assert [name for name in THEIRS if name not in FLAGS and name not in SAME] == []
    assert [name for name in SAME if name not in TrainConfig.model_fields] == []
    assert [name for name in FLAGS if name in TrainConfig.model_fields] == []


def exists(flag: str) -> bool:
    first, *rest = flag.removeprefix("--").split(".")
    if not rest:
        return first in TrainConfig.model_fields
    method, option = rest
    return first == "perturb" and option in METHODS[method].Options.model_fields


@pytest.mark.parametrize("name", FLAGS)
def test_what_an_answer_names_exists(name: str):
    new, note = FLAGS[name]
    assert new or note
    if new.startswith("key:"):
        assert new.removeprefix("key:") in TaskDef.model_fields
    elif new.startswith("mtrobust "):
        assert new.split()[1] in COMMANDS
    else:
        assert all(word.startswith("--") or word in METHODS for word in new.split())
        flags = re.findall(r"--[\w.]+", f"{new} {note}")
        assert [flag for flag in flags if not exists(flag) and flag != "--nproc_per_node"] == []
    assert [key for key in re.findall(r"\b(\w+): pooler", note) if key not in TaskDef.model_fields] == []


@pytest.mark.parametrize(
    ("flags", "line"),
    [
        (["--train_datasets", "mnli,rte"], "--train_datasets: MT-DNN's name; write --train_tasks"),
        (["--epochs=5"], "--epochs: MT-DNN's name; write --num_train_epochs"),
        (["--adv_train"], "--adv_train: MT-DNN's name; write --perturb smart (with --perturb.smart.preset mtdnn for "),
        (["--adv_step_size", "1e-5"], "--adv_step_size: MT-DNN's name; write --perturb.smart.step_size"),
        (["--answer_opt", "1"], "--answer_opt: MT-DNN's name; write enable_san: in the task definition"),
        (["--tensorboard"], "--tensorboard: MT-DNN's name; not needed here: every run writes RUN/tensorboard"),
        (["--encode_mode"], "--encode_mode: MT-DNN's name; write mtrobust embed"),
    ],
)
def test_an_old_flag_is_answered_in_one_line(flags: list[str], line: str, capsys: pytest.CaptureFixture[str]):
    needed = ["--task_def", "glue", "--data_dir", "d", "--model_name_or_path", "m", "--output_dir", "o"]
    faults = parse_train([*needed, *flags]).faults
    assert len(faults) == 1 and faults[0].startswith(line)
    assert main(["train", *needed, *flags]) == 2
    assert f"error: {line}" in capsys.readouterr().err


def test_nothing_else_is_said_of_what_an_old_flag_sets(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    words = ["--task_def", "glue", "--data_dir", str(tmp_path), "--output_dir", str(tmp_path / "run")]
    assert main(["train", *words, "--train_datasets", "mrpc", "--init_checkpoint", "x"]) == 2
    lines = capsys.readouterr().err.strip().split("\n")
    assert [line.split(":")[1] for line in lines] == [" --train_datasets", " --init_checkpoint"]


def test_an_old_name_in_a_recipe_too(tmp_path: Path):
    recipe = tmp_path / "old.yml"
    recipe.write_text("epochs: 3\nfp16: true\nlearning_rate: 1e-4\n", encoding="utf-8")
    faults = parse_train([str(recipe)]).faults
    assert faults[:2] == [
        f"{recipe}: epochs: MT-DNN's name; write num_train_epochs",
        f"{recipe}: fp16: MT-DNN's name; write bf16",
    ]


def test_a_name_of_nobody_is_still_unknown():
    assert answer("epoch") is None
    assert "--epoch: unknown flag" in parse_train(["--epoch", "1"]).faults[0]


def test_the_page_has_the_table():
    rows = re.findall(r"^\| `--(\w+)` \| (.*?) \|$", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    shown = {name: text for name, text in rows if name in FLAGS}
    expected = {}
    for name, (new, note) in FLAGS.items():
        what = f"key `{new.removeprefix('key:')}`" if new.startswith("key:") else f"`{new}`" if new else "-"
        expected[name] = f"{what} | {note}" if note else f"{what} |"
    assert shown == expected
