"""TensorBoard's own readers find every promised tag, and a resumed run's board is that of one never stopped."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing import data_provider, plugin_event_multiplexer
from tensorboard.context import RequestContext
from tensorboard.plugins import base_plugin
from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.plugins.hparams import backend_context, metadata

from mtrobust.config import PerturbSpec
from mtrobust.perturb.spread import BUCKETS, spread, upper
from mtrobust.tasks.base import Prediction, TaskType
from mtrobust.tasks.span_qa import SpanType
from mtrobust.training.board import Board, charts, hyperparameters, table
from mtrobust.training.run import train
from tests.training.board import KINDS, read, tags, values
from tests.training.fake import trainer
from tests.training.world import SIZES, settings, write_world

EVERY = {"logging_steps": 5, "eval_steps": 10, "save_steps": 5, "max_steps": 20}
LAYOUT = "custom_scalars__config__"
METRICS = {"mood": "acc", "stsb": "pearson", "squad": "f1"}


class Killed(Exception):
    """Stands for the end of the process."""


def texts(board, tag):
    return {step: text.decode("utf-8") for step, (text,) in values(board, tag).items()}


def layout(board):
    """task -> title of a chart -> patterns of tags, of the layout that holds."""
    (last,) = board.Tensors(LAYOUT)[-1].tensor_proto.string_val
    found = layout_pb2.Layout.FromString(last)
    return {one.title: {chart.title: list(chart.multiline.tag) for chart in one.chart} for one in found.category}


def everything(board):
    """Steps, and what stands at them, of every tag."""
    found = {tag: values(board, tag) for kind in KINDS[:-1] for tag in tags(board, kind)}
    for tag in ("train/examples_per_second", "config"):  # the clock; the folder's name
        found[tag] = list(found[tag])
    return found


@pytest.fixture(scope="module")
def world(tmp_path_factory, tiny_model_dir):
    return write_world(tmp_path_factory.mktemp("world"), tiny_model_dir("bert"))


@pytest.fixture(scope="module")
def whole(world):
    train(settings(world, "whole", "rapt", **EVERY))
    return read(world / "whole")


def test_every_promised_tag_is_there(whole):
    scalars = {f"train/{task}/{name}" for task in SIZES for name in ("loss", "task", "rapt/reg", "rapt/delta_norm")}
    scalars |= {f"eval/{task}/{name}" for task, name in METRICS.items()}
    scalars |= {"train/lr", "train/grad_norm", "train/examples_per_second"}
    assert scalars <= tags(whole, "scalars")
    names = ("site", "delta_norm_by_token")
    assert tags(whole, "histograms") == {f"train/{task}/rapt/{name}" for task in SIZES for name in names}
    assert tags(whole, "text") == {"config", *(f"eval/{task}/samples" for task in SIZES)}
    assert tags(whole, "custom_scalars") == {LAYOUT}
    assert tags(whole, "hparams") == {metadata.SESSION_START_INFO_TAG, metadata.SESSION_END_INFO_TAG}
    assert list(values(whole, "train/lr")) == [5, 10, 15, 20] and list(values(whole, "eval/mood/acc")) == [10, 20]


def test_the_layout_has_a_clean_loss_a_regulariser_and_dev_metrics_of_each_task(whole):
    found, scalars = layout(whole), tags(whole, "scalars")
    assert set(found) == set(SIZES)
    for task, by_title in found.items():
        assert list(by_title) == ["clean loss", "regulariser: rapt/reg", "dev metrics"]
        shown = [[tag for tag in scalars if any(re.match(p, tag) for p in patterns)] for patterns in by_title.values()]
        assert shown[:2] == [[f"train/{task}/task"], [f"train/{task}/rapt/reg"]]
        assert f"eval/{task}/{METRICS[task]}" in shown[2]


def test_patterns_of_charts_take_names_as_they_are():
    found = charts("a.b", ["loss", "task"])
    assert list(found) == ["clean loss", "dev metrics"]
    (pattern,) = found["clean loss"][1]
    assert re.match(pattern, "train/a.b/task") and not re.match(pattern, "train/axb/task")
    (pattern,) = found["dev metrics"][1]
    assert re.match(pattern, "eval/a.b/acc") and not re.match(pattern, "eval/a.b/hans/acc")


def test_sizes_of_perturbations_are_spread_over_their_buckets(whole):
    means = {}
    for task in SIZES:
        for step, bars in values(whole, f"train/{task}/rapt/delta_norm_by_token").items():
            assert all(0 < low < high < 1.07 * low for low, high, _ in bars)
            tokens = sum(count for *_, count in bars)
            assert tokens > 20
            means[task, step] = sum((low + high) / 2 * count for low, high, count in bars) / tokens
    for step, mean in values(whole, "train/mood/rapt/delta_norm").items():
        assert mean == pytest.approx(means["mood", step], rel=0.15)  # the scalar weighs batches evenly


def test_counts_in_buckets():
    sizes = torch.tensor([[0.0, 1e-9, 0.5, 2.0, 3e8], [2.0, 1.0, 5.0, torch.nan, 7.0]])
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 0, 0, 1, 0]])
    counts = spread(sizes, mask).counts
    assert counts.shape == (BUCKETS,) and counts.sum() == 7
    assert counts[0] == 3 and counts[-1] == 1
    (at,) = [i for i in range(1, BUCKETS - 1) if upper(i - 1) <= 2.0 < upper(i)]
    assert counts[at] == 2
    drawn = torch.rand(5, 40) * 3 + 0.01
    counts = spread(drawn, torch.ones(5, 40)).counts
    edges = [0.0, *(upper(i) for i in range(BUCKETS - 1)), np.inf]
    assert counts.tolist() == np.histogram(drawn.double().numpy(), edges)[0].tolist()


def test_micro_batches_add_their_tokens(tmp_path):
    """One step of 8 rows, whole and in two micro-batches: the same tokens, the same sizes."""
    seen = []
    for rows, parts in ((8, 1), (4, 2)):
        made = trainer(
            tmp_path / str(parts), per_device_train_batch_size=rows, gradient_accumulation_steps=parts, max_steps=1
        )
        made.monitor.add = lambda step, task, figures, n: seen.append(figures["fake/delta_norm_by_token"])
        made.train()
    assert seen[0] == seen[1] and all(isinstance(count, int) for count in seen[0].values())


def test_the_configuration_is_there_as_text(whole):
    (text,) = texts(whole, "config").values()
    assert "    learning_rate: 0.001\n" in text and "    - name: rapt\n      layers: 1-3\n" in text


def test_samples_show_texts_gold_and_prediction_after_each_evaluation(world, whole):
    for task, columns in {"mood": "text", "stsb": "text | text_pair", "squad": "question | context"}.items():
        found = texts(whole, f"eval/{task}/samples")
        assert list(found) == [10, 20]
        for text in found.values():
            head, rule, *rows = text.split("\n")
            assert head == f"| {columns} | gold | prediction |" and set(rule) <= set("| -")
            # rows without a label have no gold
            assert len(rows) == 6 and all(row.count(" | ") == head.count(" | ") for row in rows)
    with open(world / "data" / "mood" / "dev.jsonl", encoding="utf-8") as file:
        dev = [json.loads(line) for line in file]
    shown = [row.strip("| ").split(" | ")[:2] for row in texts(whole, "eval/mood/samples")[20].split("\n")[2:]]
    assert [row[0] for row in shown] == [dev[i]["text"] for i in (0, 1, 3, 4, 6, 7)]
    assert [row[1].strip() for row in shown] == [dev[i].get("label", "") for i in (0, 1, 3, 4, 6, 7)]


def test_a_table_shows_texts_as_they_are():
    text = table(["a", "b"], [["x | y", "<b>*z*</b>\n`_q_`"]])
    assert text == "| a | b |\n| --- | --- |\n| x \\| y | &lt;b&gt;\\*z\\*&lt;/b&gt; \\`\\_q\\_\\` |"


def test_runs_of_a_sweep_have_the_same_hyperparameters(world, whole):
    """Read by TensorBoard's HParams page itself, over two runs side by side."""
    values = {"perturb": [PerturbSpec(name="rapt", options={"eta": 3, "layers": "1-2"})], "learning_rate": 2e-3}
    train(settings(world, "sweep", **(EVERY | {"max_steps": 2} | values)))
    multiplexer = plugin_event_multiplexer.EventMultiplexer()
    for run in ("whole", "sweep"):
        multiplexer.AddRun(str(world / run / "tensorboard"), run)
    multiplexer.Reload()
    provider = data_provider.MultiplexerDataProvider(multiplexer, str(world))
    context = backend_context.Context(base_plugin.TBContext(data_provider=provider))
    request = RequestContext()
    tags = context.hparams_metadata(request, "")
    starts = {
        run: metadata.parse_session_start_info_plugin_data(found[metadata.SESSION_START_INFO_TAG]).hparams
        for run, found in tags.items()
    }
    assert starts["whole"].keys() == starts["sweep"].keys()
    assert starts["whole"]["rapt.eta"].number_value == 2 and starts["sweep"]["rapt.eta"].number_value == 3
    assert starts["sweep"]["perturb"].string_value == "rapt"
    experiment = context.experiment_from_metadata(request, "", True, tags, None)
    differ = {info.name for info in experiment.hparam_infos if info.differs}
    assert differ == {"rapt.eta", "rapt.layers", "learning_rate", "max_steps"}
    assert {"eval/mood/acc", "eval/stsb/pearson"} <= {info.name.tag for info in experiment.metric_infos}


def test_hyperparameters_name_every_option_and_no_place(world):
    plain = hyperparameters(settings(world))
    assert plain["perturb"] == "standard" and not any("." in key for key in plain)
    found = hyperparameters(settings(world, perturb=[PerturbSpec(name="rapt"), PerturbSpec(name="smart")]))
    assert found["perturb"] == "rapt, smart" and found["rapt.layers"] == "1-3" and "smart.steps" in found
    assert plain.keys() == {key for key in found if "." not in key}
    assert not {"output_dir", "cache_dir", "resume"} & found.keys()


@pytest.mark.parametrize(("kind", "step"), [("step", 13), ("log", 15), ("evaluated", 10), ("saved", 20)])
def test_a_resumed_board_has_no_point_twice_and_lacks_none(world, whole, kind, step):
    run = f"broken-{kind}-{step}"

    def on_event(happened, at):
        if (happened, at) == (kind, step):
            raise Killed

    with pytest.raises(Killed):
        train(settings(world, run, "rapt", **EVERY), on_event)
    train(settings(world, run, "rapt", resume=True, **EVERY))
    one, two = everything(whole), everything(read(world / run))
    assert one.keys() == two.keys()
    for tag, expected in one.items():
        assert two[tag] == expected, tag


def test_a_run_killed_after_its_last_entry_has_no_entry_twice(world, whole, monkeypatch):
    def close(board, close=Board.close):
        close(board)
        raise Killed

    with monkeypatch.context() as patched, pytest.raises(Killed):
        patched.setattr(Board, "close", close)
        train(settings(world, "late", "rapt", **EVERY))
    train(settings(world, "late", "rapt", resume=True, **EVERY))
    board = read(world / "late")
    assert everything(board) == everything(whole)
    for tag in (metadata.SESSION_START_INFO_TAG, metadata.SESSION_END_INFO_TAG):  # they have no value
        assert len(board.Tensors(tag)) == 1, tag


def test_a_finished_run_that_is_resumed_writes_no_point(world, whole):
    before = everything(whole)
    train(settings(world, "whole", "rapt", resume=True, **EVERY))
    assert everything(read(world / "whole")) == before


def test_what_is_shown_of_a_row():
    row = {"id": "1", "text": "t", "tokens": ["a", "b"], "label": 2, "soft_label": [0.5], "more": None}
    shown = TaskType.shown(None, row, Prediction({"id": "1", "masked": 3, "nll": 1.23456}, None))
    assert shown == {"text": "t", "tokens": "a b", "masked": 3, "nll": "1.235"}
    shown = TaskType.shown(None, row, Prediction({"id": "1", "prediction": 4.56789, "label": 2.0, "other": 1}, None))
    assert shown == {"text": "t", "tokens": "a b", "gold": 2.0, "prediction": "4.568"}


def test_what_is_shown_of_a_question():
    row = {"id": "1", "question": "q", "context": "c", "answers": {"text": ["x", "y", "x"], "answer_start": [0, 1, 2]}}
    shown = SpanType.shown(None, row, Prediction({"id": "1", "prediction": ""}, None))
    assert shown == {"question": "q", "context": "c", "gold": "x / y", "prediction": "(no answer)"}
    row["answers"] = {"text": [], "answer_start": []}
    assert SpanType.shown(None, row, Prediction({"prediction": "z"}, None))["gold"] == "(no answer)"
    assert "gold" not in SpanType.shown(None, row | {"answers": None}, Prediction({"prediction": "z"}, None))
