"""Write down what golden files say that are new. What was recorded once is not touched.

python tests/slow/upgrade/record.py
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[2]))

from readers import golden_files, read

RECORDED = Path(__file__).parent / "recorded.json"


def recorded() -> dict[str, object]:
    found: dict[str, object] = json.loads(RECORDED.read_text(encoding="utf-8"))
    return found


def main() -> None:
    known = recorded() if RECORDED.exists() else {}
    for name in golden_files():
        if name not in known:
            with tempfile.TemporaryDirectory() as work:
                known[name] = read(name, Path(work))
    lines = [f"{json.dumps(k)}: {json.dumps(v, sort_keys=True)}" for k, v in sorted(known.items())]
    RECORDED.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
