"""Generate the bodies of API.md and COMMANDS.md from docstrings and from the command line."""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
from collections.abc import Iterator
from dataclasses import is_dataclass
from typing import Any

import typer

import linalign_lite
from linalign_lite import commands as command_line

# chapter of a public name, by its module
CHAPTERS = {
    "States": ("extraction", "core.hidden_states", "core.shards", "core.token_alignment"),
    "Vectors": ("vectors",),
    "Maps": ("alignment", "core.affine_map", "core.space"),
    "Heads": ("heads", "core.head"),
    "Retrieval": ("retrieval",),
    "Files": ("heads.serialization", "core.serialization"),
    "Private queries": ("encrypt",),
    "Outlying texts": ("heads.ood",),
    "Generation": ("generation",),
    "Similarity and surveys": ("alignment.similarity", "survey"),
    "ONNX artefacts and other forms": ("onnx", "core.dense_module", "core.faiss_transform"),
    "Bundles": ("bundle",),
    "Errors": ("errors",),
}
OPERATORS = {"__matmul__", "__add__", "__call__", "__iter__", "__len__", "__getitem__"}


def api() -> str:
    """One section for each name of `linalign_lite.__all__`, in chapters."""
    chapter_of = {module: title for title, modules in CHAPTERS.items() for module in modules}
    chapters: dict[str, list[str]] = {title: [] for title in [*CHAPTERS, "Also"]}
    for name in linalign_lite.__all__:
        parts = linalign_lite._MODULES.get(name, "version").split(".")
        prefixes = (".".join(parts[:n]) for n in range(len(parts), 0, -1))
        chapter = next((chapter_of[p] for p in prefixes if p in chapter_of), "Also")
        chapters[chapter].append(name)
    sections = {title: [_section(name) for name in names] for title, names in chapters.items()}
    from linalign_lite import sklearn as estimators

    sections["scikit-learn estimators"] = [
        _section(name, getattr(estimators, name), "sklearn") for name in estimators.__all__
    ]
    return "\n\n".join(
        f"## {title}\n\n" + "\n\n".join(parts) for title, parts in sections.items() if parts
    )


def _section(name: str, thing: Any = None, home: str = "") -> str:
    thing = getattr(linalign_lite, name) if thing is None else thing
    home = home or linalign_lite._MODULES.get(name, "version")
    parts = [f"### `{name}`", f"*linalign_lite.{home}*"]
    if inspect.isclass(thing):
        parts += [_code(_class_head(name, thing)), _prose(thing)]
        parts += [_member(name, key, value) for key, value in _members(thing)]
    elif inspect.isfunction(thing):
        parts += [_code(_signature(name, thing)), _prose(thing)]
    else:
        parts += [_code(f"{name}: {type(thing).__name__} = {thing!r}")]
    return "\n\n".join(part for part in parts if part)


def _class_head(name: str, cls: type) -> str:
    """Signature of the constructor; for a data class its fields with their comments."""
    if not is_dataclass(cls):
        bases = ", ".join(b.__name__ for b in cls.__bases__ if b is not object)
        head = f"class {name}({bases})" if bases else f"class {name}"
        own = cls.__init__ is not object.__init__ and "__init__" in vars(cls)
        return f"{head}\n{_signature(name, cls)}" if own else head
    source = textwrap.dedent(inspect.getsource(cls))
    lines = source.splitlines()
    body = ast.parse(source).body[0]
    assert isinstance(body, ast.ClassDef)
    fields = [
        line
        for node in body.body
        if isinstance(node, ast.AnnAssign) and not ast.unparse(node.target).startswith("_")
        for line in lines[node.lineno - 1 : node.end_lineno]
    ]
    return "\n".join(["@dataclass", f"class {name}:", *fields])


def _members(cls: type) -> Iterator[tuple[str, Any]]:
    for key, value in vars(cls).items():
        if key.startswith("_") and key not in OPERATORS:
            continue
        found = getattr(value, "fn", value)  # of scikit-learn's `available_if`
        plain = getattr(found, "__func__", found)
        if inspect.isfunction(plain) or isinstance(found, property):
            yield key, found


def _member(owner: str, key: str, value: Any) -> str:
    if isinstance(value, property):
        kind = inspect.signature(value.fget).return_annotation if value.fget else ""
        head = f"{owner}.{key}: {_type(kind)}"
    else:
        head = _signature(f"{owner}.{key}", getattr(value, "__func__", value), bound=True)
        if isinstance(value, classmethod | staticmethod):
            head = f"@{type(value).__name__}\n{head}"
    return _code(head) + ("\n\n" + _prose(value) if inspect.getdoc(value) else "")


def _type(annotation: Any) -> str:
    if annotation is inspect.Parameter.empty:
        return ""
    return annotation if isinstance(annotation, str) else inspect.formatannotation(annotation)


def _signature(name: str, thing: Any, *, bound: bool = False) -> str:
    """`name(a: type = default, ...) -> type`, one parameter per line if long."""
    signature = inspect.signature(thing)
    rows: list[str] = []
    keyword = False
    for p in list(signature.parameters.values())[int(bound and inspect.isfunction(thing)) :]:
        if p.kind is p.KEYWORD_ONLY and not keyword:
            keyword = True
            rows.append("*")
        star = {p.VAR_POSITIONAL: "*", p.VAR_KEYWORD: "**"}.get(p.kind, "")
        keyword = keyword or p.kind is p.VAR_POSITIONAL
        hint = f": {_type(p.annotation)}" if p.annotation is not p.empty else ""
        rows.append(star + p.name + hint + _default(p))
    result = _type(signature.return_annotation)
    arrow = f" -> {result}" if result and not inspect.isclass(thing) else ""
    line = f"{name}({', '.join(rows)}){arrow}"
    if len(line) <= 88:
        return line
    return "\n".join([f"{name}(", *(f"    {row}," for row in rows), f"){arrow}"])


def _default(parameter: inspect.Parameter) -> str:
    if parameter.default is parameter.empty:
        return ""
    for name in ("PRIVATE", "TRUSTED"):
        value = getattr(linalign_lite, name)
        if parameter.default is value:
            return f" = {name}"
        if parameter.default == (value,):
            return f" = ({name},)"
    return f" = {parameter.default!r}"


def _code(text: str) -> str:
    return f"```python\n{text}\n```"


def _prose(thing: Any) -> str:
    """A docstring as Markdown: one paragraph per parameter; public names are links."""
    lines: list[str] = []
    for line in (inspect.getdoc(thing) or "").splitlines():
        starts = re.match(r"(Raises|Returns|[a-z_]+(, [a-z_]+)*:) ", line)
        if starts and lines and lines[-1]:
            lines.append("")
        lines.append(line)
    text = re.sub(r"(^|\n)([a-z_]+(?:, [a-z_]+)*): ", r"\1*\2*: ", "\n".join(lines))
    return re.sub(r"(`+)(\w+)\1", _linked, text)


def _linked(found: re.Match[str]) -> str:
    name = found[2]
    if name not in linalign_lite.__all__ or name.startswith("_"):
        return found[0]
    return f"[`{name}`](#{name.lower()})"


def commands() -> str:
    """One section for each command under the title of its job, those of a group by both words."""
    root = typer.main.get_command(command_line.app)
    parts: list[str] = []
    for title in command_line.COMMANDS:
        parts.append(f"## {title}")
        for name in command_line.command_names(title):
            command = root.commands[name]
            parts.append(_command(name, command))
            parts += [_command(n, c) for n, c in walk(command, f"{name} ")]
    return "\n\n".join(parts)


def walk(group: Any, before: str = "") -> Iterator[tuple[str, Any]]:
    """(name, command) of every command; a group precedes its commands."""
    for name, command in getattr(group, "commands", {}).items():
        yield before + name, command
        yield from walk(command, f"{before}{name} ")


def _command(name: str, command: Any) -> str:
    context = command.make_context(f"linalign-lite {name}", [], resilient_parsing=True)
    usage = " ".join(command.collect_usage_pieces(context))
    said, *verbatim = re.split(r"^\x08\n", inspect.cleandoc(command.help or ""), flags=re.MULTILINE)
    parts = [f"### `{name}`", f"```text\nlinalign-lite {name} {usage}\n```", _escaped(said.strip())]
    for block in verbatim:
        title, _, rest = block.partition("\n")
        examples, _, after = textwrap.dedent(rest).strip("\n").partition("\n\n")
        parts += [f"{_escaped(title)}", f"```sh\n{examples}\n```", _escaped(after.strip())]
    rows = [p.get_help_record(context) for p in command.params]
    table = [
        f"| `{_cell(left)}` | {_cell(_escaped(right))} |" for left, right in filter(None, rows)
    ]
    if table:
        parts.append("\n".join(["| | |", "| --- | --- |", *table]))
    return "\n\n".join(part for part in parts if part)


def _escaped(text: str) -> str:
    """Escape Markdown outside of backticks."""
    parts = re.split(r"(`[^`\n]+`)", text)
    return "".join(p if p.startswith("`") else re.sub(r"([\\*_<>\[\]])", r"\\\1", p) for p in parts)


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
