"""How an exported model is used, by kind of task: the Python code of its model card."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mtrobust.tasks.taskdef import TaskDef


def pipeline(task: TaskDef) -> str:
    """A text-classification pipeline over one text, or a pair."""
    pair = task.data_format != "PremiseOnly"
    call = '{"text": "First text.", "text_pair": "Second text."}' if pair else '"A text."'
    return f"""from transformers import pipeline

classify = pipeline("text-classification", model="this/folder")
print(classify({call}, truncation=True))
"""


SPAN = """import torch
from transformers import AutoModelForQuestionAnswering, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("this/folder")
model = AutoModelForQuestionAnswering.from_pretrained("this/folder")
context = "It was built near the river in 1886."
inputs = tokenizer("When was it built?", context, return_tensors="pt", return_offsets_mapping=True)
offsets = inputs.pop("offset_mapping")[0]
passage = torch.tensor([part == 1 for part in inputs.sequence_ids()])
with torch.no_grad():
    out = model(**inputs)
start = out.start_logits[0].masked_fill(~passage, -torch.inf).argmax()
end = start + out.end_logits[0].masked_fill(~passage, -torch.inf)[start:].argmax()
print(context[offsets[start][0] : offsets[end][1]])
"""


GENERATE = """from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("this/folder")
model = AutoModelForSeq2SeqLM.from_pretrained("this/folder")
inputs = tokenizer("question: When was it built? context: It was built near the river in 1886.", return_tensors="pt")
print(tokenizer.decode(model.generate(**inputs)[0], skip_special_tokens=True))
"""


RANKING = """import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("this/folder")
model = AutoModelForSequenceClassification.from_pretrained("this/folder")
text, candidates = "When was it built?", ["It was built in 1886.", "It stands near the river."]
inputs = tokenizer([text] * 2, candidates, padding=True, truncation=True, return_tensors="pt")
with torch.no_grad():
    scores = model(**inputs).logits[:, 0]
print(candidates[scores.argmax()])
"""


CHOICE = """import torch
from transformers import AutoModelForMultipleChoice, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("this/folder")
model = AutoModelForMultipleChoice.from_pretrained("this/folder")
text, choices = "When was it built?", ["In 1886.", "Near the river."]
inputs = tokenizer([text] * 2, choices, padding=True, truncation=True, return_tensors="pt")
with torch.no_grad():
    scores = model(**{name: tensor.unsqueeze(0) for name, tensor in inputs.items()}).logits[0]
print(choices[scores.argmax()])
"""


TAGS = """from transformers import pipeline

tag = pipeline("token-classification", model="this/folder", aggregation_strategy="first")
print(tag("Words of this text with a tag."))
"""


FILL = """from transformers import pipeline

fill = pipeline("fill-mask", model="this/folder")
print(fill(f"The old bridge was {fill.tokenizer.mask_token} near the river."))
"""
