"""generate, evaluate-generation: text from one model's states and another's token head."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Argument, Option

from linalign_lite.commands import options as shared
from linalign_lite.commands.console import Console, load_optional_map
from linalign_lite.commands.states import load_limited
from linalign_lite.core.choices import TextFormat
from linalign_lite.errors import InputError

if TYPE_CHECKING:
    from linalign_lite.core.affine_map import AffineMap
    from linalign_lite.extraction.session import Model
    from linalign_lite.generation.hybrid import Generation

MAX_PROMPT = 16 << 20  # bytes read from standard input

SourceModel = Annotated[Path, Option(help="The exported model that reads the text.")]
TargetModel = Annotated[Path, Option(help="The exported model whose token head predicts.")]
MapBetween = Annotated[
    Path | None,
    Option("--map", help="The map from source to target; none if they are the same model."),
]
Penalty = Annotated[
    float, Option("--repetition-penalty", help="Above 1: lower the scores of tokens that occurred.")
]


def generate(
    prompt: Annotated[str, Argument(help="The text to continue, or - for stdin.")],
    source: SourceModel,
    target: TargetModel,
    map_file: MapBetween = None,
    max_tokens: Annotated[int, Option(help="Stop after this many tokens.")] = 128,
    temperature: Annotated[float, Option(help="0: the likeliest token; above 0: sampled.")] = 0.0,
    top_p: Annotated[float, Option(help="Nucleus sampling: probability of the nucleus.")] = 1.0,
    repetition_penalty: Penalty = 1.0,
    seed: Annotated[int, Option(help="Seed of the sampling.")] = 0,
    stop: Annotated[list[str] | None, Option(help="Stop before this text (repeatable).")] = None,
    chat: Annotated[
        bool, Option("--chat", help="The text is a message; answer it by the target's template.")
    ] = False,
    threads: shared.Threads = None,
    as_json: shared.AsJson = False,
    quiet: shared.Quiet = False,
) -> None:
    """Continue a text with two models joined by a map.

    The source model reads the text; the map and the target's token head predict the next token.
    The text is printed as it is generated. The map must be fitted on states extracted with
    --pooling tokens. With --chat (extra `chat`), the target's template makes a dialogue of the
    text, which the source reads too, and the answer ends with its turn.

    \b
    Examples:
      linalign-lite generate --source small --target large --map small-to-large.map.npz "Once upon"
      linalign-lite generate --source b --target a --map b-to-a.map.npz - --stop "End" < prompt.txt
      linalign-lite generate --source a --target a "Once upon a time" --temperature 0.8 --seed 3
      linalign-lite generate --source a --target a "Once upon" --repetition-penalty 1.2
      linalign-lite generate --source chatty --target chatty --chat "What is the capital of France?"
    """
    from linalign_lite.extraction.model_card import load_card
    from linalign_lite.generation.decoding import chat_template
    from linalign_lite.generation.hybrid import generate as stream

    console = Console(as_json, quiet)
    text = _stdin() if prompt == "-" else prompt
    if chat:  # before large files are read
        chat_template.read_template(target, load_card(target, verify=False))
    affine, source_model, target_model = _load(map_file, source, target, threads)
    asked = chat_template.ChatPrompt(text, frozenset())
    if chat:
        asked = chat_template.chat_prompt(target_model, source_model, text)
    generation = stream(
        source_model,
        target_model,
        asked.text,
        affine=affine,
        max_tokens=max_tokens,
        temperature=temperature,
        top_p=top_p,
        repetition_penalty=repetition_penalty,
        seed=seed,
        stop=tuple(stop or ()),
        end=asked.end,
    )
    started = time.perf_counter()
    generated, tokens = _collect(generation, show=not as_json)
    seconds = time.perf_counter() - started
    summary = generation.summary
    if summary is None:  # never: the iteration has ended
        return
    rate = summary.tokens / seconds if seconds else 0.0
    if as_json:
        data = {
            "source": source_model.card.name,
            "target": target_model.card.name,
            "prompt": text,
            "text": generated,
            "token_ids": tokens,
            "tokens": summary.tokens,
            "reason": summary.reason,
            "seconds": seconds,
            "tokens_per_second": rate,
            "tokens_read": summary.tokens_read,
            "crops": summary.crops,
        }
        console.result(data, [])
    elif sys.stderr is not None and sys.stderr.isatty():
        console.note(f"{summary.tokens} tokens, {rate:.0f} per second, ended by {summary.reason}")


def evaluate_generation(
    texts: shared.TextsFile,
    source: SourceModel,
    target: TargetModel,
    map_file: MapBetween = None,
    fmt: shared.Format = TextFormat.auto,
    limit: shared.Limit = None,
    separator: shared.Separator = None,
    samples: Annotated[int, Option(help="Number of texts to continue.", min=0)] = 16,
    sample_tokens: Annotated[int, Option(help="Tokens of a sample.", min=1)] = 64,
    repetition_penalty: Penalty = 1.0,
    seed: Annotated[int, Option(help="Seed that selects these texts.", min=0)] = 0,
    threads: shared.Threads = None,
    strict: shared.Strict = False,
    as_json: shared.AsJson = False,
    quiet: shared.Quiet = False,
) -> None:
    """Measure how well two joined models predict texts.

    Compares the hybrid (source, map, target's token head) with the target alone, and with the
    source alone if it has a token head, at the same positions. Use texts on which no map was
    fitted. Then hybrid and target continue the beginnings of some texts. Nats are per token, and
    the source has other tokens: compare its bits per character.

    \b
    Examples:
      linalign-lite evaluate-generation --source b --target a --map b-to-a.map.npz test.txt
      linalign-lite evaluate-generation --source b --target a --map b-to-a.map.npz stories.txt \\
        --separator "<|endoftext|>" --limit 200 --json
    """
    from linalign_lite.extraction.texts import read_texts
    from linalign_lite.generation.evaluation.judge_map import judge

    console = Console(as_json, quiet)
    read = read_texts(texts, fmt=fmt.value, limit=limit, separator=separator)
    affine, source_model, target_model = _load(
        map_file, source, target, threads, decoding=samples > 0
    )
    with console.progress("evaluating", len(read.texts) + samples) as tally:
        found = judge(
            source_model,
            target_model,
            affine,
            read,
            samples=samples,
            sample_tokens=sample_tokens,
            repetition_penalty=repetition_penalty,
            seed=seed,
            progress=tally,
        )
    if read.n_blank:
        console.note(f"{read.n_blank} blank line(s) or text(s) skipped")
    if found.cut:
        console.note(f"{found.cut} text(s) longer than a model's context, evaluated up to there")
    console.warn(found.warnings)
    names = source_model.card.name, target_model.card.name
    data = {"source_model": names[0], "target_model": names[1], **found.as_dict()}
    data["blank"] = read.n_blank
    console.judged(data, found.lines(*names), found.verdict, strict=strict)


def _load(
    map_file: Path | None, source: Path, target: Path, threads: int | None, *, decoding: bool = True
) -> tuple[AffineMap | None, Model, Model]:
    """Load the map and the two models, once if they are the same.

    With a map and ``decoding``, the target's tokenizer is checked first, before large files.
    """
    from linalign_lite.extraction.model_card import TOKENIZER_FILE
    from linalign_lite.extraction.tokenizer import load_tokenizer
    from linalign_lite.generation.decoding.detokenizer import TokenBytes

    affine, tokenizer = load_optional_map(map_file), None
    if affine is not None and decoding and (target / TOKENIZER_FILE).is_file():
        tokenizer = load_tokenizer(target / TOKENIZER_FILE)
        TokenBytes(tokenizer).require_streaming(target.name)
    same = source.resolve() == target.resolve()
    reader = load_limited(source, threads, tokenizer if same else None)
    return affine, reader, reader if same else load_limited(target, threads, tokenizer)


def _collect(generation: Generation, *, show: bool) -> tuple[str, list[int]]:
    """Collect text and tokens; with ``show``, print the text as it is generated, and a newline."""
    pieces, tokens = [], []
    with _line() if show else contextlib.nullcontext():
        for piece in generation:
            pieces.append(piece.text)
            if show and piece.text:
                _write(piece.text)
            if piece.token is not None:
                tokens.append(piece.token)
    return "".join(pieces), tokens


@contextlib.contextmanager
def _line() -> Iterator[None]:
    """End the line on standard output, also when interrupted."""
    try:
        yield
    except BrokenPipeError:  # there is no reader for the end of the line
        raise
    except BaseException:
        with contextlib.suppress(OSError):
            _write("\n")
        raise
    _write("\n")


def _write(text: str) -> None:
    """Write text to standard output in UTF-8, whatever the locale."""
    if sys.stdout is None:  # closed by the caller
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
        raise InputError("the prompt is too long", expected=f"at most {MAX_PROMPT} bytes")
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as e:
        raise InputError("the prompt is not UTF-8", got=f"a bad byte at {e.start}") from e
    return text.removesuffix("\n").removesuffix("\r")
