"""Task definitions: the shipped files, MT-DNN's own schema, and every kind of fault in one go."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from data_prep.labels import LABELS
from mtrobust.errors import UserError
from mtrobust.tasks.base import TASK_TYPES
from mtrobust.tasks.taskdef import TaskDef, find_task_def, load_task_defs, shipped_task_defs, task_defs_yaml

# Written in the manner of MT-DNN's files: their keys, values and spellings (two generations of them).
MTDNN = """
cola:
  data_format: PremiseOnly
  dropout_p: 0.05
  enable_san: false
  metric_meta:
  - ACC
  - MCC
  loss: CeCriterion
  kd_loss: MseCriterion
  adv_loss: SymKlCriterion
  n_class: 2
  task_type: Classification
mnli:
  data_format: PremiseAndOneHypothesis
  encoder_type: BERT
  enable_san: False
  labels:
  - contradiction
  - neutral
  - entailment
  metric_meta: [ACC]
  n_class: 3
  split_names: [train, matched_dev, mismatched_dev, matched_test, mismatched_test]
  task_type: Classification
stsb:
  data_format: PremiseAndOneHypothesis
  enable_san: false
  metric_meta: [Pearson, Spearman]
  n_class: 1
  loss: MseCriterion
  kd_loss: MseCriterion
  adv_loss: MseCriterion
  task_type: Regression
squad:
  data_format: MRC
  enable_san: false
  metric_meta: [EmF1]
  n_class: 2
  task_type: Span
  loss: SpanCeCriterion
squad-v2:
  data_format: CLUE_SPAN
  dropout_p: 0.1
  enable_san: false
  metric_meta: [EmF12]
  n_class: 2
  task_type: SpanYN
  loss: SpanCeCriterion
  kd_loss: MseCriterion
  adv_loss: SymKlCriterion
"""
MTDNN_LATER = """
ner:
  data_format: Seqence
  dropout_p: 0.3
  enable_san: False
  labels: [O, B-PER, X, CLS, SEP]
  metric_meta: [SeqEval]
  n_class: 5
  loss: SeqCeCriterion
  task_type: SeqenceLabeling
copa:
  data_format: PremiseAndMultiHypothesis
  enable_san: false
  metric_meta: [ACC]
  loss: RankCeCriterion
  n_class: 1
  task_type: Ranking
spans:
  data_format: Seqence
  labels: [O, B-PER]
  metric_meta: [ACC]
  n_class: 2
  task_type: SpanSeqenceLabeling
cloze:
  data_format: ClozeChoice
  metric_meta: [ACC]
  n_class: 1
  task_type: ClozeChoice
snlisample:
  data_format: PremiseAndOneHypothesis
  enable_san: true
  labels: [contradiction, neutral, entailment]
  metric_meta: [ACC]
  n_class: 3
  task_type: Classification
boolq:
  data_format: PremiseAndOneHypothesis
  metric_meta: [ACC]
  n_class: 2
  task_type: Classification
"""
SOUND = {"task_type": "Classification", "data_format": "PremiseOnly", "labels": ["a", "b"]}


def write(folder: Path, text: str, name: str = "tasks.yml") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def faults(*paths: Path | str, **kwargs) -> list[str]:
    with pytest.raises(UserError) as caught:
        load_task_defs(list(paths), **kwargs)
    return caught.value.faults


def one_task(folder: Path, body: str) -> list[str]:
    """Faults of `t`, a classification task with some lines added."""
    base = {"task_type": "Classification", "data_format": "PremiseOnly", "labels": "[a, b]"}
    given = {line.split(":")[0] for line in body.splitlines() if not line.startswith(" ")}
    lines = [f"{k}: {v}" for k, v in base.items() if k not in given] + body.splitlines()
    path = write(folder, "t:\n" + "".join(f"  {line}\n" for line in lines if not line.endswith(": ABSENT")))
    return [line.removeprefix(f"{path}: ") for line in faults(path)]


def test_shipped_files_are_sound_and_agree_with_the_prepared_labels() -> None:
    assert set(shipped_task_defs()) >= {"glue", "squad", "textcls"}
    tasks = load_task_defs(["glue", "squad", "textcls", "nli"])
    assert {name: tuple(tasks[name].labels) for name in LABELS} == LABELS
    assert set(tasks) - set(LABELS) == {"stsb", "squad", "squad2"}
    assert tasks["mnli"].dev_splits == ["matched_dev", "mismatched_dev"]
    assert tasks["mnli"].test_splits == ["matched_test", "mismatched_test"]
    assert tasks["rte"].train_splits == ["train"] and tasks["rte"].dev_splits == ["dev"]
    assert tasks["cola"].metric_meta[0] == "MCC"


def test_mtdnn_file_loads_unchanged(tmp_path: Path) -> None:
    tasks = load_task_defs([write(tmp_path, MTDNN)])
    assert [task.task_type for task in tasks.values()] == [
        "Classification", "Classification", "Regression", "SpanClassification", "SpanClassificationYN",
    ]  # fmt: skip
    assert tasks["cola"].labels == ["0", "1"] and tasks["cola"].dropout_p == 0.05
    assert tasks["mnli"].labels == ["contradiction", "neutral", "entailment"]
    assert tasks["stsb"].labels == [] and tasks["stsb"].n_class == 1
    assert tasks["squad-v2"].data_format == "MRC"
    assert tasks["cola"].split_names == ["train", "dev", "test"]
    for task in tasks.values():
        assert type(task.type) is TASK_TYPES[task.task_type]


def test_mtdnn_tasks_without_code_are_refused_only_where_used(tmp_path: Path) -> None:
    path = write(tmp_path, MTDNN_LATER)
    found = faults(path)
    assert [line.split(": ")[1] for line in found] == ["spans.task_type", "cloze.task_type"]
    assert "ClozeChoice: not supported yet (supported: Classification" in found[1]
    tasks = load_task_defs([path], use=["boolq", "ner", "copa"])
    assert list(tasks) == ["ner", "copa", "spans", "cloze", "snlisample", "boolq"]
    assert tasks["ner"].task_type == "SequenceLabeling" and tasks["ner"].data_format == "Sequence"
    assert tasks["copa"].metric_meta == ["TopACC"]
    with pytest.raises(UserError, match="cloze.task_type: ClozeChoice: not supported yet"):
        _ = tasks["cloze"].type
    assert len(faults(path, use=["boolq", "cloze"])) == 1


def test_emf12_on_questions_that_all_have_answers_is_emf1(tmp_path: Path) -> None:
    path = write(tmp_path, "squad: {data_format: CLUE_SPAN, metric_meta: [EmF12], task_type: Span, n_class: 2}")
    assert load_task_defs([path])["squad"].metric_meta == ["EmF1"]


def test_additions(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        """
t:
  task_type: Classification
  data_format: PremiseAndOneHypothesis
  labels: [contradiction, neutral, entailment]
  max_len: 64
  batch_size: 8
  weight: 2
  data: nli/mnli
  perturb: [standard, {name: smart, layers: 1-3}]
  eval_sets:
    hans:
      labels: [non-entailment, entailment]
      map: {contradiction: non-entailment, neutral: non-entailment}
      group_by: heuristic
""",
    )
    task = load_task_defs([path])["t"]
    assert task.n_class == 3 and task.metric_meta == ["ACC"] and task.weight == 2.0
    assert task.perturb is not None
    assert [(p.name, p.options) for p in task.perturb] == [("standard", {}), ("smart", {"layers": "1-3"})]
    assert task.eval_sets["hans"].map["neutral"] == "non-entailment"
    assert load_task_defs([write(tmp_path, task_defs_yaml([task]), "again.yml")]) == {"t": task}


def test_definitions_survive_writing_and_loading(tmp_path: Path) -> None:
    tasks = load_task_defs(["glue", "squad", "textcls"]) | load_task_defs([write(tmp_path, MTDNN, "m.yml")])
    odd = TaskDef(
        name="odd", **(SOUND | {"labels": ["no", "1", "null", "é: x", "1e5", "true", "2020-01-01", "[a]", "it's"]})
    )
    tasks["odd"] = odd
    assert load_task_defs([write(tmp_path, task_defs_yaml(tasks.values()))]) == tasks


def test_a_copy_has_its_own_type() -> None:
    task = TaskDef(name="t", **SOUND)
    copy = task.model_copy(update={"labels": ["x", "y"]})
    assert task.type.task is task and task.type is task.type
    assert copy.type.task is copy


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("lables: [a]", "t.lables: unknown; did you mean 'labels'?"),
        ("name: x", "t.name: unknown"),
        ("task_type: Clasification", "t.task_type: Clasification: unknown; did you mean 'Classification'?"),
        ("task_type: ABSENT", "t.task_type: missing: what kind of task it is"),
        ("task_type: [a]", "t.task_type: ['a']: must be one of Classification"),
        ("data_format: PremiseAndOneHypotesis", "unknown; did you mean 'PremiseAndOneHypothesis'?"),
        ("data_format: MRC", "t.data_format: MRC: Classification takes PremiseOnly, PremiseAndOneHypothesis"),
        ("metric_meta: [ACC, F2]", "t.metric_meta: "),
        ("metric_meta: []", "t.metric_meta: []: must be a list of at least one of ACC"),
        ("metric_meta: [Pearson]", "t.metric_meta: Pearson: Classification has ACC"),
        ("labels: [true, b]", "t.labels: "),
        ("labels: [a, null]", "quote the label"),
        ('labels: ["\\ud800", b]', r"'\ud800': a label is one line of characters"),
        ('labels: ["a\\tb", b]', r"'a\tb': a label is one line"),
        ('labels: ["a\\nb", b]', r"'a\nb': a label is one line"),
        ('labels: ["a\\0", b]', r"'a\x00': a label is one line"),
        ('eval_sets: {s: {labels: ["\\ud800", b]}}', r"t.eval_sets.s.labels: "),
        ("labels: a", "t.labels: must be a list of label names"),
        ("labels: [a, a]", "t.labels: a: named twice"),
        ("labels: [a]", "Classification needs at least 2"),
        ("labels: ABSENT", "t.n_class: missing"),
        ("n_class: 3", "t.n_class: 3: but 2 labels (a, b)"),
        ("n_class: two", "t.n_class: two: must be an integer >= 1"),
        ("n_class: true", "t.n_class: True: must be an integer >= 1"),
        ("dropout_p: 1.5", "t.dropout_p: 1.5: must be a number >= 0 and < 1, or none"),
        ("dropout_p: .nan", "t.dropout_p: nan: must be a number"),
        ("weight: 0", "t.weight: 0: must be a number > 0"),
        ("weight: .inf", "(finite)"),
        ("max_len: 4", "t.max_len: 4: must be an integer >= 8, or none"),
        ("batch_size: -1", "t.batch_size: -1: must be an integer >= 1, or none"),
        (
            "enable_san: true",
            "t.enable_san: true: reads two texts (supported: Classification, Regression with data_for",
        ),
        ("san_steps: 3", "t.san_steps: only with enable_san: true"),
        ("enable_san: true\nhead_input: mean", "t.head_input: mean: not with enable_san: true"),
        ("head_input: last", "t.head_input: last: must be one of: family, pooler, first, mean"),
        ("head_input: pooler\nactf: silu", "t.actf: silu: supported: tanh, relu, gelu"),
        ("kd_weight: 2", "t.kd_weight: 2: must be a number >= 0 and <= 1"),
        ("kd_temperature: 0", "t.kd_temperature: 0: must be a number > 0"),
        ("kd_loss: mse\nkd_temperature: 2", "t.kd_temperature: 2: only with kd_loss ce or kl, not mse"),
        ("kd_loss: JSCriterion", "t.kd_loss: JSCriterion: Classification has ce, kl, mse"),
        (
            "task_type: SpanClassification\ndata_format: MRC\nlabels: ABSENT\nhead_input: mean\nkd_weight: 0.3",
            "t.head_input: mean: only for Classification, Regression, Ranking; SpanClassification: family",
        ),
        (
            "task_type: MaskLM\ndata_format: MLM\nlabels: ABSENT\nkd_temperature: 2",
            "t.kd_temperature: only for Classification, Regression",
        ),
        ("enable_san: maybe", "t.enable_san: maybe: must be true or false"),
        ("loss: MseCriterion", "t.loss: MseCriterion: Classification is trained with CeCriterion"),
        ("loss: CEriterion", "t.loss: CEriterion: unknown; did you mean 'CeCriterion'?"),
        ("adv_loss: JSCriterion", "t.adv_loss: JSCriterion: supported: SymKlCriterion"),
        ("kd_loss: MseLoss", "t.kd_loss: MseLoss: unknown"),
        ("actf: gelu", "t.actf: gelu: supported: tanh (others with head_input: pooler"),
        ("encoder_type: GPT", "t.encoder_type: GPT: unknown"),
        ("split_names: [train, ../dev]", "t.split_names: "),
        ("split_names: [dev, dev]", "a split is named twice"),
        ("split_names: dev", "t.split_names: dev: must be a list of names"),
        ("data: ../secret", "t.data: ../secret: must be a folder inside the data folder"),
        ("data: /tmp", "t.data: /tmp: must be a folder inside the data folder"),
        ("doc_stride: 64", "t.doc_stride: only for span tasks"),
        ("span_positions: some", "t.span_positions: some: must be one of: passage, all"),
        ("perturb: [{layers: 3}]", "t.perturb: "),
        ("perturb: [{name: rapt, eta: 1, options: {eta: 2}}]", "rapt.eta: written twice, also in options"),
        ("eval_sets: [imdb]", "t.eval_sets: ['imdb']: must be a mapping of set names"),
        ("eval_sets: {imdb: 3}", "t.eval_sets.imdb: 3: must be a mapping"),
        ("eval_sets: {imdb: {mapp: {}}}", "t.eval_sets.imdb.mapp: unknown; did you mean 'map'?"),
        ("eval_sets: {x: {data: /etc}}", "t.eval_sets.x.data: /etc: must be a folder inside the data folder"),
        ("eval_sets: {x: {data: ../x}}", "t.eval_sets.x.data: ../x: must be a folder inside the data folder"),
        ("eval_sets: {x: {data: ''}}", "t.eval_sets.x.data: '': must be a folder inside the data folder"),
        ("eval_sets: {x: {split: ../../outside/z}}", "t.eval_sets.x.split: '../../outside/z': a split's name is made"),
        (
            "eval_sets: {imdb: {labels: [c, d]}}",
            "t.eval_sets.imdb.map: a: not mapped, and: not among the set's labels (c, d)",
        ),
        ("eval_sets: {imdb: {map: {x: a}}}", "t.eval_sets.imdb.map: x: not a label of the task"),
        ("eval_sets: {imdb: {map: {a: q}}}", "t.eval_sets.imdb.map: a -> q: not among the set's labels (a, b)"),
        ("3: x", "t: 3: a key must be a text"),
    ],
)
def test_bad_key(tmp_path: Path, body: str, message: str) -> None:
    found = one_task(tmp_path, body)
    assert any(message in line for line in found), found


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no tasks"),
        ("- a\n", "must be a mapping"),
        ("t: 3\n", "t: must be a mapping of keys, not 3"),
        ("a: {b: [}\n", "not valid YAML"),
        ("t:\n  labels: [a]\n  labels: [b]\n", "key 'labels' is written twice"),
        ("t:\n  enable_san: !!bool maybe\n", ":2: not valid YAML: 'maybe' cannot be read as bool"),
        ('t:\n  weight: !!float ""\n', ":2: not valid YAML: '' cannot be read as float"),
        ("t:\n  max_len: !!timestamp foo\n", ":2: not valid YAML: 'foo' cannot be read as timestamp"),
        ("t:\n  max_len: !!int x\n", ":2: not valid YAML: 'x' cannot be read as int"),
        ("train: {task_type: Classification, data_format: PremiseOnly, n_class: 2}\n", "a task's name is made of"),
        ("a.b: {task_type: Classification, data_format: PremiseOnly, n_class: 2}\n", "a.b: a task's name is made of"),
        ("a/b: {task_type: Classification, data_format: PremiseOnly, n_class: 2}\n", "a/b: a task's name is made of"),
    ],
)
def test_bad_file(tmp_path: Path, text: str, message: str) -> None:
    path = write(tmp_path, text)
    found = faults(path)
    assert len(found) == 1 and found[0].startswith(str(path)) and message in found[0]


def test_a_bad_name_stands_once_in_its_fault(tmp_path: Path) -> None:
    path = write(tmp_path, "a b: {task_type: Regression, data_format: PremiseOnly}\n")
    rule = "a task's name is made of letters, digits, - and _ (and is not train or mean)"
    assert faults(path) == [f"{path}: a b: {rule}"]


def test_all_faults_of_all_files_at_once(tmp_path: Path) -> None:
    one = write(
        tmp_path, "t: {task_type: Classification, data_format: Premise, weight: -1, n_class: 2, x: 1}\nu: 1\n", "1.yml"
    )
    two = write(tmp_path, "t: {task_type: Regression, data_format: PremiseOnly}\n", "2.yml")
    latin = tmp_path / "3.yml"
    latin.write_bytes("t:\n  labels: [caf\u00e9]\n".encode("latin-1"))
    found = faults(one, two, latin, tmp_path / "absent.yml", "gleu", tmp_path)
    places = [line.split(": ")[0].removeprefix(str(tmp_path) + "/") + ": " + line.split(": ")[1] for line in found]
    assert sorted(places[:4]) == ["1.yml: t.data_format", "1.yml: t.weight", "1.yml: t.x", "1.yml: u"]
    assert found[4] == f"{two}: t: already defined in {one}"
    assert found[5].startswith(f"{latin}:2: byte ")
    assert "absent.yml: no such task-definition file (shipped: " in found[6]
    assert "gleu: no such task-definition file; did you mean 'glue'?" in found[7]
    assert found[8] == f"{tmp_path}: is a folder; a task definition is a YAML file"
    assert len(found) == 9


def test_a_file_beats_a_shipped_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert find_task_def("glue") == shipped_task_defs()["glue"]
    Path("glue").write_text("t: {task_type: Regression, data_format: PremiseOnly}\n", encoding="utf-8")
    assert list(load_task_defs(["glue"])) == ["t"]


def test_definitions_need_no_heavy_library() -> None:
    code = (
        "import sys; from mtrobust.tasks.taskdef import load_task_defs; import mtrobust.data.rows;"
        "load_task_defs(['glue', 'squad']);"
        "print([m for m in ('torch', 'transformers', 'sklearn', 'scipy', 'datasets', 'pyarrow') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2]
    )
    assert done.stdout.strip() == "[]"
