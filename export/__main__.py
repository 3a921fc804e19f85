"""`python export MODEL OUT [options]`: `linalign-lite export` from a checkout.

For the connected workstation. See README.md beside this file.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

if __name__ == "__main__":
    from linalign_lite.commands import main

    sys.exit(main(["export", *sys.argv[1:]]))
