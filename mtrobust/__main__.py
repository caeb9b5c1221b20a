"""`python -m mtrobust`, the same as the `mtrobust` command."""

import sys

from mtrobust.cli import main

if __name__ == "__main__":
    sys.exit(main())
