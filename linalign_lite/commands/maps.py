"""fit: maps between models."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from typer import Argument, Option

from linalign_lite.commands import options as shared
from linalign_lite.commands.console import Console, Interrupted, draw, require_output, require_plot
from linalign_lite.commands.moment_files import MomentsOptions, are_folders, measure_states, stream
from linalign_lite.commands.remarks import doubts, nameless
from linalign_lite.commands.retrieval import SearchOptions, fit_for_search
from linalign_lite.commands.unpaired import UnpairedOptions, fit_unshared
from linalign_lite.core.choices import MapMethod, Objective, PairingRule, Use
from linalign_lite.core.text_tables import pair_lines
from linalign_lite.errors import InputError, without_secrets
from linalign_lite.storage.places import delivered, place

if TYPE_CHECKING:
    from linalign_lite.alignment.few_shot.report import FewReport
    from linalign_lite.alignment.kl.objective import Teaching
    from linalign_lite.alignment.kl.report import KlReport
    from linalign_lite.alignment.least_squares import FitReport
    from linalign_lite.alignment.unpaired.report import UnpairedReport
    from linalign_lite.core.affine_map import AffineMap
    from linalign_lite.core.head import Head
    from linalign_lite.core.hidden_states import HiddenStates
    from linalign_lite.retrieval.fit_report import RetrievalFitReport

    Reports = FitReport | KlReport | FewReport | RetrievalFitReport | UnpairedReport
    Fitted = tuple[AffineMap, Reports]
    Sides = tuple[HiddenStates, HiddenStates]


@dataclass(frozen=True)
class _FitOptions:
    kl: bool
    method: MapMethod
    penalty: str
    moments: MomentsOptions
    temperature: float | None
    truth: float | None
    iterations: int
    checkpoint: Path | None
    few: tuple[str, str] | None
    few_weight: str | None
    search: SearchOptions
    unpaired: UnpairedOptions

    def check(self, head_file: Path | None, *, fold: bool) -> None:
        """Raise InputError for options that do not go together."""
        method = self.method.value
        if self.few is None and self.few_weight is not None:
            raise InputError("--few-weight goes with --with-few FEW_SOURCE FEW_TARGET")
        if self.few is not None and self.method is not MapMethod.ridge:
            hint = "leave --method out"
            raise InputError("--with-few is for ridge or kl", got=method, hint=hint)
        if self.few is not None and self.checkpoint is not None:
            raise InputError("--with-few keeps no checkpoint", hint="leave --checkpoint out")
        if head_file is None and (self.kl or fold):
            raise InputError(
                f"{'--objective kl' if self.kl else '--fold'} needs --head",
                expected="a .head.npz file, or an exported model folder with a token head",
            )
        if head_file is not None and not (self.kl or fold):
            raise InputError("--head goes with --objective kl or --fold")
        if not self.kl and (self.temperature, self.truth, self.checkpoint) != (None, None, None):
            raise InputError("--temperature, --truth and --checkpoint go with --objective kl")
        plain = self.method is MapMethod.ridge and self.few is None
        self.search.check(plain=plain)
        alone = plain and not (self.kl or self.search.wanted or self.moments.scheduler)
        self.unpaired.check(plain=alone, penalty=self.penalty)
        if self.kl and self.method is not MapMethod.ridge:
            raise InputError("kl starts from ridge", got=method, hint="leave --method out")


def fit(
    source_at: shared.SourceStates,
    target_at: shared.TargetStates,
    out_at: shared.MapOut,
    objective: Annotated[
        Objective, Option(help="What the map is fitted for; kl needs --head.")
    ] = Objective.least_squares,
    head_file: Annotated[
        Path | None,
        Option("--head", help="The head, or model folder with one, that the map serves."),
    ] = None,
    method: Annotated[MapMethod, Option(help="Method of the fit.")] = MapMethod.ridge,
    penalty: shared.Penalty = "auto",
    pair: shared.Pairing = PairingRule.exact,
    fold: Annotated[bool, Option("--fold", help="Write head∘map, a head for the source.")] = False,
    temperature: Annotated[
        float | None, Option(help="kl: temperature of the head's outputs on true states.")
    ] = None,
    truth: Annotated[
        float | None, Option(help="kl: share of the true next token in the training target.")
    ] = None,
    iterations: Annotated[int, Option(help="kl: most iterations in each stage.")] = 200,
    checkpoint: Annotated[
        Path | None, Option(help="kl: save progress in this file, and resume from it.")
    ] = None,
    few: Annotated[
        tuple[str, str] | None,
        Option(
            "--with-few",
            metavar="FEW_SOURCE FEW_TARGET",
            help="States of a few texts of the kind that the map is for.",
        ),
    ] = None,
    few_weight: Annotated[
        str | None, Option(help="auto, or their weight relative to the others: 0 to inf.")
    ] = None,
    unpaired: Annotated[
        tuple[str, str] | None,
        Option(
            metavar="UNSHARED_SOURCE UNSHARED_TARGET",
            help="States of texts that only one side has, thousands each; 16 pairs are enough.",
        ),
    ] = None,
    no_pairs: Annotated[
        bool, Option("--no-pairs", help="SOURCE and TARGET hold different texts of one kind.")
    ] = False,
    pseudo: Annotated[
        tuple[str, str] | None,
        Option(
            metavar="PSEUDO_SOURCE PSEUDO_TARGET",
            help="retrieval: states of pseudo-queries, as many of each document.",
        ),
    ] = None,
    use: Annotated[
        Use | None, Option(help="retrieval: what will be mapped; default: queries.")
    ] = None,
    part: Annotated[
        bool, Option("--part", help="retrieval: other documents will be mapped or searched too.")
    ] = False,
    folds: shared.MapFolds = None,
    seed: shared.Seed = 0,
    scheduler: shared.Scheduler = None,
    plot: shared.Plot = None,
    strict: shared.Strict = False,
    as_json: shared.AsJson = False,
    quiet: shared.Quiet = False,
) -> None:
    """Fit a map from one model's states to another's.

    least-squares minimises the distance between mapped states and the target's states. kl minimises
    the divergence between a head's outputs on them: far better when the map serves that head, a
    classifier or a model's token head. retrieval tries whitened maps of documents and
    pseudo-queries, for one --use, and takes the one with which held-out texts find their document
    and keep the target's ranking (`retrieval extract` writes the files). SOURCE and TARGET are
    files or folders of states, or vectors from elsewhere (.npy, .npz#NAME, .parquet, .jsonl, a
    store), which are paired by their ids where both have some. Folders, and more vectors than 1 GB,
    are read a part at a time, except for kl and lstsq. Tokens that end at the same character are
    paired. SOURCE, TARGET and OUT may be URLs that fsspec can open (extra `remote`). With
    --with-few, SOURCE and TARGET hold states of public texts, and a few unlabelled texts of the
    kind that the map is for choose the penalty and their own weight. With --unpaired, SOURCE and
    TARGET hold a few shared texts, and thousands that only one side has do the rest; --no-pairs
    does without shared texts. Exit code 1, and no file, when no alignment was found.

    \b
    Examples:
      linalign-lite fit client.states.npz provider.states.npz client-to-provider.map.npz
      linalign-lite fit a.states.npz b.states.npz a-to-b.map.npz --method procrustes
      linalign-lite fit openai.jsonl minilm.parquet openai-to-minilm.map.npz
      linalign-lite fit a.states.npz b.states.npz a-to-b.map.npz --objective kl --head b.head.npz
      linalign-lite fit b-tokens a-tokens b-to-a.map.npz --objective kl --head a-model
      linalign-lite fit a.states.npz b.states.npz a-to-b.map.npz --with-few a.few.npz b.few.npz
      linalign-lite fit a.few.npz b.few.npz a-to-b.map.npz --unpaired a.own.npz b.own.npz
      linalign-lite fit a/documents.states.npz b/documents.states.npz queries.map.npz \\
        --objective retrieval --pseudo a/pseudo.states.npz b/pseudo.states.npz
    """
    from linalign_lite.heads.serialization import save
    from linalign_lite.vectors.reading import place_of

    console, out = Console(as_json, quiet), place(out_at)
    files = map(place_of, (source_at, target_at, *(few or unpaired or ()), *(pseudo or ())))
    require_output(out, head_file, checkpoint, *files)
    if checkpoint is not None and isinstance(out, Path) and checkpoint.absolute() == out.absolute():
        raise InputError("--checkpoint is the map's own name", hint="name another file")
    options = _FitOptions(
        kl=objective is Objective.kl,
        method=method,
        penalty=penalty,
        moments=MomentsOptions(
            shared.map_folds(folds, objective), seed, pair.value, scheduler=scheduler
        ),
        temperature=temperature,
        truth=truth,
        iterations=iterations,
        checkpoint=checkpoint,
        few=few,
        few_weight=few_weight,
        search=SearchOptions(objective is Objective.retrieval, pseudo, use, part),
        unpaired=UnpairedOptions(unpaired, no_pairs),
    )
    options.check(head_file, fold=fold)
    head = None if head_file is None else _load_head(head_file)
    require_plot(plot, source_at, target_at, out)
    affine, report = _fit(console, source_at, target_at, head, options)
    console.warn([*report.warnings, *nameless(affine)])
    with console.replacing(out), delivered(out) as path:
        save(path, head @ affine if fold and head is not None else affine)
    rows = [("head" if fold else "map", out), *affine.rows(), *report.rows()]
    draw(plot, f"The map {out.name}", report, rows)
    data = {"out": str(out), **report.as_dict()}
    console.judged(data, pair_lines(rows), report.verdict, strict=strict)


def apply(
    map_file: Annotated[Path, Argument(metavar="MAP", help="A map (.map.npz).")],
    source_at: Annotated[str, Argument(metavar="SOURCE", help="The vectors or states to map.")],
    out_at: Annotated[
        str, Argument(metavar="OUT", help="Where to write: a file, or a collection of a store.")
    ],
    normalize: Annotated[
        bool | None,
        Option("--normalize/--no-normalize", help="Unit length; default: as the map's target."),
    ] = None,
    as_json: shared.AsJson = False,
    quiet: shared.Quiet = False,
) -> None:
    """Apply a map to vectors of a file or store.

    SOURCE and OUT are .npy, .npz#NAME, .parquet, .arrow, .jsonl, states, or collections of a store;
    ids and payload go along. A few thousand vectors are in memory at a time. To Parquet and to
    stores, the same command resumes a run that was interrupted; OUT is visible when complete.

    \b
    Examples:
      linalign-lite apply a-to-b.map.npz corpus.parquet mapped.parquet
      linalign-lite apply a-to-b.map.npz a.states.npz mapped.states.npz
      linalign-lite apply old-to-new.map.npz qdrant:store#old qdrant:store#new
    """
    from linalign_lite.core.serialization import load_map
    from linalign_lite.vectors.locations import open_vectors
    from linalign_lite.vectors.mapping import apply_map
    from linalign_lite.vectors.reading import place_of

    console, affine = Console(as_json, quiet), load_map(map_file)
    if (file := place_of(out_at)) is not None:
        require_output(file, map_file, place_of(source_at))
    with open_vectors(source_at) as source:
        console.warn(doubts(source_at, source.info.space, affine))
        n = source.info.count or 0
        try:
            with console.progress("mapping", n) as tally:
                done = _Counted(tally)
                made = apply_map(affine, source, out_at, normalize=normalize, progress=done.add)
        except (KeyboardInterrupt, SystemExit) as e:
            raise Interrupted(e, "where OUT can be resumed, the same command continues") from e
    out, space = without_secrets(out_at), made.space.describe()
    data = {"out": out, "vectors": done.count, "dim": made.dim, "space": space}
    line = f"{out}: {done.count} vectors mapped, {space}"
    console.result(data, [line])


@dataclass
class _Counted:
    """A progress function that also counts."""

    tally: Callable[[int], None]
    count: int = 0

    def add(self, n: int) -> None:
        """Add n."""
        self.count += n
        self.tally(n)


def _fit(
    console: Console, source: str, target: str, head: Head | None, options: _FitOptions
) -> Fitted:
    """Fit on the moments of two folders, or on the states: with few texts, for a head, plainly."""
    from linalign_lite.alignment.least_squares import fit as fit_states
    from linalign_lite.alignment.paired_moments import fit_paired
    from linalign_lite.vectors.reading import read_pair

    moments, method, penalty = options.moments, options.method.value, options.penalty
    if options.search.wanted:
        return fit_for_search(source, target, options.search, moments)
    if options.unpaired.wanted:
        pairing, seed = moments.pairing, moments.seed
        return fit_unshared(console, source, target, options.unpaired, pairing, seed)
    plain = not options.kl and options.few is None and options.method is not MapMethod.lstsq
    if plain and (are_folders(source, target) or stream(source, target)):
        measured = measure_states(console, source, target, moments)
        return fit_paired(measured, method=method, penalty=penalty)
    if moments.scheduler is not None:
        raise InputError("--scheduler goes with two folders of states, ridge or procrustes")
    states = read_pair(source, target, moments.pairing)
    if options.kl or options.few is not None:
        return _fit_stepwise(console, states, head if options.kl else None, options)
    folds, seed = moments.folds, moments.seed
    return fit_states(*states, method=method, penalty=penalty, folds=folds, seed=seed)


def _fit_stepwise(
    console: Console, states: Sides, head: Head | None, options: _FitOptions
) -> Fitted:
    """Fit for a head, with few texts, or both; the latest step is shown."""
    from linalign_lite.alignment.few_shot.joint_fit import fit_with_few
    from linalign_lite.alignment.kl.checkpoint import Checkpoint
    from linalign_lite.alignment.kl.divergence_fit import fit_kl
    from linalign_lite.vectors.reading import read_pair

    few = None if options.few is None else read_pair(*options.few, options.moments.pairing)
    shared: dict[str, Any] = {
        "penalty": options.penalty,
        "iterations": options.iterations,
        "seed": options.moments.seed,
        "teaching": None if head is None else _teaching(states[1], head, options),
    }
    with console.fitting_steps() as watch:
        if few is not None:
            weight, folds = options.few_weight or "auto", options.moments.folds
            return fit_with_few(
                *states, *few, head=head, weight=weight, folds=folds, watch=watch, **shared
            )
        assert head is not None
        return fit_kl(
            *states, head, checkpoint=Checkpoint(options.checkpoint), watch=watch, **shared
        )


def _teaching(target: HiddenStates, head: Head, options: _FitOptions) -> Teaching:
    """Temperature and truth of the options, or their defaults for this head."""
    from linalign_lite.alignment.kl.validation import usable_teaching

    given = {"temperature": options.temperature, "truth": options.truth}
    set_ones = {name: value for name, value in given.items() if value is not None}
    return dataclasses.replace(usable_teaching(None, target, head), **set_ones)


def _load_head(path: Path) -> Head:
    """Load a head file, or the token head of a model folder."""
    from linalign_lite.core.serialization import load_head
    from linalign_lite.extraction.model_card import HEAD_FILE, load_card

    if not path.is_dir():
        return load_head(path)
    card = load_card(path)
    if HEAD_FILE not in card.files:
        raise InputError(f"{path} has no token head", expected="a causal LM, or a .head.npz file")
    found = load_head(path / HEAD_FILE)
    return dataclasses.replace(found, space=card.space("tokens", normalize=False))
