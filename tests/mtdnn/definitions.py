"""Task definitions with the keys and values of MT-DNN's own files, one text per file of its experiments."""

from __future__ import annotations

from typing import Any

import yaml

NLI = ["contradiction", "neutral", "entailment"]
MNLI_SPLITS = ["train", "matched_dev", "mismatched_dev", "matched_test", "mismatched_test"]
QNLI = ["not_entailment", "entailment"]


def words(text: str) -> list[str]:
    return text.split()


NER = words("O B-MISC I-MISC B-PER I-PER B-ORG I-ORG B-LOC I-LOC X CLS SEP")
POS = [*",\\:.", "''", '"', *"()$"] + words(
    "CC CD DT EX FW IN JJ JJR JJS LS MD NN NNP NNPS NNS NN|SYM PDT POS PRP PRP$ RB RBR RBS RP SYM TO UH VB VBD VBG VBN "
    "VBP VBZ WDT WP WP$ WRB X CLS SEP"
)
CHUNK = words(
    "B-ADJP B-ADVP B-CONJP B-INTJ B-LST B-NP B-PP B-PRT B-SBAR B-VP I-ADJP I-ADVP I-CONJP I-INTJ I-LST I-NP I-PP "
    "I-SBAR I-VP O X CLS SEP"
)
PAIR, ONE = "PremiseAndOneHypothesis", "PremiseOnly"
Task = dict[str, Any]


def classes(data_format: str, n: int = 2, labels: list[str] | None = None, **more: Any) -> Task:
    named = {"labels": labels} if labels else {}
    losses = {"loss": "CeCriterion", "kd_loss": "MseCriterion", "adv_loss": "SymKlCriterion"}
    plain = {"data_format": data_format, "enable_san": False, "metric_meta": ["ACC"], "n_class": n}
    return plain | losses | named | {"task_type": "Classification"} | more


def score(**more: Any) -> Task:
    losses = dict.fromkeys(("loss", "kd_loss", "adv_loss"), "MseCriterion")
    return classes(PAIR, 1, metric_meta=["Pearson", "Spearman"], task_type="Regression") | losses | more


def span(task_type: str, data_format: str, metric: str, **more: Any) -> Task:
    return classes(
        data_format, task_type=task_type, metric_meta=[metric], loss="SpanCeCriterion", dropout_p=0.1,
        split_names=["train", "dev"], **more,
    )  # fmt: skip


def tagging(labels: list[str], metric: str = "SeqEval", **more: Any) -> Task:
    return {
        "data_format": "Seqence", "dropout_p": 0.3, "enable_san": False, "labels": labels, "metric_meta": [metric],
        "n_class": len(labels), "loss": "SeqCeCriterion", "split_names": ["train", "dev", "test"],
        "task_type": "SeqenceLabeling", **more,
    }  # fmt: skip


def generated(data_format: str = PAIR, **more: Any) -> Task:
    return classes(data_format, loss="SeqCeCriterion", task_type="SeqenceGeneration", **more)


def without(task: Task, *keys: str) -> Task:
    return {key: value for key, value in task.items() if key not in keys}


def glue(san: bool = False, **more: Any) -> dict[str, Task]:
    pair = {"enable_san": san, **more}
    return {
        "cola": classes(ONE, metric_meta=["ACC", "MCC"], dropout_p=0.05, **more),
        "mnli": classes(PAIR, 3, NLI, split_names=MNLI_SPLITS, dropout_p=0.1, **pair),
        "mrpc": classes(PAIR, metric_meta=["ACC", "F1"], **pair),
        "qnli": classes(PAIR, 2, QNLI, **pair),
        "qqp": classes(PAIR, metric_meta=["ACC", "F1"], **pair),
        "rte": classes(PAIR, 2, QNLI, **pair),
        "scitail": classes(PAIR, 2, ["neutral", "entails"], **pair),
        "snli": classes(PAIR, 3, NLI, **pair),
        "sst": classes(ONE, **more),
        "stsb": score(**more),
        "wnli": classes(PAIR, **pair),
    }


FILES: dict[str, dict[str, Task]] = {
    "glue": glue(),
    "glue_roberta": {k: without(v, "adv_loss") for k, v in glue(san=True, encoder_type="ROBERTA").items()},
    "superglue": {
        "boolq": classes(PAIR, dropout_p=0.1),
        "copa": classes("PremiseAndMultiHypothesis", 1, task_type="Ranking", loss="RankCeCriterion"),
        "cb": classes(PAIR, 3, NLI, dropout_p=0.1),
        "record": classes("ClozeChoice", 1, task_type="ClozeChoice", loss="RankCeCriterion", metric_meta=["EmF1"]),
        "wic": classes(PAIR),
        "multirc": classes(PAIR),
    },
    "squad": {"squad": span("Span", "MRC", "EmF1"), "squad-v2": span("Span", "MRC", "EmF1")},
    "squad_clue": {
        "squad": span("Span", "CLUE_SPAN", "EmF12"),
        "squad-v2": span("SpanYN", "CLUE_SPAN", "EmF12"),
        "record": span("Span", "CLUE_SPAN", "EmF1"),
    },
    "squad_later": {
        "squad": span("SpanClassification", "MRC", "EmF1"),
        "squad-v2": span("SpanClassificationYN", "MRC", "EmF12"),
    },
    "ner": {"ner": tagging(NER), "pos": tagging(POS, dropout_p=0.1), "chunk": tagging(CHUNK, dropout_p=0.1)},
    "ner_roberta": {"ner": without(tagging(NER, "NERACC", encoder_type="ROBERTA"), "loss")},
    "xnli": {"xnli": classes(PAIR, 3, NLI, dropout_p=0.2, split_names=["train", "dev", "test"])},
    "anli": {
        "anli": classes(
            PAIR, 3, ["c", "n", "e"], dropout_p=0.1,
            split_names=[f"r{i}_{part}" for i in (1, 2, 3) for part in ("train", "dev", "test")],
        ),
        "fever": classes(PAIR, 2, NLI, dropout_p=0.1, split_names=["train"]),
    },
    "domain_adaptation": {"scitail": classes(PAIR, 2, ["neutral", "entails"]), "snli": classes(PAIR, 3, NLI)},
    "mlm": {"mlm": classes("MLM", 30522, task_type="MaskLM", loss="MlmCriterion")},
    "ads": {"adsqk": without(classes(PAIR, metric_meta=["ACC", "F1"], enable_san=True), "adv_loss")},
    "old_qnli": {"qnnli": {
        "task_type": "Ranking", "data_format": "PremiseAndMultiHypothesis", "labels": QNLI, "n_class": 1,
        "metric_meta": ["ACC"], "enable_san": False, "encoder_type": "BERT",
    }},
    "generation": {
        "mnli": generated(n=3, dropout_p=0.1, split_names=MNLI_SPLITS), "mrpc": generated(metric_meta=["ACC", "F1"]),
        "sst": generated(ONE), "stsb": score(task_type="SeqenceGeneration"), "cola": generated(ONE, dropout_p=0.05),
    },
    "tutorial": {"snlisample": classes(PAIR, 3, NLI, enable_san=True)},
}  # fmt: skip


def text_of(name: str) -> str:
    """The file as MT-DNN's are written: block style, keys in any order."""
    return yaml.safe_dump(FILES[name], sort_keys=False, default_flow_style=False)
