"""Task types. Importing this package registers all of them; a new kind is one file and one line here."""

from __future__ import annotations

from mtrobust.tasks import sequence as sequence
from mtrobust.tasks import span_qa as span_qa
