"""Evaluate a head on labelled states, alone or after a map."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from linalign_lite.alignment.report import FEW_AN_OUTPUT
from linalign_lite.core.affine_map import AffineMap, Array
from linalign_lite.core.head import Head
from linalign_lite.core.hidden_states import HiddenStates, as_states
from linalign_lite.core.metrics import Interval, bootstrap_accuracy, majority, recall_per_class
from linalign_lite.core.space import Space
from linalign_lite.core.text_tables import Pairs
from linalign_lite.core.verdict import Grade, Measurement, Verdict, of_accuracy
from linalign_lite.errors import InputError, MismatchError

NEVER = 5  # labels named of those that are never right


@dataclass(frozen=True)
class Evaluation(Measurement):
    """Accuracy with its interval, and recall of each class.

    ``majority``: accuracy of predicting the most frequent label. ``unknown``: number of rows whose
    label the head does not have; they count as wrong. ``own``: held-out accuracy of the head on its
    own model's states, where a map was between and the head's card has it.
    """

    accuracy: Interval
    n: int
    majority: float
    unknown: int
    per_class: Mapping[str, float]
    own: float | None = None
    step: str = "more labelled texts, or another model"  # that most likely helps
    seen: bool = False  # the texts are those that the head was trained on

    @property
    def verdict(self) -> Verdict:
        """Grade of the accuracy beside the commonest label's, and beside the head's own."""
        a = self.accuracy
        if self.seen:
            reason = f"accuracy {a.value:.3f} on the texts that the head was trained on"
            return Verdict(Grade.poor, reason, "measure on other labelled texts")
        return of_accuracy(a.value, a.low, self.majority, own=self.own, advice=self.step)

    def as_dict(self) -> dict[str, Any]:
        """Values of the report for JSON."""
        interval = asdict(self.accuracy)
        rest = {"n": self.n, "majority": self.majority, "own": self.own, "unknown": self.unknown}
        return {"accuracy": interval.pop("value"), **interval, **rest}

    def rows(self) -> Pairs:
        """Names and values of the report for printing."""
        a = self.accuracy
        interval = f"{a.low:.4f} to {a.high:.4f}, {a.confidence:.0%} bootstrap"
        rows: Pairs = [
            ("accuracy", f"{a.value:.4f} ({interval})"),
            ("texts", self.n),
            ("majority label", f"{self.majority:.4f}"),
        ]
        if self.own is not None:
            rows.append(("head on its own states", f"{self.own:.4f} (held out)"))
        if never := [name for name, recall in self.per_class.items() if recall == 0]:
            shown = ", ".join(never[:NEVER]) + (", …" if len(never) > NEVER else "")
            rows.append(("labels never right", f"{len(never)} of {len(self.per_class)}: {shown}"))
        if self.unknown:
            rows.append(("labels unknown to the head", f"{self.unknown} texts, all wrong"))
        return rows


def evaluate(
    head: Head,
    states: HiddenStates | Array,
    labels: npt.ArrayLike | None = None,
    *,
    affine: AffineMap | None = None,
) -> Evaluation:
    """Accuracy of arg-max head(map(state)) against the states' labels.

    labels: (n,), the label of each row, strings or whole numbers; default: those of the states.
    Raises InputError without labels, MismatchError when there are none in common, or when head, map
    and states do not belong together.
    """
    states = as_states(states, labels)
    truth = label_outputs(head, states)
    require_readable(head.space, states, affine, "head")
    known = truth >= 0
    if not known.any():
        raise no_common_label(states.labels, head.labels)
    guess = head.predict(states.states if affine is None else affine(states.states))
    recall = recall_per_class(truth[known], guess[known], head.n_outputs).tolist()
    step = {} if affine is None else {"step": next_map(affine.card, head.n_outputs)}
    return Evaluation(
        accuracy=bootstrap_accuracy(truth, guess),
        n=len(states),
        majority=majority(truth),
        unknown=int((~known).sum()),
        per_class={n: r for n, r in zip(head.labels, recall, strict=True) if not np.isnan(r)},
        own=None if affine is None else _own_accuracy(head),
        seen=bool(states.text_digest) and states.text_digest == head.card.get("text_digest"),
        **step,
    )


def no_common_label(of_texts: Sequence[str], of_head: Sequence[str]) -> MismatchError:
    """Return the error for texts of which the head has no label."""
    got, expected = (", ".join(names[:3])[:80] for names in (of_texts, of_head))
    problem = "head and texts have no label in common"
    return MismatchError(problem, got=got, expected=expected)


def next_map(card: Mapping[str, Any], n_outputs: int) -> str:
    """The step that most likely makes a map serve a head better, by how it was fitted.

    A fit for the head pays with several texts an output (docs/FIGURES.md); of fewer it makes less
    than least squares do.
    """
    few, kl = card.get("n_few"), "head" in card  # of a fit for one
    reach = "a `head` on these states shows what their own model can reach"
    if few and kl and few < FEW_AN_OUTPUT * n_outputs:
        return f"the same few texts without --objective kl, or more of them ({few} now); {reach}"
    if few and kl:
        return f"first see what is left to gain: {reach}; then more of the few texts ({few} now)"
    if few and few < FEW_AN_OUTPUT * n_outputs:
        step = f"more of the few texts ({few} now)"
    elif few:
        step = "the same few texts with --objective kl for this head, or more of them"
    else:
        step = "a few texts of this kind (--with-few)"
    return f"{step}; {reach}"


def _own_accuracy(head: Head) -> float | None:
    """The held-out accuracy in the head's card, if it is a share."""
    found = head.card.get("held_out_accuracy")
    return found if isinstance(found, float) and 0 <= found <= 1 else None


def label_outputs(head: Head, states: HiddenStates) -> npt.NDArray[np.intp]:
    """The head's output for each state's label, matched by name, (n,); -1 where it has none.

    Raises InputError when either has no labels.
    """
    if not head.labels:
        raise InputError("this head has no labels", expected="a classifier, not a token head")
    if states.label_ids is None:
        raise InputError(
            "these states have no labels",
            hint="extract from a file with labels; vectors have them as payload or column `label`",
        )
    output = {name: i for i, name in enumerate(head.labels)}
    to_head = np.array([output.get(name, -1) for name in states.labels], dtype=np.intp)
    return np.asarray(to_head[states.label_ids])


def require_readable(
    space: Space, states: HiddenStates, affine: AffineMap | None, reader: str
) -> None:
    """Raise MismatchError unless a ``reader`` of ``space`` reads the states, or their images."""
    if affine is None:
        space.require(
            states.space, f"this {reader} does not read these states", hint="or is --map missing?"
        )
    else:
        affine.require_readable(states.space)
        space.require(affine.target, f"this map does not lead into this {reader}'s space")
