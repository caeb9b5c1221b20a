"""Task types. Importing this package registers all of them; a new kind is one file and one line here."""

from __future__ import annotations

import mtrobust.tasks.masked_lm
import mtrobust.tasks.ranking
import mtrobust.tasks.sequence
import mtrobust.tasks.span_qa
import mtrobust.tasks.token_labels  # noqa: F401
