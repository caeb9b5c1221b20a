"""The preparation commands start without the heavy libraries."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def test_importing_every_command_loads_no_heavy_library():
    code = (
        "import sys, data_prep; data_prep.COMMANDS; "
        "print(sorted({'torch', 'transformers', 'datasets', 'numpy', 'tokenizers'} & set(sys.modules)))"
    )
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=root)
    assert done.stdout.strip() == "[]"
