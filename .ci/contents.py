"""What is in a wheel and an sdist: what git holds, all of it, and nothing else.

git ls-files -z | python .ci/contents.py WHEEL SDIST
"""

import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

PACKAGE = "linalign_lite"
METADATA = {"METADATA", "RECORD", "WHEEL", "entry_points.txt", "licenses/LICENSE"}
MODEL = ("card.json", "model.onnx", "token_head.head.npz", "tokenizer.json")
NEEDED = {"py.typed", "demo/public.txt", "demo/topics.json", "survey/report/page.css",
          "survey/report/page.html", "survey/report/page.js",
          *(f"demo/models/{m}/{f}" for m in ("ash", "birch") for f in MODEL)}  # fmt: skip
BY_ITSELF = {"PKG-INFO", ".gitignore"}  # what hatchling adds to an sdist


def wheel(path: str, held: set[str]) -> tuple[set[str], set[str]]:
    """Names found and names wanted."""
    names = {n for n in zipfile.ZipFile(path).namelist() if not n.endswith("/")}
    info = next(n for n in names if n.endswith(".dist-info/RECORD")).removesuffix("RECORD")
    code = {n for n in held if n.startswith(f"{PACKAGE}/")}
    return names, code | {info + n for n in METADATA} | {f"{PACKAGE}/{n}" for n in NEEDED}


def sdist(path: str, held: set[str]) -> tuple[set[str], set[str]]:
    with tarfile.open(path) as tar:
        names = {m.name.partition("/")[2] for m in tar.getmembers() if m.isfile()}
    project = tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))
    listed = project["tool"]["hatch"]["build"]["targets"]["sdist"]["include"]
    return names, {n for n in held if n.split("/")[0] in listed} | BY_ITSELF


def main() -> int:
    held = set(filter(None, sys.stdin.read().split("\0")))
    wrong = 0
    for path in sys.argv[1:]:
        found, wanted = (wheel if path.endswith(".whl") else sdist)(path, held)
        for word, names in (("missing", wanted - found), ("a stranger", found - wanted)):
            for name in sorted(names):
                sys.stderr.write(f"{Path(path).name}: {name} is {word}\n")
                wrong += 1
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
