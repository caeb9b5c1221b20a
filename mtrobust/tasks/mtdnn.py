"""The vocabulary of MT-DNN's task-definition files: its names (misspelt ones too) and what they mean here.

Names that MT-DNN knows and this version has no code for are kept in the tables, so that such a file is understood and
refused by name only where the task is used.
"""

from __future__ import annotations

# task type as written -> our name
TASK_TYPES = {
    "Classification": "Classification",
    "Regression": "Regression",
    "Ranking": "Ranking",
    "Span": "SpanClassification",
    "SpanClassification": "SpanClassification",
    "SpanYN": "SpanClassificationYN",
    "SpanClassificationYN": "SpanClassificationYN",
    "SeqenceLabeling": "SequenceLabeling",
    "SequenceLabeling": "SequenceLabeling",
    "SpanSeqenceLabeling": "SpanSequenceLabeling",
    "SpanSequenceLabeling": "SpanSequenceLabeling",
    "MaskLM": "MaskLM",
    "SeqenceGeneration": "SequenceGeneration",
    "SequenceGeneration": "SequenceGeneration",
    "SeqenceGenerationMRC": "SequenceGenerationMRC",
    "SequenceGenerationMRC": "SequenceGenerationMRC",
    "EncSeqenceGeneration": "EncSequenceGeneration",
    "EncSequenceGeneration": "EncSequenceGeneration",
    "ClozeChoice": "ClozeChoice",
}

DATA_FORMATS = {
    "PremiseOnly": "PremiseOnly",
    "PremiseAndOneHypothesis": "PremiseAndOneHypothesis",
    "PremiseAndMultiHypothesis": "PremiseAndMultiHypothesis",
    "MRC": "MRC",
    "CLUE_SPAN": "MRC",
    "Seqence": "Sequence",
    "Sequence": "Sequence",
    "CLUE_SEQ": "Sequence",
    "MLM": "MLM",
    "CLUE_CLASSIFICATION": "CLUE_CLASSIFICATION",
    "CLUE_GEN": "Generation",
    "Generation": "Generation",
    "ClozeChoice": "ClozeChoice",
}

_METRICS = "ACC F1 F1MAC F1MIC MCC Pearson Spearman AUC SeqEval SeqEvalList EmF1 EmF12 CMAT"
METRICS = {name: name for name in _METRICS.split()} | {"NERACC": "SeqEval"}

# task type -> metrics that are another one on its data: where every question has an answer, v2.0's scorer is v1.1's;
# the accuracy of masked tokens, of tags and of the candidate with the highest score is called as that of labels
SAME_METRICS = {
    "SpanClassification": {"EmF12": "EmF1"},
    "MaskLM": {"ACC": "MaskAcc"},
    "SequenceLabeling": {"ACC": "TagACC"},
    "Ranking": {"ACC": "TopACC"},
    "MultipleChoice": {"ACC": "TopACC"},
}

_CRITERIA = (
    "CeCriterion MseCriterion RegCriterion RankCeCriterion SpanCeCriterion SpanYNCeCriterion SeqCeCriterion "
    "MlmCriterion KlCriterion SymKlCriterion NsKlCriterion NsSymKlCriterion JSCriterion HLCriterion"
)
CRITERIA = tuple(_CRITERIA.split())

_ENCODERS = "BERT ROBERTA XLNET SAN XLM DEBERTA ELECTRA T5 T5G MSRT5 MSRT5G MSRLONGT5 MSRLONGT5G"
ENCODER_TYPES = tuple(_ENCODERS.split())

# task type -> the training loss that its head has, under MT-DNN's names for it
LOSSES = {
    "Classification": ("CeCriterion",),
    "Regression": ("MseCriterion", "RegCriterion"),
    "Ranking": ("RankCeCriterion",),
    "MultipleChoice": ("RankCeCriterion",),
    "SpanClassification": ("SpanCeCriterion",),
    "SpanClassificationYN": ("SpanCeCriterion", "SpanYNCeCriterion"),
    "SequenceLabeling": ("SeqCeCriterion",),
    "MaskLM": ("MlmCriterion",),
    "SequenceGeneration": ("SeqCeCriterion", "CeCriterion", "MlmCriterion"),  # all are cross-entropy per token here
}

# loss on soft labels: our names for MT-DNN's; task type -> those that it has
SOFT_LOSS_NAMES = {"ce": "CeCriterion", "kl": "KlCriterion", "mse": "MseCriterion"}
SOFT_LOSSES = {
    "Classification": ("CeCriterion", "KlCriterion", "MseCriterion"),
    "Regression": ("MseCriterion", "RegCriterion"),
}

# What `adv_loss` may say without changing anything: MT-DNN's usual one, which is also what `smart` does by default.
ADV_LOSSES = {"Regression": ("MseCriterion", "SymKlCriterion")}
USUAL_ADV_LOSS = ("SymKlCriterion",)

# number of outputs of task types whose definitions need not say it
N_CLASS = {
    "Regression": 1,
    "Ranking": 1,
    "MultipleChoice": 1,
    "SpanClassification": 2,
    "SpanClassificationYN": 2,
    "MaskLM": 1,
    "SequenceGeneration": 1,
}

# task types whose classes have names; where a definition gives none, "0", "1", ...
NAMED_CLASSES = ("Classification", "SequenceLabeling")
