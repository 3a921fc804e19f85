"""generate: one model reads, another speaks."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from linalign_lite.commands.console import AsJson, Console, Quiet
from linalign_lite.errors import InputError

if TYPE_CHECKING:
    from linalign_lite.generation import Generation

MAX_PROMPT = 16 << 20  # bytes read from standard input


def register(app: typer.Typer) -> None:
    app.command()(generate)


def generate(
    prompt: Annotated[str, typer.Argument(help="The text to go on with, or - for stdin.")],
    source: Annotated[Path, typer.Option(help="The exported model that reads.")],
    target: Annotated[Path, typer.Option(help="The exported model whose token head speaks.")],
    map_file: Annotated[
        Path | None,
        typer.Option("--map", help="The map between them; none: source and target are the same."),
    ] = None,
    max_tokens: Annotated[int, typer.Option(help="Stop after this many tokens.")] = 128,
    temperature: Annotated[
        float, typer.Option(help="0 takes the likeliest token; above, tokens are drawn.")
    ] = 0.0,
    top_p: Annotated[
        float, typer.Option(help="Draw from the likeliest tokens with this much probability.")
    ] = 1.0,
    seed: Annotated[int, typer.Option(help="Seed of the draws.")] = 0,
    stop: Annotated[
        list[str] | None, typer.Option(help="Stop before this text; may be given again.")
    ] = None,
    threads: Annotated[int | None, typer.Option(help="Threads; default: one a core.")] = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Go on with a text: the source reads it, the target says the next token.

    The text comes as it is made. The map must be fit on states extracted with --pooling tokens.

    \b
    Examples:
      linalign-lite generate --source small --target large --map small-to-large.map.npz "Once upon"
      linalign-lite generate --source b --target a --map b-to-a.map.npz - --stop "End" < prompt.txt
      linalign-lite generate --source a --target a "Once upon a time" --temperature 0.8 --seed 3
    """
    from linalign_lite.generation import generate as go_on
    from linalign_lite.runtime import load_model
    from linalign_lite.store import load_map

    console = Console(as_json, quiet)
    text = _stdin() if prompt == "-" else prompt
    affine = load_map(map_file) if map_file else None
    reads = load_model(source, threads=threads)
    same = source.resolve() == target.resolve()
    speaks = reads if same else load_model(target, threads=threads)
    going = go_on(
        reads,
        speaks,
        text,
        affine=affine,
        max_tokens=max_tokens,
        temperature=temperature,
        top_p=top_p,
        seed=seed,
        stop=tuple(stop or ()),
    )
    started = time.perf_counter()
    said, tokens = _say(going, aloud=not as_json)
    seconds = time.perf_counter() - started
    summary = going.summary
    if summary is None:  # never: the iteration has ended
        return
    rate = summary.tokens / seconds if seconds else 0.0
    if as_json:
        data = {"source": reads.card.name, "target": speaks.card.name, "prompt": text,
                "text": said, "token_ids": tokens, "tokens": summary.tokens,
                "reason": summary.reason, "seconds": seconds, "tokens_per_second": rate,
                "tokens_read": summary.tokens_read, "crops": summary.crops}  # fmt: skip
        console.result(data, [])
    elif sys.stderr is not None and sys.stderr.isatty():
        console.note(f"{summary.tokens} tokens, {rate:.0f} a second, ended by {summary.reason}")


def _say(going: Generation, *, aloud: bool) -> tuple[str, list[int]]:
    """Text and tokens, written as they come; the line is ended, interrupted or not."""
    pieces, tokens = [], []
    with _line() if aloud else contextlib.nullcontext():
        for piece in going:
            if piece.text:
                pieces.append(piece.text)
                if aloud:
                    _write(piece.text)
            if piece.token is not None:
                tokens.append(piece.token)
    return "".join(pieces), tokens


@contextlib.contextmanager
def _line() -> Iterator[None]:
    try:
        yield
    except BrokenPipeError:  # nobody is there to read a line's end
        raise
    except BaseException:
        with contextlib.suppress(OSError):
            _write("\n")
        raise
    _write("\n")


def _write(text: str) -> None:
    """In UTF-8, whatever the locale says: a story is no message."""
    if sys.stdout is None:  # closed by the caller, who does not want to know
        return
    raw = getattr(sys.stdout, "buffer", None)
    if raw is None:
        sys.stdout.write(text)
    else:
        raw.write(text.encode())
    sys.stdout.flush()


def _stdin() -> str:
    raw = b"" if sys.stdin is None else sys.stdin.buffer.read(MAX_PROMPT + 1)
    if len(raw) > MAX_PROMPT:
        raise InputError(
            "the prompt is too long", got="more", expected=f"at most {MAX_PROMPT} bytes"
        )
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as e:
        raise InputError("the prompt is not UTF-8", got=f"a bad byte at {e.start}") from e
    return text.removesuffix("\n").removesuffix("\r")
