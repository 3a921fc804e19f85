"""Fit an affine map from texts that only one side has, with a few pairs or without any.

    maximise over rotations R, and soft matches P of the texts of both sides,
    Σ_ij P_ij (z_i R · z'_j) − τ Σ P_ij log P_ij + w Σ_pairs z_i R · z'_i,

z and z' being the coordinates of source and target states (unpaired.coordinates). P and R are
optimised in turn while τ falls and the rank of R grows (unpaired.refinement); the start is
Procrustes on the pairs, or matches of profiles (unpaired.profiles). Without evidence that the
result is right, no map is returned (unpaired.evidence).
"""

import dataclasses

import numpy as np

from linalign_lite.alignment.unpaired import evidence
from linalign_lite.alignment.unpaired.coordinates import affine, coordinates_of
from linalign_lite.alignment.unpaired.evidence import Evidence
from linalign_lite.alignment.unpaired.profiles import profile_start
from linalign_lite.alignment.unpaired.refinement import (
    HEATS,
    LAST,
    POLISH,
    Sides,
    Watch,
    refine,
    rotation_of,
)
from linalign_lite.alignment.unpaired.report import UnpairedReport
from linalign_lite.core.affine_map import AffineMap, Array
from linalign_lite.core.hidden_states import HiddenStates, as_sides, as_states
from linalign_lite.errors import AlignmentError, InputError
from linalign_lite.storage.arrays import unit_rows

StatePair = tuple[HiddenStates | Array, HiddenStates | Array]
LARGEST_RANK = 384  # of coordinates: a round decomposes a matrix of so many rows
FEWEST_PAIRS, FEWEST_TEXTS = 4, 500
LOW_TEXTS = 4000  # fewer unshared texts than this draw a warning
STARTS = 2  # without pairs


def rounds(pairs: int) -> int:
    """Number of rounds of a fit with so many pairs, at most; for progress."""
    if pairs >= evidence.ENOUGH_PAIRS:
        return 2 * LAST.rounds + POLISH.rounds
    heats = sum(s.rounds for s in (HEATS[1:] if pairs else HEATS))
    starts = 1 if pairs else STARTS
    return starts * (heats + LAST.rounds) + LAST.rounds + POLISH.rounds


def fit_unpaired(
    source: HiddenStates | Array,
    target: HiddenStates | Array,
    pairs: StatePair | None = None,
    *,
    seed: int = 0,
    watch: Watch = lambda _: None,
) -> tuple[AffineMap, UnpairedReport]:
    """Fit the affine map from the source's space to the target's, given few pairs or none.

    source (n, d_source), target (m, d_target): states of texts of the same kind, which need not be
    the same texts, and of which the order says nothing. pairs: states of the same texts in both
    models, (p, d_source) and (p, d_target). watch: called with 1 after each of at most
    ``rounds(p)`` rounds.

    Returns the map, whose weight has a rank of at most 384, and a report. Raises AlignmentError
    when no alignment was found; InputError for fewer than 500 unshared texts or 4 pairs, for pairs
    that contradict each other (their rows are named), and for states of tokens; MismatchError when
    pairs and unshared states are not of the same spaces.
    """
    x, y = as_sides(source, target)
    shared = None if pairs is None else (as_states(pairs[0]), as_states(pairs[1]))
    _require_usable(x, y, shared)
    rank = min(LARGEST_RANK, x.space.dim, y.space.dim)
    of_x, of_y = (coordinates_of(s.states, rank) for s in (x, y))
    none = x.states[:0], y.states[:0]
    p, q = none if shared is None else (shared[0].states, shared[1].states)
    sides = Sides(of_x(x.states), of_y(y.states), of_x(p), of_y(q))
    rotation, found, starts = _align(sides, np.random.default_rng(seed), watch)
    weight, bias = affine(of_x, of_y, rotation)
    held_out = len(found.nearer) > 0
    report = UnpairedReport(
        n_source=len(x), n_target=len(y), n_pairs=len(p), d_source=x.space.dim,
        d_target=y.space.dim, rank=min(of_x.rank, of_y.rank), starts=starts,
        n_judged=evidence.count_aside(len(y)), closeness=found.closeness,
        nearer=float(np.median(found.nearer)) if held_out else None,
        partner_first=float((found.nearer == 0).mean()) if held_out else None,
        warnings=_warnings(x, y, found.contradicting),
    )  # fmt: skip
    card = {**report.as_card(), "source_text_digest": x.text_digest,
            "target_text_digest": y.text_digest}  # fmt: skip
    weight32, bias32 = weight.astype(np.float32), bias.astype(np.float32)
    return AffineMap(weight32, bias32, x.space, y.space, card), report


def _align(sides: Sides, rng: np.random.Generator, watch: Watch) -> tuple[Array, Evidence, int]:
    """The rotation, the evidence for it, and the number of starts tried."""
    fitted, judged = evidence.keep_aside(sides, rng)
    pairs = len(sides.pair_source)
    if pairs >= evidence.ENOUGH_PAIRS:
        return *_from_halves(fitted, judged, rng, watch), 1
    close, start = 0.0, 0
    rotation: Array
    while close < evidence.CLOSE:
        if start == (1 if pairs else STARTS):
            raise _refusal(Evidence(close, np.empty(0)))
        start += 1
        if pairs:
            begin, heats = _of_pairs(fitted), HEATS[1:]
        else:
            begin, heats = profile_start(fitted.source, fitted.target, rng), HEATS
        rotation = refine(fitted, begin, (*heats, LAST), rng, watch)
        close = evidence.closeness(rotation, fitted, judged, rng)
    rotation = refine(fitted, rotation, (LAST, POLISH), rng, watch)
    close = evidence.closeness(rotation, fitted, judged, rng)
    return rotation, Evidence(close, np.empty(0)), start


def _from_halves(
    fitted: Sides, judged: Sides, rng: np.random.Generator, watch: Watch
) -> tuple[Array, Evidence]:
    """The rotation with all pairs, from the mean of those with either half, which judge it."""
    p, q = fitted.pair_source, fitted.pair_target
    order = rng.permutation(len(p))
    nearer, total = np.empty(len(p)), np.zeros((p.shape[1], q.shape[1]), np.float32)
    far: list[int] = []
    for rows, others in ((order[::2], order[1::2]), (order[1::2], order[::2])):
        half = dataclasses.replace(fitted, pair_source=p[rows], pair_target=q[rows])
        rotation = refine(half, _of_pairs(half), (LAST,), rng, watch)
        image = unit_rows(p[others] @ rotation)
        nearer[others] = evidence.nearer_texts(image, q[others], judged.target)
        far += evidence.contradicting(others, nearer[others])
        total += rotation
    rotation = refine(fitted, rotation_of(total, min(total.shape)), (POLISH,), rng, watch)
    close = evidence.closeness(rotation, fitted, judged, rng)
    found = Evidence(close, nearer, tuple(sorted(far)))
    if not found.found:
        raise _refusal(found)
    _require_consistent(found)
    return rotation, found


def _of_pairs(sides: Sides) -> Array:
    cross = sides.pair_source.T @ sides.pair_target
    return rotation_of(cross, min(len(sides.pair_source), *cross.shape))


def _refusal(found: Evidence) -> AlignmentError:
    if len(found.nearer):
        got = f"{np.median(found.nearer):.0%} of texts nearer than a held-out partner (median)"
        expected = f"{evidence.NEAR:.0%} or less"
        hint = "are the pairs the same texts? Else more of them, or more unshared texts"
    else:
        got, expected = f"closeness {found.closeness:.3f}", f"{evidence.CLOSE} or more"
        few = f"{evidence.ENOUGH_PAIRS} pairs are often enough"
        hint = f"{few}; or more unshared texts, of the same kind on both sides"
    return AlignmentError("no alignment was found", got=got, expected=expected, hint=hint)


def _require_consistent(found: Evidence) -> None:
    """Raise InputError when pairs contradict the others: a shuffle moves at least two."""
    far = found.contradicting
    if len(far) > max(1, len(found.nearer) // 20):
        raise InputError(
            "some pairs contradict the others: their texts may not be the same",
            got=f"rows {', '.join(str(row) for row in far[:20])}, counted from 0",
            hint="leave these rows out; or take unshared texts of one kind on both sides",
        )


def _warnings(x: HiddenStates, y: HiddenStates, far: tuple[int, ...]) -> tuple[str, ...]:
    found = []
    if (fewest := min(len(x), len(y))) < LOW_TEXTS:
        found.append(f"{fewest} unshared texts are few; {LOW_TEXTS} or more make a better map")
    if far:
        rows = ", ".join(map(str, far))
        found.append(f"pairs far from where the others' map puts them: rows {rows}, from 0")
    return tuple(found)


def _require_usable(
    x: HiddenStates, y: HiddenStates, pairs: tuple[HiddenStates, HiddenStates] | None
) -> None:
    whole = len(x) == x.n_texts and len(y) == y.n_texts  # `rows` keeps the digest of all texts
    if whole and x.text_digest and x.text_digest == y.text_digest:
        problem = "the unshared texts of source and target are the same texts"
        raise InputError(problem, hint="a fit on them as pairs is far better")
    for side, name in ((x, "source"), (y, "target")):
        if side.text_index is not None:
            raise InputError(f"the {name} has a state a token", expected="one state a text")
        if len(side) < FEWEST_TEXTS:
            problem = f"the unshared texts of the {name} are too few"
            raise InputError(problem, got=str(len(side)), expected=f"{FEWEST_TEXTS} or more")
    if pairs is None:
        return
    pairs[0].require_same_texts(pairs[1])
    for some, many, name in ((pairs[0], x, "source"), (pairs[1], y, "target")):
        some.space.require(many.space, f"the pairs' {name} states are not like the unshared ones")
    if len(pairs[0]) < FEWEST_PAIRS:
        hint = "or none: fits without pairs need more unshared texts"
        raise InputError(
            "the pairs are too few", got=str(len(pairs[0])), expected=f"{FEWEST_PAIRS} or more",
            hint=hint,
        )  # fmt: skip
