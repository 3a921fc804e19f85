"""Encrypted scoring: its cost, beside SEAL alone and beside other libraries."""

from __future__ import annotations

from linalign_lite.encrypt.fitting.cost import predict_fit
from linalign_lite.encrypt.fitting.shape import FitShape
from linalign_lite.encrypt.parameters import PRIVATE
from tabling.base import load, table


def encrypted() -> str:
    columns = []
    for found in load("clinc150")["encrypted"]:
        ms, bulk = found["median_ms"], found["bulk"]
        seconds = bulk["seconds"]
        columns.append([
            f"{found['same_argmax']:,} and {bulk['same_argmax']:,} of {found['queries']:,}",
            f"{max(found['max_abs_error'], bulk['max_abs_error']):.1e}"
            f" ({min(found['precision_bits'], bulk['precision_bits']):.0f} bits)",
            f"{ms['encrypt']:.1f} + {ms['score']:.1f} + {ms['decrypt']:.1f} ms",
            f"{found['query_bytes'] / 1e3:.0f} kB, {found['response_bytes'] / 1e3:.0f} kB",
            f"{seconds['encrypt']:.1f} + {seconds['score']:.1f} + {seconds['decrypt']:.1f} s"
            f" ({bulk['ms_per_query']:.2f} ms a query,"
            f" {bulk['times_faster_than_single']:.0f} times faster)",
            f"{bulk['score_seconds_two_processes']:.1f} s",
            f"{bulk['query_bytes_each'] / 1e3:.1f} kB, {bulk['response_bytes_each'] / 1e3:.1f} kB",
        ])  # fmt: skip
    names = ["same answer as without encryption, one by one and all at once",
             "largest error of a score", "one query: encrypt + score + decrypt, median",
             "one query: bytes asked, answered", "all at once: encrypt + score + decrypt",
             "all at once: score with two processes", "all at once: bytes a query"]  # fmt: skip
    found = load("clinc150")["encrypted"][0]
    title = f"{found['queries']:,} queries, {found['dim']} dimensions, {found['classes']} classes"
    rows = [[name, *cells] for name, *cells in zip(names, *columns, strict=True)]
    return table([title, "`private`", "`trusted`"], rows)


def private() -> str:
    """One private query against TenSEAL's own calls."""
    rows = []
    for r in load("encrypt")["shapes"]:
        ours, ms = r["ours"], r["tenseal"]["ms"]
        mine, theirs = ours["private"], ours["trusted"]
        faster = mine["times_faster"]
        rows.append([
            f"{r['dim']}, {r['classes']}", f"{mine['ms']:.1f} ms", f"{theirs['ms']:.1f} ms",
            f"{ms['matmul']:.0f} ms", f"{ms['dot']:.0f} ms", f"{ms['client_sum']:.0f} ms",
            f"{faster['matmul']:.0f}, {faster['dot']:.0f},"
            f" {faster['client_sum']:.1f}",
            f"{theirs['times_faster']['matmul']:.0f}",
        ])  # fmt: skip
    head = ["dimensions, classes", "ours, `private`", "ours, `trusted`", "TenSEAL `matmul`",
            "`dot` per class", "elementwise, client sums",
            "`private` times faster than these", "`trusted` than `matmul`"]  # fmt: skip
    return table(head, rows)


def floors() -> str:
    """Ours against what SEAL alone needs, by step, with bytes and errors."""
    rows = []
    for r in load("encrypt")["shapes"]:
        for name, p in r["ours"].items():
            steps = p["steps_ms"]
            rows.append([
                f"{r['dim']}, {r['classes']}", f"`{name}`",
                f"{steps['encrypt']:.1f} + {steps['score']:.1f} + {steps['decrypt']:.1f} ms",
                f"{p['over_floor']['median']:.1f}", f"{p['max_abs_error']:.0e}",
                f"{p['query_bytes'] / 1e3:.0f} + {p['response_bytes'] / 1e3:.0f} kB",
            ])  # fmt: skip
    head = ["dimensions, classes", "profile", "encrypt + score + decrypt",
            "times SEAL's bare operations", "error", "query + response"]  # fmt: skip
    return table(head, rows)


def peers() -> str:
    """Other libraries, each with its keys."""
    rows = []
    for r in load("encrypt")["shapes"]:
        t, ours = r["tenseal"], r["ours"]["private"]
        asked = f"{(ours['query_bytes'] + ours['response_bytes']) / 1e3:.0f} kB"
        rows.append([f"{r['dim']}, {r['classes']}", "linalign-lite `private`",
                     f"{ours['ms']:.1f} ms", "1", f"{ours['max_abs_error']:.0e}", "none", asked,
                     "yes"])  # fmt: skip
        rows += [
            ["", f"{p['peer']} {p['version']}", f"{p['median_ms']:.1f} ms",
             f"{p['times_faster']:.{2 if p['times_faster'] < 10 else 0}f}",
             f"{p['max_abs_error']:.0e}",
             f"{p['key_bytes'] / 1e6:.1f} MB",
             f"{(p['query_bytes'] + p['response_bytes']) / 1e3:.0f} kB", "no"]
            for p in r["peers"]
        ]  # fmt: skip
        sent = t["query_bytes"] + t["response_bytes"]["dot"]
        rows.append(["", "tenseal `dot`", f"{t['ms']['dot']:.0f} ms",
                     f"{ours['times_faster']['dot']:.0f}",
                     f"{t['max_abs_error']['dot']:.0e}", f"{t['key_bytes'] / 1e6:.1f} MB",
                     f"{sent / 1e3:.0f} kB", "no"])  # fmt: skip
    head = ["dimensions, classes", "", "one query", "over ours", "error", "evaluation keys",
            "query + response", "hides the head"]  # fmt: skip
    return table(head, rows)


def service() -> str:
    """The scoring service: capacity beside the library, latency, overload."""
    found = load("service")
    head = ["clients", "service, queries a second", "library in process", "share", "median", "p99"]
    rows = []
    for clients, r in found["capacity"].items():
        cells = [clients, f"{r['service']:.0f}", f"{r['library']:.0f}", f"{r['share']:.2f}"]
        rows.append([*cells, f"{r['median_ms']:.1f} ms", f"{r['p99_ms']:.1f} ms"])
    steady = found["at_80_percent"]
    cells = ["64, at 80 % of that", "", "", ""]
    rows.append([*cells, f"{steady['median_ms']:.1f} ms", f"{steady['p99_ms']:.1f} ms"])
    flood = found["overload"]
    right, refused = (flood["status"].get(k, 0) for k in ("200", "429"))
    text = (
        f"Ready after {found['ready_s']:.1f} s with {1 + len(found['sizes'])} heads; idle"
        f" {found['idle_mb']:.0f} MB, service and one process together. Asked ten times as much as"
        f" it can, 1,024 clients: {right:,} answers, {refused:,} times 429, {flood['lost']}"
        f" requests lost, {flood['wrong']} wrong answers of 50; memory {flood['mb_before']:.0f} to"
        f" {flood['mb_most']:.0f} MB."
    )
    return table(head, rows) + "\n\n" + text


def sizing() -> str:
    """Sizing of a service: queries a second of one process, and what each sends."""
    found, rows = load("service"), []
    small = found["capacity"]["8"]["service"]
    for name, r in {"384-10": {"service": small}, **found["sizes"]}.items():
        sent = [f"{r[k] / 1e3:.0f} kB" if k in r else "" for k in ("query", "response")]
        rows.append([name.replace("-", ", "), f"{r['service']:.0f}", *sent])
    head = ["dimensions, classes", "queries a second", "query", "response"]
    return table(head, rows)


def private_fit() -> str:
    """A fit from encrypted states, beside what was predicted and TenSEAL's own products."""
    rows = []
    for r in load("private_fit")["sizes"]:
        steps, r2, n = r["steps"], r["r2"], r["n"]
        shape = FitShape(n, r["folds"], 0, r["d_source"], PRIVATE.degree)
        cost = predict_fit(shape, r["d_target"])
        seconds = " + ".join(f"{s['cpu_seconds']:.1f}" for s in steps.values())
        expected = " + ".join(f"{s:.1f}" for s in (cost.offer_s, cost.answer_s, cost.finish_s))
        rows.append([
            f"{n:,}, {r['d_source']} → {r['d_target']}", str(r["folds"]),
            f"{r['offer_bytes'] / 1e6:.1f} + {r['answer_bytes'] / 1e6:.1f} MB",
            f"{cost.offer_bytes / 1e6:.1f} + {cost.answer_bytes / 1e6:.1f}",
            f"{seconds} s", expected,
            f"{r['peak_bytes'] / 1e6:.0f} MB", f"{cost.memory / 1e6:.0f}",
            f"{r2['private']:.4f}", f"{r2['gap']:.0e}",
            f"{r['tenseal']['cpu_seconds'] / 3600:.1f} h, {r['tenseal']['bytes'] / 1e9:.1f} GB",
        ])  # fmt: skip
    head = ["texts, dimensions", "folds", "offer + answer", "predicted",
            "processor: offer + answer + finish", "predicted", "peak memory", "predicted",
            "R² on 2,000 other texts", "distance from the clear map's",
            "TenSEAL's products, calculated"]  # fmt: skip
    return table(head, rows)


TABLES = (encrypted, private, floors, peers, private_fit, service, sizing)
