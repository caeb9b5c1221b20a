"""The names that `from mtrobust import ...` gives: the same as the commands, and clear about misuse."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import mtrobust
from mtrobust import UserError, api
from tests.evaluation.runs import TASK_DEF, sentence, text_rows, write_data, write_rows, write_run

MOOD = [{"text": sentence(i), "label": ["sad", "calm", "glad"][i % 3]} for i in range(7)]


@pytest.fixture(scope="module")
def defs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("defs") / "defs.yml"
    path.write_text(TASK_DEF, encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory, tiny_model_dir) -> Path:
    folder = tmp_path_factory.mktemp("api")
    return write_run(folder / "run", tiny_model_dir("bert"), write_data(folder / "data"), ["mood", "stsb", "squad"])


@pytest.fixture(scope="module")
def tokenizer(tiny_model_dir):
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(tiny_model_dir("bert"))


def faults(function, *arguments, **more) -> list[str]:
    with pytest.raises(UserError) as error:
        function(*arguments, **more)
    return error.value.faults


def test_the_package_and_the_module_have_the_same_names():
    assert mtrobust.__all__ == api.__all__
    assert all(getattr(mtrobust, name) is getattr(api, name) and name in dir(mtrobust) for name in api.__all__)
    assert all(getattr(api, name).__doc__ for name in api.__all__)
    with pytest.raises(AttributeError, match="no attribute 'trian' .it has: train, load_run"):
        _ = mtrobust.trian


# --- whole runs -------------------------------------------------------------------------------------------------------


def test_all_faults_of_settings_come_at_once(tmp_path: Path):
    given = {"task_def": "glue", "lerning_rate": 1e-5, "num_train_epochs": "many", "perturb": {"name": "raptt"}}
    found = faults(mtrobust.train, **given)
    assert any(line.startswith("lerning_rate: unknown") and "learning_rate" in line for line in found)
    assert "num_train_epochs: many: must be a number > 0" in found
    assert any(line.startswith("perturb: ") and "raptt" in line and "rapt" in line for line in found)
    assert {line.split(":")[0] for line in found if ": missing: " in line} == {
        "data_dir", "model_name_or_path", "output_dir",
    }  # fmt: skip
    assert not any(line.startswith("--") or "give the flag" in line for line in found)
    assert sum(line.startswith("data_dir:") for line in faults(mtrobust.train, **given, data_dir=None)) == 1


def test_settings_are_those_of_a_recipe(tmp_path: Path):
    from mtrobust.config_parse import parse_settings, parse_train

    recipe = tmp_path / "recipe.yml"
    recipe.write_text(
        "task_def: [glue]\ndata_dir: d\ntrain_tasks: mrpc,cola\nmodel_name_or_path: m\noutput_dir: o\n"
        "perturb: [{name: rapt, layers: 1-3}, smart]\nmax_steps: none\nbf16: true\n",
        encoding="utf-8",
    )
    ours = parse_settings({
        "task_def": (Path("glue"),), "data_dir": Path("d"), "train_tasks": ["mrpc", "cola"], "model_name_or_path": "m",
        "output_dir": "o", "perturb": [{"name": "rapt", "layers": "1-3"}, "smart"], "max_steps": None, "bf16": True,
    })  # fmt: skip
    assert ours == parse_train([str(recipe)]).config
    start = {"task_def": "glue", "data_dir": "d", "output_dir": "o"}
    assert parse_settings({**start, "init_from": "runs/a"}).model_name_or_path == "runs/a/model"


def test_predictions_and_metrics_are_those_of_the_commands(run_folder: Path, tmp_path: Path, capsys):
    from mtrobust.cli import main

    run = mtrobust.load_run(run_folder)
    source, target = write_rows(tmp_path / "rows.jsonl", MOOD), tmp_path / "out.jsonl"
    assert main(["predict", str(run_folder), "--task", "mood", "--input", str(source), "--output", str(target)]) == 0
    written = [json.loads(line) for line in target.read_text(encoding="utf-8").split("\n")[:-1]]
    for found in (mtrobust.predict(run, "mood", source), mtrobust.predict(run, "mood", MOOD)):
        assert [one["prediction"] for one in found] == [one["prediction"] for one in written]
        assert [list(one["probabilities"].values()) for one in found] == [
            pytest.approx(list(one["probabilities"].values())) for one in written
        ]
    assert main(["evaluate", str(run_folder), "--tasks", "mood,stsb"]) == 0
    kept = json.loads((run_folder / "all_results.json").read_text(encoding="utf-8"))
    found = mtrobust.evaluate(run, ["mood", "stsb"])
    assert found == {task: pytest.approx(kept[task]) for task in ("mood", "stsb")}


def test_rows_keep_their_order_and_get_ids(run_folder: Path):
    run = mtrobust.load_run(run_folder)
    rows = [{"text": "A film."}, {"text": "A dull bridge near the river.", "id": "x"}, {"text": "A film."}]
    found = mtrobust.predict(run, "mood", rows)
    assert [one["id"] for one in found] == ["0", "x", "2"]
    assert found[0]["probabilities"] == pytest.approx(found[2]["probabilities"])


def test_misuse_of_a_run_is_said(run_folder: Path, tmp_path: Path):
    run = mtrobust.load_run(run_folder)
    assert faults(mtrobust.predict, run, "moood", MOOD) == [
        "moood: the run has no such task; did you mean 'mood'? (its tasks: mood, stsb, squad)"
    ]
    bad = [{"text": "A cat."}, {"txt": "A cat."}, "A cat.", {"text": "A cat.", "label": "angry"}]
    found = faults(mtrobust.predict, run, "mood", bad)
    assert [line.split(" ")[0] for line in found] == ["rows[1]:", "rows[2]:", "rows[3]:"]
    assert found[1] == "rows[2]: row: must be a mapping of fields, not str"
    assert faults(mtrobust.predict, run, "mood", []) == ["rows: has no rows"]
    for given in (None, 5):
        assert faults(mtrobust.predict, run, "mood", given) == [f"rows: {given}: must be a file, or mappings of fields"]
    none = tmp_path / "none"
    assert faults(mtrobust.evaluate, run, data_dir=none) == [f"data_dir: {none}: no such folder"]
    assert "no such run folder" in faults(mtrobust.load_run, none)[0]


def test_half_a_character_is_refused_in_mappings_as_in_files(run_folder: Path, defs: Path):
    run, told = mtrobust.load_run(run_folder), "row: holds half of a surrogate pair"
    (line,) = faults(mtrobust.predict, run, "mood", [{"text": "A cat."}, {"text": "A \ud800."}])
    assert line.startswith(f"rows[1]: {told}")
    (line,) = faults(mtrobust.predict, run, "mood", [{"text": "A cat.", "notes": [{"by": "\udfff"}]}])
    assert line.startswith(f"rows[0]: {told}")
    rows = [{"text": "A \U0001f600.", "made": {Path("x"), 3}, 4: "of a number"}]  # further columns are any objects
    assert len(mtrobust.predict(run, "mood", rows)) == 1


def test_arguments_of_an_evaluation_are_checked(run_folder: Path):
    run = mtrobust.load_run(run_folder)
    for size in (0, -1, 2.5, True, "8"):
        assert faults(mtrobust.evaluate, run, "mood", batch_size=size) == [
            f"batch_size: {size!r}: must be an integer >= 1"
        ]
    assert mtrobust.evaluate(run, "mood", batch_size=3) == mtrobust.evaluate(run, ["mood"], batch_size=3)
    assert faults(mtrobust.evaluate, run, 5, batch_size=0) == [
        "batch_size: 0: must be an integer >= 1", "tasks: 5: must be a task's name, or several",
    ]  # fmt: skip
    assert faults(mtrobust.evaluate, run, [5]) == ["5: the run has no such task (its tasks: mood, stsb, squad)"]


@pytest.mark.parametrize("device", ["nodevice", "cuda:99", "cpu:x", ""])
def test_a_device_that_is_not_there_is_said(run_folder: Path, device: str):
    (line,) = faults(mtrobust.load_run, run_folder, device)
    assert line.startswith(f"device: {device or repr(device)}: must be one that is here: cpu")


# --- parts ------------------------------------------------------------------------------------------------------------


def test_definitions_and_rows(defs: Path):
    assert list(mtrobust.load_task_defs("glue"))[:2] == list(mtrobust.load_task_defs(["glue"]))[:2]
    task = mtrobust.load_task_defs(defs)["mood"]
    assert [row["label"] for row in mtrobust.read_rows(task, MOOD)] == [0, 1, 2, 0, 1, 2, 0]
    assert "no such task-definition file" in faults(mtrobust.load_task_defs, "gluee")[0]


def test_batches_have_each_row_once_an_epoch(defs: Path, tokenizer):
    task = mtrobust.load_task_defs(defs)["mood"]
    rows = mtrobust.read_rows(task, MOOD)

    def order(seed: int) -> list[list[int]]:
        return [b.row_ids.tolist() for b in mtrobust.batches(task, rows, tokenizer, batch_size=3, epochs=2, seed=seed)]

    made = list(mtrobust.batches(task, rows, tokenizer, batch_size=3, epochs=2, seed=4))
    assert [batch.step for batch in made] == [0, 1, 2, 3, 4, 5]
    assert [len(batch.row_ids) for batch in made] == [3, 3, 1, 3, 3, 1]
    one, two = sum(order(4)[:3], []), sum(order(4)[3:], [])
    assert sorted(one) == sorted(two) == list(range(7)) and one != two
    assert order(4) == order(4) != order(5)
    for batch in made:
        assert batch.targets["labels"].tolist() == [rows[i]["label"] for i in batch.row_ids]


@pytest.mark.parametrize("kind", ["Ranking", "MultipleChoice"])
def test_batches_have_whole_lists(kind: str, tiny_model_dir, tokenizer):
    import torch

    from mtrobust.tasks.taskdef import TaskDef

    task = TaskDef(name="lists", task_type=kind, data_format="PremiseAndMultiHypothesis")
    sizes = [2, 4, 3, 2, 5]
    given = [
        {"text": sentence(i), "candidates": [sentence(i + j) for j in range(size)], "label": size - 1}
        for i, size in enumerate(sizes)
    ]
    rows = mtrobust.read_rows(task, given)
    starts = {sum(sizes[:i]): size for i, size in enumerate(sizes)}
    step = mtrobust.build_step(mtrobust.build_model(str(tiny_model_dir("bert")), {"lists": task})).eval()
    orders = []
    for epoch in range(2):
        made = list(mtrobust.batches(task, rows, tokenizer, batch_size=2, epochs=2, seed=3))[3 * epoch : 3 * epoch + 3]
        orders.append(sum((batch.row_ids.tolist() for batch in made), []))
        for batch, count in zip(made, [2, 2, 1], strict=True):
            begins = [i for i, place in enumerate(batch.targets["place"].tolist()) if place == 0]
            ends = [*begins[1:], len(batch.row_ids)]
            scores, losses = step.model(batch)["logits"][:, 0], []
            for begin, end in zip(begins, ends, strict=True):
                ids = batch.row_ids[begin:end].tolist()
                assert ids == list(range(ids[0], ids[0] + starts[ids[0]]))
                losses.append(scores[begin:end].logsumexp(0) - scores[end - 1])
            assert len(begins) == count
            torch.testing.assert_close(step(batch).loss, torch.stack(losses).mean())
    assert sorted(orders[0]) == sorted(orders[1]) == list(range(sum(sizes))) and orders[0] != orders[1]


def test_misuse_of_batches_is_said(defs: Path, tokenizer):
    task = mtrobust.load_task_defs(defs)["mood"]
    found = faults(mtrobust.batches, task, [], tokenizer, batch_size=0)
    assert found == ["batch_size: 0: must be an integer >= 1", "rows: none are given"]
    rows = mtrobust.read_rows(task, MOOD)
    found = faults(mtrobust.batches, task, rows, tokenizer, batch_size=2.5, epochs=-1, seed=-1, max_len=0)
    assert found == [
        "batch_size: 2.5: must be an integer >= 1",
        "epochs: -1: must be an integer >= 1",
        "seed: -1: must be an integer >= 0",
        "max_len: 0: must be an integer >= 8",
    ]


def test_a_step_is_the_task_loss_and_its_methods(defs: Path, tiny_model_dir, tokenizer):
    import torch

    tasks = {name: task for name, task in mtrobust.load_task_defs(defs).items() if name in ("mood", "stsb")}
    model = mtrobust.build_model(str(tiny_model_dir("bert")), tasks)
    rows = mtrobust.read_rows(tasks["mood"], MOOD)
    (batch,) = mtrobust.batches(tasks["mood"], rows, tokenizer, batch_size=7)
    plain = mtrobust.build_step(model).eval()(batch)
    logits = model.eval()(batch)["logits"]
    assert plain.loss.item() == pytest.approx(torch.nn.functional.cross_entropy(logits, batch.targets["labels"]).item())
    assert set(plain.terms) == {"task"}
    both = mtrobust.build_step(model, ["rapt", {"name": "smart", "layers": "words", "alpha": 2}], seed=3).eval()(batch)
    assert set(both.terms) == {"task", "rapt/reg", "smart/reg"}
    parts = both.terms["task"] + both.terms["rapt/reg"] + 2 * both.terms["smart/reg"]
    assert both.loss.item() == pytest.approx(parts.item(), rel=1e-5)


def test_a_checkpoint_in_half_precision_is_trained_in_float32(defs: Path, tmp_path: Path, tiny_model_dir):
    import torch
    from transformers import AutoModel

    AutoModel.from_pretrained(tiny_model_dir("bert"), dtype="bfloat16").save_pretrained(tmp_path)
    model = mtrobust.build_model(str(tmp_path), {"mood": mtrobust.load_task_defs(defs)["mood"]})
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


def test_a_decoder_comes_with_its_checkpoint(tmp_path: Path):
    import torch
    from transformers import AutoTokenizer, T5ForConditionalGeneration

    from tests.t5 import question_rows, write_t5

    folder, tasks = write_t5(tmp_path / "t5"), mtrobust.load_task_defs("generation")
    model = mtrobust.build_model(str(folder), tasks)
    ((name, task),) = tasks.items()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    (batch,) = mtrobust.batches(task, mtrobust.read_rows(task, question_rows(4, 1)), tokenizer, batch_size=4)
    inputs = {key: batch.inputs[key] for key in ("input_ids", "attention_mask")}
    whole = T5ForConditionalGeneration.from_pretrained(folder)(**inputs, labels=batch.targets["labels"])
    assert torch.isclose(mtrobust.build_step(model).eval()(batch).loss, whole.loss, rtol=1e-5), name


def test_a_loop_of_ones_own_learns(defs: Path, tiny_model_dir, tokenizer):
    import torch

    task = mtrobust.load_task_defs(defs)["mood"]
    model = mtrobust.build_model(str(tiny_model_dir("bert")), {"mood": task})
    for module in model.modules():  # so few steps learn little through dropout
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    step = mtrobust.build_step(model, {"name": "rapt", "layers": "1-2", "eta": 0.1}, seed=1)
    optimizer = torch.optim.AdamW(step.parameters(), lr=3e-3)
    losses = []
    for batch in mtrobust.batches(task, mtrobust.read_rows(task, MOOD), tokenizer, batch_size=7, epochs=40, seed=1):
        out = step(batch)
        out.loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(out.terms["task"].item())
    assert losses[-1] < 0.6 * losses[0]


@pytest.mark.parametrize(
    ("perturb", "told"),
    [
        ("raptt", "did you mean 'rapt'?"),
        ({"name": "rapt", "layers": "1-9"}, "the encoder has 3 layers"),
        ({"name": "rapt", "etaa": 1}, "did you mean 'eta'?"),
        ("rapt,rapt", "named twice"),
        (5, "must be a method's name or"),
        (["standard", "rapt"], "stands alone"),
    ],
)
def test_misuse_of_methods_is_said(perturb, told: str, defs: Path, tiny_model_dir):
    task = mtrobust.load_task_defs(defs)["mood"]
    model = mtrobust.build_model(str(tiny_model_dir("bert")), {"mood": task})
    found = faults(mtrobust.build_step, model, perturb)
    assert len(found) == 1 and found[0].startswith("perturb") and told in found[0]


def test_misuse_of_models_is_said(defs: Path, tmp_path: Path, tiny_model_dir):
    task = mtrobust.load_task_defs(defs)["mood"]
    assert "no model found there" in faults(mtrobust.build_model, str(tmp_path), {"mood": task})[0]
    assert faults(mtrobust.build_model, str(tiny_model_dir("bert")), {}) == [
        "tasks: none is given; a model has a head for each"
    ]


def test_what_trains_is_exported(defs: Path, tmp_path: Path, tiny_model_dir):
    data = write_rows(tmp_path / "data/mood/train.jsonl", MOOD).parent.parent
    write_rows(data / "mood/dev.jsonl", text_rows(4, ["sad", "calm", "glad"], pair=False))
    results = mtrobust.train(
        task_def=defs, data_dir=data, train_tasks="mood", model_name_or_path=tiny_model_dir("bert"), use_cpu=True,
        output_dir=tmp_path / "run", perturb={"name": "rapt", "layers": "1-2"}, max_steps=2, progress="off",
        max_eval_samples=1,
    )  # fmt: skip
    assert set(results) == {"mood", "train"} and results["train"]["steps"] == 2
    run = mtrobust.load_run(tmp_path / "run")
    assert mtrobust.evaluate(run)["mood"]["acc"] == pytest.approx(results["mood"]["acc"])
    found = [line["prediction"] for line in mtrobust.predict(run, "mood", data / "mood/dev.jsonl")]
    golds = [row["label"] for row in mtrobust.read_rows(run.task("mood"), data / "mood/dev.jsonl")]
    right = [run.task("mood").labels.index(name) == gold for name, gold in zip(found, golds, strict=True)]
    assert mtrobust.evaluate(run, all_rows=True)["mood"]["acc"] == pytest.approx(100 * sum(right) / 4)
    assert mtrobust.export(run, "mood", tmp_path / "plain") == tmp_path / "plain"
    from transformers import pipeline

    text = MOOD[0]["text"]
    (plain,) = pipeline("text-classification", model=str(tmp_path / "plain"))(text)
    assert plain["label"] == mtrobust.predict(run, "mood", [{"text": text}])[0]["prediction"]
