"""Every definition file of MT-DNN loads as it is; what it asks for and is not here is refused where it is used."""

from __future__ import annotations

from pathlib import Path

import pytest

from mtrobust.cli import main
from mtrobust.errors import UserError
from mtrobust.tasks.base import TASK_TYPES
from mtrobust.tasks.taskdef import load_task_defs, task_defs_yaml
from tests.mtdnn.definitions import FILES, NER, QNLI, text_of

# tasks that cannot be used, and how the message goes on after `file: task.`
REFUSED = {
    ("superglue", "record"): "task_type: ClozeChoice: not supported yet (supported: ",
    ("ner", "pos"): "metric_meta: SeqEval: ",
    ("anli", "fever"): "n_class: 2: but 3 labels (contradiction, neutral, entailment)",
    **{("generation", name): "data_format: Premise" for name in FILES["generation"]},
}


def write(folder: Path, name: str) -> Path:
    path = folder / f"{name}_task_def.yml"
    path.write_text(text_of(name), encoding="utf-8")
    return path


@pytest.mark.parametrize("name", FILES)
def test_a_file_loads_and_its_tasks_can_be_used(tmp_path: Path, name: str) -> None:
    path = write(tmp_path, name)
    tasks = load_task_defs([path], use=())
    assert list(tasks) == list(FILES[name])
    for task, definition in FILES[name].items():
        loaded = tasks[task]
        assert loaded.n_class == definition["n_class"] and loaded.dropout_p == definition.get("dropout_p")
        assert loaded.split_names == definition.get("split_names", ["train", "dev", "test"])
        assert loaded.labels == definition.get("labels", loaded.labels)
        message = REFUSED.get((name, task))
        if loaded.task_type not in TASK_TYPES:
            message = f"task_type: {loaded.task_type}: not supported yet (supported: "
        if message is None:
            assert list(load_task_defs([path], use=[task])) == list(tasks)
            continue
        with pytest.raises(UserError) as caught:
            load_task_defs([path], use=[task])
        lines = [line.removeprefix(f"{path}: {task}.") for line in caught.value.faults]
        assert any(line.startswith(message) for line in lines), lines


def test_what_old_names_mean(tmp_path: Path) -> None:
    tasks = load_task_defs([write(tmp_path, name) for name in ("squad_clue", "ner_roberta", "old_qnli", "mlm")], use=())
    assert (tasks["squad"].task_type, tasks["squad"].data_format) == ("SpanClassification", "MRC")
    assert tasks["squad"].metric_meta == ["EmF1"]  # where every question has an answer, v2.0's scorer is v1.1's
    assert tasks["squad-v2"].task_type == "SpanClassificationYN"
    assert (tasks["ner"].task_type, tasks["ner"].data_format) == ("SequenceLabeling", "Sequence")
    assert tasks["ner"].metric_meta == ["SeqEval"] and tasks["ner"].labels == NER
    assert (tasks["qnnli"].n_class, tasks["qnnli"].labels) == (1, QNLI)
    assert not [fault for fault in tasks["qnnli"].faults() if fault.startswith("n_class")]
    assert tasks["mlm"].metric_meta == ["MaskAcc"]


@pytest.mark.parametrize(
    ("key", "value", "allowed"),
    [
        ("task_type", "Classificaton", "did you mean 'Classification'?"),
        ("task_type", "SpanSeqenceLabeling", None),
        ("data_format", "CLUE_CLASSIFICATION", "Classification takes PremiseOnly, PremiseAndOneHypothesis"),
        ("metric_meta", "[SeqEvalList]", "Classification has ACC, F1"),
        ("metric_meta", "[BLEU]", "(known: ACC, F1"),
        ("loss", "RankCeCriterion", "Classification is trained with CeCriterion"),
        ("loss", "CeCriterium", "did you mean 'CeCriterion'?"),
        ("adv_loss", "JSCriterion", "supported: SymKlCriterion; choose another divergence"),
        ("kd_loss", "JSCriterion", "Classification has ce, kl, mse"),
        ("actf", "swish", "supported: tanh"),
        ("encoder_type", "GPT", "(known: BERT, ROBERTA"),
        ("dropout_p", "1.5", "must be a number >= 0 and < 1"),
        ("n_class", "0", "must be an integer >= 1"),
        ("answer_opt", "1", "unknown (known: "),
    ],
)
def test_an_asked_for_thing_that_is_not_here_names_key_value_and_what_is(
    tmp_path: Path, key: str, value: str, allowed: str | None
) -> None:
    lines = {"task_type": "Classification", "data_format": "PremiseOnly", "n_class": "2", "metric_meta": "[ACC]"}
    path = tmp_path / "old.yml"
    path.write_text("t:\n" + "".join(f"  {k}: {v}\n" for k, v in (lines | {key: value}).items()), encoding="utf-8")
    with pytest.raises(UserError) as caught:
        load_task_defs([path])
    (line,) = [line for line in caught.value.faults if line.startswith(f"{path}: t.{key}")]
    named = {"SpanSeqenceLabeling": "SpanSequenceLabeling"}.get(value, value.strip("[]"))
    assert named in line or key == "answer_opt"
    assert (allowed or "not supported yet (supported: Classification") in line, line


@pytest.mark.parametrize("name", FILES)
def test_a_file_written_out_again_is_the_same(tmp_path: Path, name: str) -> None:
    tasks = load_task_defs([write(tmp_path, name)], use=())
    again = tmp_path / "again.yml"
    again.write_text(task_defs_yaml(tasks.values()), encoding="utf-8")
    assert [task.model_dump() for task in load_task_defs([again], use=()).values()] == [
        task.model_dump() for task in tasks.values()
    ]


def test_methods_of_tasks_are_checked_beside_tasks_that_cannot_be_used(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path, "superglue")
    with path.open("a", encoding="utf-8") as file:
        file.write("mood: {task_type: Classification, data_format: PremiseOnly, n_class: 2, perturb: {name: rapd}}\n")
    words = ["--data_dir", str(tmp_path), "--output_dir", str(tmp_path / "run"), "--model_name_or_path", "m"]
    assert main(["train", "--task_def", str(path), "--train_tasks", "mood", *words]) == 2
    assert "mood.perturb: unknown perturbation method 'rapd'" in capsys.readouterr().err
