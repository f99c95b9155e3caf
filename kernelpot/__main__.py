"""``python -m kernelpot`` is the command ``kernelpot``."""

from __future__ import annotations

import sys

from kernelpot.cli import main

if __name__ == "__main__":
    sys.exit(main())
