"""Time, memory and disk; and the machine itself."""

from __future__ import annotations

from typing import Any

from common import RESULTS

from tabling.base import SHORT, load, table


def speed() -> str:
    """Texts a second, beside every peer."""
    from extract import table as extraction

    return "\n".join(extraction(load("extract")))


def carrying() -> str:
    """Bundles; the README's table comes with the results: <!-- table: carrying -->."""
    found = load("bundle")
    rates, memory = found["mb_per_second"], found["memory_mb_above_import"]
    names = {"create": "`bundle create`", "verify": "`bundle verify`",
             "install": "`bundle install`", "sha256": "for comparison: SHA-256 alone",
             "copy": "for comparison: a copy, on the disk"}  # fmt: skip
    rows = [
        [title, f"{rates[n]['median']:.0f} ({rates[n]['min']:.0f} to {rates[n]['max']:.0f})",
         f"{memory[n]:.0f} MB" if n in memory else ""]
        for n, title in names.items()
    ]  # fmt: skip
    head = [f"{found['bytes'] / 1e6:.0f} MB", "MB/s, median (range)", "memory above the import"]
    return table(head, rows)


def start() -> str:
    medians = load("start")["median_seconds"]
    return table(["", "seconds, median"], [[f"`{k}`", f"{v:.2f}"] for k, v in medians.items()])


def fits() -> str:
    """A fit beside the products that it cannot do without, and from disk."""
    found = load("fit")
    memory, disk = found["memory"], found["disk"]
    run = disk["verified"]
    rows = [
        [f"over float64 XᵀX and XᵀY alone, {memory['n']:,} rows of {memory['d']:,}",
         f"{memory['over_bare']['median']:.2f} times their time"],
        ["over RidgeCV with 20 penalties", f"{memory['ridgecv']['times_slower']:.0f} times faster"],
        ["held-out R², ours and RidgeCV's",
         f"{memory['r2']['ours']:.4f}, {memory['r2']['ridgecv']:.4f}"],
        ["over Ridge with one penalty", f"{memory['ridge_over_one']['median']:.1f} times faster"],
        [f"{disk['rows']:,} rows of {disk['d']} from disk, peak memory",
         f"{run['peak_bytes'] / 1e9:.2f} GB"],
        ["share of the slower of disk and products",
         f"{run['share_of_slower']:.0%},"
         f" {disk['crc_alone']['share_of_slower']:.0%} without SHA-256"],
        *([f"`AffineAligner.fit`, {e['n']:,} rows of {e['d']}",
           f"{e['over_fit']:.2f} times the processor time of `fit`"] for e in found["estimator"]),
    ]  # fmt: skip
    return table(["a fit", ""], rows)


def fitted() -> str:
    """The same in two sentences, for the README."""
    found = load("fit")
    memory, disk = found["memory"], found["disk"]
    return (
        f"A fit from {memory['n']:,} states of {memory['d']:,} dimensions on both sides,"
        f" {memory['penalties']} penalties and\n{memory['folds']} folds, takes"
        f" {memory['over_bare']['median']:.1f} times as long as the products XᵀX and XᵀY alone;"
        f" scikit-learn's RidgeCV with\n{memory['ridgecv']['penalties']} penalties takes"
        f" {memory['ridgecv']['times_slower']:.0f} times as long as the fit, its Ridge with one"
        f" penalty {memory['ridge_over_one']['median']:.1f} times as long as ours with\none."
        f" From {disk['rows']:,} states on the disk it needs"
        f" {disk['verified']['peak_bytes'] / 1e9:.2f} GB of memory."
    )


def precision() -> str:
    """Distance of a map's weights from QR's on the rows, by the precision of moments."""
    rows = [
        [r["set"], f"{r['penalty']:g}", f"{r['float64']['weight_error']:.0e}",
         f"{r['mixed']['weight_error']:.0e}", *(f"{v:.6f}" for v in (
             r["qr_test_r2"], r["float64"]["test_r2"], r["mixed"]["test_r2"]))]
        for r in load("fit")["precision"]
    ]  # fmt: skip
    head = ["states", "penalty", "weights, float64", "mixed", "test R², QR", "float64", "mixed"]
    return table(head, rows)


def artefacts() -> str:
    """Head after map as ONNX, beside the same product in NumPy: 384 to 150, one thread."""
    rows, ways = [], ("onnxruntime", "onnxruntime, bound", "numpy", "head.apply")
    for r in load("artefacts")["speed"]:
        size = f"{r['bytes'] / 1e3:.0f} kB"
        times = [f"{r[k]:,.1f} µs" for k in ways]
        rows.append([r["dtype"], size, str(r["rows"]), *times])
    head = ["stored as", "file", "rows", "onnxruntime", "bound once", "NumPy, bare", "`Head.apply`"]
    return table(head, rows)


def fused() -> str:
    """CLINC150 through MiniLM and a logistic head as one graph."""
    rows = [
        [r["dtype"], f"{r['bytes'] / 1e6:.1f} MB", f"{r['accuracy']:.4f}",
         ", ".join(f"{k} {v:.1e}" for k, v in r["differences"].items())]
        for r in load("artefacts")["accuracy"]
    ]  # fmt: skip
    return table(["stored as", "file", "accuracy", "largest difference to NumPy"], rows)


def _cost(run: dict[str, Any]) -> list[str]:
    """Peak memory, and wall and processor time of one command."""
    return [f"{run['peak_mb']:.0f} MB", f"{run['seconds']:.1f} s, {run['processor_seconds']:.1f} s"]


def small() -> str:
    """Models on a small machine: a file of texts to states, and one text to a query."""
    found = load("small")
    names = {**SHORT, "all-minilm-l6-v2-int8": "MiniLM-L6, int8"}
    rows = [
        [names.get(r["model"], f"{r['model']} (bundled)"), f"{r['disk_mb']:.1f} MB",
         *_cost(r["extract"]), *_cost(r["encrypt"])]
        for r in found["models"]
    ]  # fmt: skip
    head = ["model", "on disk", f"`extract`, {found['texts']} texts: memory", "wall, processor",
            "`encrypt`, one text: memory", "wall, processor"]  # fmt: skip
    return table(head, rows)


def small_client() -> str:
    """Return the measurements that need no model on that machine."""
    found = load("small")
    part, python = found["client"], found["client"]["python"]
    runs = {
        "`--version`": found["bare"],
        **{f"`{name}`": part[name] for name in ("keygen", "encrypt", "score", "decrypt")},
        "in Python: keys, encryption": python["ask"],
        "in Python: decryption": python["read"],
    }
    rows = [[name, *_cost(run)] for name, run in runs.items()]
    title = f"one state, {part['dim']} dimensions, {part['classes']} classes"
    return table([title, "memory", "wall, processor"], rows)


def install() -> str:
    """Size of a base install on disk, and each dependency's share."""
    found = load("start")["installed_bytes"]
    whole = sum(sum(parts.values()) for parts in found.values())
    rows = []
    for name, parts in found.items():
        size = sum(parts.values())
        along = {n: f"{n} {b / 1e6:.1f}" for n, b in parts.items() if n != name}
        named = [text for n, text in along.items() if parts[n] >= 1e6]
        rest = [f"{len(along) - len(named)} smaller"] if len(named) < len(along) else []
        rows.append((size, [f"`{name}`", f"{parts[name] / 1e6:.1f} MB", ", ".join(named + rest),
                            f"{size / 1e6:.1f} MB", f"{size / whole:.0%}"]))  # fmt: skip
    lines = [row for _, row in sorted(rows, key=lambda one: -one[0])]
    lines.append(["together", "", "", f"{whole / 1e6:.1f} MB", ""])
    return table(["", "itself", "brings along, MB", "with that", "share"], lines)


def machine() -> str:
    """On which processors the figures were measured, and with what."""
    found = {path.stem: load(path.stem)["machine"] for path in sorted(RESULTS.glob("*.json"))}
    on: dict[str, list[str]] = {}
    for name, machine in found.items():
        on.setdefault(f"{machine['cores']} cores of an {machine['cpu']}", []).append(name)
    most, *others = sorted(on, key=lambda cpu: -len(on[cpu]))
    places = "; ".join([most, *(f"{', '.join(on[cpu])}: {cpu}" for cpu in others)])
    newest = max(found.values(), key=lambda machine: str(machine["date"]))
    versions = newest["versions"]
    names = ("numpy", "onnxruntime", "tenseal", "torch", "sentence-transformers")
    listed = ", ".join(f"{n} {versions[n]}" for n in names if n in versions)
    return f"Measured on {places}; Python {newest['python']}, {listed}."


TABLES = (
    speed,
    carrying,
    artefacts,
    fused,
    start,
    fits,
    fitted,
    precision,
    small,
    small_client,
    install,
    machine,
)
