"""Evaluation of a hybrid: figures against slow loops, identity maps, the command, real models."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from functools import cache
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import log_softmax

from linalign_lite import AffineMap, Head, Texts, demo, extract, fit, load_model, read_texts
from linalign_lite import save as save_file
from linalign_lite.commands import main
from linalign_lite.core.token_alignment import pair_states
from linalign_lite.errors import InputError, MismatchError
from linalign_lite.generation.evaluation import teacher_forcing, token_metrics
from linalign_lite.generation.evaluation.judge_map import judge
from linalign_lite.generation.evaluation.sampled_texts import draw_prompts, first_words, repetition
from linalign_lite.generation.evaluation.teacher_forcing import reads_ahead
from linalign_lite.generation.evaluation.token_metrics import compare, negative_log_likelihood
from linalign_lite.generation.hybrid import generate

FOLDERS = {name: str(demo.model_folder(name)) for name in ("ash", "birch")}
STORIES = Texts((
    "Once upon a time there was a little girl named Lily. She saw a big red ball in the caf\u00e9.",
    "Tom and the dog went to the park. They played with a ball, and then they all went home.",
    "The cat sat.",
    "One day a bird \U0001f642 sang to the sun.\nIt was happy. The sun said: \u201cThank you!",
))  # fmt: skip


@cache
def model(name):
    return load_model(FOLDERS[name], threads=1)


def a_map(source, target, weight=None, pooling="tokens"):
    ends = [m.card.space(pooling, normalize=False) for m in (source, target)]
    if weight is None:
        weight = np.random.default_rng(3).normal(size=(ends[1].dim, ends[0].dim)) / 8
    bias = np.linspace(-0.1, 0.1, ends[1].dim, dtype=np.float32)
    return AffineMap(weight.astype(np.float32), bias, *ends)


def identity(name):
    eye = np.eye(model(name).card.hidden_size, dtype=np.float32)
    ends = [model(name).card.space("tokens", normalize=False)] * 2
    return AffineMap(eye, np.zeros(len(eye), dtype=np.float32), *ends)


def logs(weight, bias, state):
    """Log softmax of one row, number by number."""
    scores = [
        sum(float(w) * float(z) for w, z in zip(row, state, strict=True)) + float(b)
        for row, b in zip(weight, bias, strict=True)
    ]
    top = max(scores)
    norm = top + math.log(sum(math.exp(s - top) for s in scores))
    return [s - norm for s in scores]


# --- scores -----------------------------------------------------------------------------------


@given(
    n=st.integers(0, 9),
    outputs=st.integers(1, 12),
    dim=st.integers(1, 4),
    tile=st.sampled_from([(1, 1), (2, 3), (4, 7), (128, 4096)]),
    seed=st.integers(0, 99),
)
@settings(max_examples=40, deadline=None, derandomize=True)
def test_sums_are_those_of_a_slow_loop(n, outputs, dim, tile, seed):
    rng = np.random.default_rng(seed)
    head = Head(rng.normal(size=(outputs, dim)), rng.normal(size=outputs))
    true, mapped = rng.normal(size=(2, n, dim)) * 3
    token = rng.integers(0, outputs, size=n)
    with mock.patch.multiple(token_metrics, ROWS=tile[0], OUTPUTS=tile[1]):
        found = compare(head, true, mapped, token)
        nats = negative_log_likelihood(head, mapped, token)
    wanted = {"target_nats": 0.0, "hybrid_nats": 0.0, "agreeing": 0, "overlapping": 0, "kl": 0.0}
    for y, z, t in zip(true, mapped, token, strict=True):
        p, q = (logs(head.weight, head.bias, row) for row in (y, z))
        wanted["target_nats"] -= p[t]
        wanted["hybrid_nats"] -= q[t]
        best = [sorted(range(outputs), key=lambda i, x=x: -x[i]) for x in (p, q)]
        wanted["agreeing"] += best[0][0] == best[1][0]
        wanted["overlapping"] += len(set(best[0][:5]) & set(best[1][:5]))
        wanted["kl"] += sum(math.exp(a) * (a - b) for a, b in zip(p, q, strict=True))
    assert found.positions == n
    assert (found.agreeing, found.overlapping) == (wanted["agreeing"], wanted["overlapping"])
    assert found.target_nats == pytest.approx(wanted["target_nats"], abs=1e-9)
    assert found.hybrid_nats == pytest.approx(wanted["hybrid_nats"], abs=1e-9)
    assert found.divergence == pytest.approx(wanted["kl"], abs=1e-9)
    assert nats == pytest.approx(wanted["hybrid_nats"], abs=1e-9)


def test_scores_are_never_held_all_at_once(monkeypatch):
    seen = []
    plain = token_metrics.apply_affine
    monkeypatch.setattr(
        token_metrics, "apply_affine", lambda *a: seen.append(plain(*a)) or seen[-1].copy()
    )
    monkeypatch.setattr(token_metrics, "ROWS", 10)
    monkeypatch.setattr(token_metrics, "OUTPUTS", 300)
    head = Head(np.ones((1000, 2), np.float16), np.zeros(1000, np.float16))
    states = np.ones((95, 2), np.float32)
    compare(head, states, states, np.zeros(95, np.int64))
    assert max(scores.size for scores in seen) == 3000
    assert sum(scores.size for scores in seen) == 2 * 95 * 1000
    assert {scores.dtype for scores in seen} == {np.dtype(np.float32)}


@given(seed=st.integers(0, 99), scale=st.sampled_from([0.1, 3.0, 40.0]))
@settings(max_examples=20, deadline=None, derandomize=True)
def test_float32_tiles_are_as_exact_as_scipy_in_float64(seed, scale):
    rng = np.random.default_rng(seed)
    head = Head(rng.normal(size=(500, 8)).astype(np.float32), np.zeros(500, np.float32))
    true, mapped = (rng.normal(size=(2, 40, 8)) * scale).astype(np.float32)
    token = rng.integers(0, 500, size=40)
    with mock.patch.multiple(token_metrics, ROWS=16, OUTPUTS=64):
        found = compare(head, true, mapped, token)
    p, q = (log_softmax(x.astype(np.float64) @ head.weight.T, axis=1) for x in (true, mapped))
    rows = np.arange(40)
    assert found.target_nats == pytest.approx(-p[rows, token].sum(), rel=1e-5)
    assert found.divergence == pytest.approx((np.exp(p) * (p - q)).sum(), rel=1e-4, abs=1e-4)
    assert found.agreeing == (p.argmax(axis=1) == q.argmax(axis=1)).sum()
    tops = [np.argsort(-x, axis=1)[:, :5] for x in (p, q)]
    assert found.overlapping == sum(len(set(a) & set(b)) for a, b in zip(*tops, strict=True))


def test_a_soft_cap_counts():
    weight = np.array([[4.0], [0.0]])
    capped = Head(weight, np.zeros(2), softcap=1.0)
    nats = negative_log_likelihood(capped, np.ones((1, 1)), np.array([1]))
    assert nats == pytest.approx(math.log(1 + math.exp(math.tanh(4))))


# --- positions ----------------------------------------------------------------------------------


@cache
def slow(source_length=None, target_length=None):
    """Positions, nats and characters computed text by text from the tokenizers' output."""
    source, target, texts = model("birch"), model("ash"), STORIES.texts
    affine = a_map(source, target)
    heads, rows = (target.token_head(), source.token_head()), []
    for text in texts:
        sides = []
        for m, length in ((target, target_length), (source, source_length)):
            found = m.encode([text], length)[0]
            ids = np.array([found.ids])
            states = m.run(ids, np.ones_like(ids))[0]
            real = [i for i, special in enumerate(found.special) if not special]
            # the last token with an end is the one that completes it
            last = {found.char_end[i]: k for k, i in enumerate(real) if found.char_end[i]}
            sides.append((found, states, real, last))
        for end in sorted(set(sides[0][3]) & set(sides[1][3])):
            at = [side[3][end] for side in sides]
            if any(k + 1 == len(side[2]) for k, side in zip(at, sides, strict=True)):
                continue
            row = []
            for k, (found, states, real, _), head in zip(at, sides, heads, strict=True):
                token = found.ids[real[k + 1]]
                z = states[real[k]]
                row.append((z, token, found.char_end[real[k + 1]] - end, head))
            rows.append(row)
    nats, chars, agree = [0.0, 0.0, 0.0], [0, 0], 0
    for (z, token, added, head), (x, other, theirs, own) in rows:
        true, said = (logs(head.weight, head.bias, s) for s in (z, affine.weight @ x + affine.bias))
        nats[0] -= true[token]
        nats[1] -= said[token]
        nats[2] -= logs(own.weight, own.bias, x)[other]
        chars[0] += added
        chars[1] += theirs
        agree += np.argmax(true) == np.argmax(said)
    n = len(rows)
    bits = [a / b / math.log(2) for a, b in zip(nats, (chars[0], *chars), strict=True)]
    return n, [x / n for x in nats], bits, agree / n


@pytest.mark.parametrize("window", [1, 3, 256])
def test_figures_are_those_of_a_slow_loop(monkeypatch, window):
    monkeypatch.setattr(teacher_forcing, "WINDOW", window)
    birch, ash = model("birch"), model("ash")
    affine = a_map(birch, ash)
    done = []
    found = judge(birch, ash, affine, STORIES, samples=3, sample_tokens=4, prompt_characters=60,
                  progress=done.append)  # fmt: skip
    n, nats, bits, agreement = slow()
    sides = (found.target, found.hybrid, found.source)
    assert (found.texts, found.cut, found.positions, found.top) == (4, 0, n, 5)
    assert [f.cross_entropy for f in sides] == pytest.approx(nats, rel=1e-5)
    assert [f.bits_per_character for f in sides] == pytest.approx(bits, rel=1e-5)
    assert found.agreement == pytest.approx(agreement)
    assert found.divergence > 0.1
    assert sum(done) == len(STORIES.texts) + 3
    assert found.source.perplexity is None


def shortened(name, length):
    """The model with a smaller context."""
    whole = model(name)
    return replace(whole, card=replace(whole.card, max_length=length))


@pytest.mark.parametrize("lengths", [(7, 384), (384, 7), (9, 13)])
def test_a_position_needs_a_next_token_on_both_sides(lengths):
    """If one context ends before the other, its last token has no next token."""
    birch, ash = shortened("birch", lengths[0]), shortened("ash", lengths[1])
    found = judge(birch, ash, a_map(birch, ash), STORIES, samples=0)
    n, nats, bits, _ = slow(*lengths)
    sides = (found.target, found.hybrid, found.source)
    assert (found.positions, found.cut) == (n, 3)
    assert [f.cross_entropy for f in sides] == pytest.approx(nats, rel=1e-5)
    assert [f.bits_per_character for f in sides] == pytest.approx(bits, rel=1e-5)


@pytest.mark.parametrize("name", ["ash", "birch"])
def test_an_identity_map_changes_nothing(name):
    same = model(name)
    for affine in (identity(name), None):
        found = judge(same, same, affine, STORIES, samples=2, sample_tokens=12)
        assert (found.agreement, found.top_overlap) == (1.0, 1.0)
        assert found.divergence == 0.0
        assert found.hybrid.cross_entropy == found.target.cross_entropy
        assert found.source.cross_entropy == pytest.approx(found.target.cross_entropy)
        assert found.hybrid == found.target
        assert [s.hybrid for s in found.examples] == [s.target for s in found.examples]
        assert found.warnings == ()


def test_unreadable_texts_are_left_out_and_cut_texts_are_counted():
    birch, ash = model("birch"), model("ash")
    affine = a_map(birch, ash)
    long = Texts(("the dog and the cat sat on a mat. " * 60,))
    found = judge(birch, ash, affine, long, samples=0)
    assert found.cut == 1
    assert (found.target.perplexity, found.target.repetition, found.samples) == (None, None, 0)
    with pytest.raises(InputError, match="no position to evaluate: got 1 texts"):
        judge(birch, ash, affine, Texts(("a",)), samples=0)
    with pytest.raises(InputError, match="no position to evaluate: got 0 texts"):
        judge(birch, ash, affine, Texts(()), samples=2)
    done = []
    mixed = Texts(("</s>", *STORIES.texts))  # one with special tokens only
    plain = judge(birch, ash, affine, STORIES, samples=0)
    found = judge(birch, ash, affine, mixed, samples=0, progress=done.append)
    assert found.positions == plain.positions
    assert found.hybrid.cross_entropy == pytest.approx(plain.hybrid.cross_entropy)
    assert sum(done) == 5


def test_windows_are_bounded_by_characters_too(monkeypatch):
    birch, ash = model("birch"), model("ash")
    hybrid = teacher_forcing.make_hybrid(birch, ash, a_map(birch, ash), None)
    width = 4 * (birch.card.hidden_size + ash.card.hidden_size)
    monkeypatch.setattr(teacher_forcing, "STATES", 10 * width)
    assert list(teacher_forcing.windows(hybrid, ["12345", "12345", "1", "x" * 99, "", "a"])) == [
        ["12345", "12345"], ["1"], ["x" * 99], ["", "a"],
    ]  # fmt: skip
    assert [len(w) for w in teacher_forcing.windows(hybrid, [""] * 600)] == [256, 256, 88]


# --- samples --------------------------------------------------------------------------------------


@given(st.lists(st.integers(0, 2), max_size=14))
@settings(max_examples=60, deadline=None, derandomize=True)
def test_repetition_is_that_of_a_slow_loop(items):
    seen, again, total = [], 0, 0
    for i in range(len(items) - 3):
        run = items[i : i + 4]
        again += run in seen
        seen.append(run)
        total += 1
    assert repetition(items) == (again / total if total else None)


@pytest.mark.parametrize(
    ("text", "characters", "wanted"),
    [
        ("one two three", 8, "one two"),
        ("one two three", 7, "one two"),
        ("one two three", 6, "one"),
        ("one  \n two", 6, "one"),
        ("onetwothree four", 6, "onetwo"),
    ],
)
def test_prompts_end_with_a_word(text, characters, wanted):
    assert first_words(text, characters) == wanted


def test_prompts_are_drawn_from_long_texts_in_order():
    texts = [f"{i} some words and more" for i in range(50)] + ["short", " " * 99]
    drawn = draw_prompts(texts, 5, 12, seed=1)
    assert len(drawn) == len(set(drawn)) == 5
    assert drawn == sorted(drawn, key=lambda p: int(p.split()[0]))
    assert all(p.endswith("some words"[: len(p.split(" ", 1)[1])]) for p in drawn)
    assert drawn == draw_prompts(texts, 5, 12, seed=1) != draw_prompts(texts, 5, 12, seed=2)
    assert len(draw_prompts(texts, 99, 12, seed=1)) == 50
    assert draw_prompts(texts, 0, 12, seed=1) == []


def test_samples_are_generated_and_read_by_the_target():
    birch, ash = model("birch"), model("ash")
    affine = a_map(birch, ash)
    found = judge(birch, ash, affine, STORIES, samples=9, sample_tokens=16, prompt_characters=40)
    assert (found.samples, len(found.examples)) == (3, 3)  # the third text is too short
    head, nats, counts = ash.token_head(), {}, {}
    for shown in found.examples:
        for who, text, reads, through in (
            ("hybrid", shown.hybrid, birch, affine),
            ("target", shown.target, ash, None),
        ):
            pieces = list(generate(reads, ash, shown.prompt, affine=through, max_tokens=16))
            assert text == "".join(p.text for p in pieces)
            encoded = ash.encode([shown.prompt + text])[0]
            ids = np.array([encoded.ids])
            states = ash.run(ids, np.ones_like(ids))[0]
            for i in range(1, ids.shape[1]):
                if encoded.special[i] or encoded.char_end[i] <= len(shown.prompt):
                    continue
                said = logs(head.weight, head.bias, states[i - 1])[encoded.ids[i]]
                nats[who] = nats.get(who, 0.0) - said
                counts[who] = counts.get(who, 0) + 1
    assert set(nats) == {"hybrid", "target"}
    for who, total in nats.items():
        wanted = math.exp(total / counts[who])
        assert getattr(found, who).perplexity == pytest.approx(wanted, rel=1e-4)
    assert found.hybrid.perplexity > found.target.perplexity


def test_texts_too_short_for_a_prompt_are_reported():
    ash = model("ash")
    done = []
    found = judge(ash, ash, None, STORIES, samples=2, prompt_characters=500, progress=done.append)
    assert (found.samples, found.examples) == (0, ())
    assert "no text is longer than 500 characters" in found.warnings[0]
    assert sum(done) == len(STORIES.texts) + 2


# --- parts that do not belong together -----------------------------------------------------------


def test_parts_that_do_not_fit_are_refused():
    birch, ash = model("birch"), model("ash")
    good = a_map(birch, ash)
    cases = [
        ((birch, ash, a_map(ash, birch)), {}, MismatchError, "not belong to the source model"),
        ((birch, ash, a_map(birch, birch)), {}, MismatchError, "not belong to the target model"),
        ((birch, ash, a_map(birch, ash, pooling="mean")), {}, MismatchError, "tokens"),
        ((birch, ash, None), {}, InputError, "two models need a map"),
        ((birch, ash, good), {"head": birch.token_head()}, MismatchError, "this head"),
        ((birch, ash, good), {"head": Head(np.ones((3, 128)), np.zeros(3))}, MismatchError,
         "expected 1024 outputs"),
        ((birch, ash, good), {"samples": -1}, InputError, "samples"),
        ((birch, ash, good), {"sample_tokens": 0}, InputError, "tokens of a sample"),
        ((birch, ash, good), {"prompt_characters": 0}, InputError, "characters of a prompt"),
        ((birch, ash, good), {"seed": -1}, InputError, "seed"),
    ]  # fmt: skip
    for args, more, error, words in cases:
        with pytest.raises(error, match=words):
            judge(*args, STORIES, **more)


def without_head(source):
    """The model as if exported without its token head."""
    files = {k: v for k, v in source.card.files.items() if "head" not in k}
    return replace(source, card=replace(source.card, files=files))


def test_without_a_token_head_a_source_has_no_figures_and_a_target_is_refused():
    birch, ash = model("birch"), model("ash")
    affine = a_map(birch, ash)
    found = judge(without_head(birch), ash, affine, STORIES, samples=0)
    assert found.source is None
    assert found.hybrid == judge(birch, ash, affine, STORIES, samples=0).hybrid
    with pytest.raises(InputError, match="no token head"):
        judge(birch, without_head(ash), affine, STORIES)


def test_a_source_that_reads_ahead_is_detected(monkeypatch):
    birch, ash = model("birch"), model("ash")
    assert not reads_ahead(birch, STORIES.texts[0])
    assert not reads_ahead(birch, "a")
    plain = type(birch).run

    def both_ways(self, ids, mask):
        states = plain(self, ids, mask)
        return states + states.mean(axis=1, keepdims=True) if self is birch else states

    monkeypatch.setattr(type(birch), "run", both_ways)
    assert reads_ahead(birch, STORIES.texts[0])
    found = judge(birch, ash, a_map(birch, ash), STORIES, samples=0)
    assert "birch reads a text whole" in found.warnings[0]


# --- the command ----------------------------------------------------------------------------------


def command(*args):
    return main(["evaluate-generation", "--threads", "1", *map(str, args)])


def test_the_command_prints_what_the_library_computes(tmp_path, capsys):
    birch, ash = model("birch"), model("ash")
    affine = a_map(birch, ash)
    save_file(tmp_path / "m.map.npz", affine)
    (tmp_path / "t.txt").write_text("\n--\n".join(STORIES.texts) + "\n--\n \n--\n")
    args = ("--source", FOLDERS["birch"], "--target", FOLDERS["ash"],
            "--map", tmp_path / "m.map.npz", tmp_path / "t.txt", "--separator", "--",
            "--samples", "2", "--sample-tokens", "9", "--seed", "4")  # fmt: skip
    assert command(*args, "--json") == 0
    captured = capsys.readouterr()
    found = json.loads(captured.out)
    wanted = judge(birch, ash, affine, STORIES, samples=2, sample_tokens=9, seed=4)
    assert (found["source_model"], found["target_model"], found["blank"]) == ("birch", "ash", 1)
    assert found["texts"] == len(STORIES.texts)  # the line break is inside a text
    assert found["hybrid"]["cross_entropy"] == pytest.approx(wanted.hybrid.cross_entropy, rel=1e-5)
    assert found["source"]["cross_entropy"] == pytest.approx(wanted.source.cross_entropy, rel=1e-5)
    assert found["agreement"] == pytest.approx(wanted.agreement)
    assert found["examples"][0]["target"] == wanted.examples[0].target
    assert "skipped" in captured.err
    assert command(*args, "--quiet") == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    lines = captured.out.splitlines()
    assert [line.split()[0] for line in lines[1:4]] == ["target,", "hybrid", "source,"]
    assert f"{wanted.hybrid.cross_entropy:.4f}"[:5] in lines[2]
    assert f"next-token agreement  {wanted.agreement:.4f}" in lines
    assert any(line.startswith("a prompt") for line in lines)


def test_the_command_without_a_map_and_with_wrong_ones(tmp_path, capsys):
    (tmp_path / "t.txt").write_text("\n".join(STORIES.texts))
    ash, birch = FOLDERS["ash"], FOLDERS["birch"]
    same = ("--source", ash, "--target", ash, tmp_path / "t.txt", "--samples", "0", "--json")
    assert command(*same) == 0
    assert json.loads(capsys.readouterr().out)["agreement"] == 1.0
    save_file(tmp_path / "m.map.npz", a_map(model("ash"), model("birch")))
    wrong = ("--source", birch, "--target", ash, tmp_path / "t.txt")
    for more, words in (
        ((), "two models need a map"),
        (("--map", tmp_path / "m.map.npz"), "does not belong to the source model"),
        (("--map", tmp_path / "gone"), "gone"),
        (("--separator", ""), "separator is not usable"),
        (("--format", "jsonl", "--separator", "x"), "a separator is for txt only"),
    ):
        assert command(*wrong, *more) == 2
        captured = capsys.readouterr()
        assert captured.out == ""
        assert words in captured.err


def test_extract_and_compat_take_a_separator(tmp_path, capsys):
    (tmp_path / "t.txt").write_text("One.\nTwo.\n--\nThree.\n")
    more = ("--separator", "--", "--json")
    args = ["extract", FOLDERS["ash"], str(tmp_path / "t.txt"), str(tmp_path / "x.npz"), *more]
    assert main(args) == 0
    assert json.loads(capsys.readouterr().out)["texts"] == 2
    assert main(["compat", FOLDERS["ash"], FOLDERS["birch"], str(tmp_path / "t.txt"), *more]) == 0
    assert json.loads(capsys.readouterr().out)["n_texts"] == 2


# --- the real models ------------------------------------------------------------------------------


@pytest.mark.shared
@pytest.mark.export
def test_story_models_through_a_ridge_map(shared, tmp_path):
    pytest.importorskip("optimum")
    from linalign_lite.onnx.model_export import export_model

    loaded = []
    for name in ("tinystories-656k", "stories260k"):
        export_model(str(shared / "models" / name), tmp_path / name)
        loaded.append(load_model(tmp_path / name))
    source, target = loaded
    data, separator = shared / "data", "<|endoftext|>"
    train = read_texts(str(data / "tinystories_train.txt"), separator=separator, limit=300)
    valid = read_texts(str(data / "tinystories_valid.txt"), separator=separator)
    assert len(valid.texts) > 200
    assert all("\n" in text for text in valid.texts[:3])
    states = [extract(m, train, pooling="tokens", normalize=False) for m in loaded]
    affine, _ = fit(*pair_states(*states))
    # neighbouring stories are similar: take every fourth
    found = judge(source, target, affine, Texts(valid.texts[::4]), samples=4, sample_tokens=32)
    assert 1.15 < found.target.cross_entropy < 1.32
    assert found.agreement > 0.35
    assert found.hybrid.cross_entropy > found.target.cross_entropy
    assert found.hybrid.perplexity > found.target.perplexity
    assert found.warnings == ()
