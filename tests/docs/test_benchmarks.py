"""Every benchmark is among those that one command runs, with options that it has; one may fail."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest
from support import ROOT

BENCHMARKS = ROOT / "benchmarks"


@pytest.fixture(scope="module", autouse=True)
def _found():
    sys.path.insert(0, str(BENCHMARKS))
    yield
    sys.path.remove(str(BENCHMARKS))


@pytest.fixture(scope="module")
def every(_found):
    import importlib

    return importlib.import_module("all")


def test_every_script_is_run_or_left_out_with_a_reason(every):
    scripts = {
        p.name for p in BENCHMARKS.glob("*.py") if '__name__ == "__main__"' in p.read_text("utf-8")
    }
    run = [job.script for job in every.JOBS]
    assert len(set(run)) == len(run)
    assert set(run) | set(every.LEFT_OUT) == scripts
    assert not set(run) & set(every.LEFT_OUT)
    assert all(every.LEFT_OUT.values())


def test_every_option_is_one_of_the_script(every):
    for job in every.JOBS:
        text = (BENCHMARKS / job.script).read_text("utf-8")
        for option in (*job.options, *(job.quick or ())):
            if option.startswith("--"):
                assert f'"{option}"' in text, f"{job.script} has no {option}"
        assert every.EMPTY not in job.options or re.search(r'add_argument\("\w', text)


def test_one_that_fails_is_named_and_the_others_go_on(every, tmp_path, capsys):
    folder = tmp_path / "scripts"
    folder.mkdir()
    say = "import sys, os; print(sys.argv[1:], os.environ.get('LINALIGN_RESULTS'))"
    for name, code in (
        ("a.py", say),
        ("b.py", "sys.exit('no')"),
        ("c.py", say),
        ("tables.py", say),
    ):
        (folder / name).write_text(code)
    jobs = [every.Job("a.py", ("--much",)), every.Job("b.py"), every.Job("c.py", quick=None)]
    assert every.run(jobs, folder, tmp_path / "logs", quick=False) == 1
    said = capsys.readouterr().out.splitlines()
    assert [line.partition(",")[0] for line in said[:4]] == [
        "a.py: done", "b.py: FAILED", "c.py: done", "tables.py: done",
    ]  # fmt: skip
    assert re.fullmatch(r"4 scripts, \d+\.\d min, 1 failed", said[5])
    assert said[6].startswith("b.py: FAILED")
    assert said[6].endswith("b.log")
    assert (tmp_path / "logs" / "a.log").read_text() == "['--much'] None\n"
    assert "NameError" in (tmp_path / "logs" / "b.log").read_text()
    environment = {"LINALIGN_RESULTS": "elsewhere"}
    assert every.run(
        [jobs[0], jobs[2]], folder, tmp_path / "logs", quick=True, environment=environment
    ) == 0  # fmt: skip
    assert "c.py: left out" in capsys.readouterr().out
    assert (tmp_path / "logs" / "a.log").read_text() == "['--quick'] elsewhere\n"
    assert (tmp_path / "logs" / "tables.log").read_text() == "['--check'] None\n"


def test_the_scripts_asked_for_are_chosen(every):
    assert [j.script for j in every.chosen(every.JOBS, "fit.py, extract")] == [
        "extract.py",
        "fit.py",
    ]
    with pytest.raises(SystemExit, match=r"no such benchmark: nosuch.py; there are start, extract"):
        every.chosen(every.JOBS, "nosuch")


def test_the_command_says_what_there_is():
    done = subprocess.run(
        [sys.executable, str(BENCHMARKS / "all.py"), "--only", "nosuch"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "no such benchmark: nosuch.py" in done.stderr


POINTS = {
    "extraction": [
        {"model": name, "texts": n, "d": d, "graph_bytes": graph, "load_seconds": 0.5,
         "seconds": n / rate, "peak_bytes": 200_000_000 + 1000 * n, "disk_bytes": n * d * 4,
         "threads": 2}
        for name, d, graph, rate in (("large", 400, 90_000_000, 250.0), ("tiny", 64, 900_000, 2e4))
        for n in (16_000, 1_000)
    ],
    "moments": [
        {"rows": n, "d": 128, "seconds": n / 1e6, "solve_seconds": 0.1, "peak_bytes": 10**8,
         "disk_bytes": n * 1024}
        for n in (1 << 15, 1 << 17)
    ],
}  # fmt: skip
FIT = {
    "disk": {
        "rows": 1_000_000, "d": 100, "product_seconds": 3.0, "read_mb_per_second": 1000.0,
        "verified": {"share_of_slower": 0.5, "solve_seconds": 1.0},
    }
}  # fmt: skip


@pytest.fixture(scope="module")
def scale(_found):
    import importlib

    return importlib.import_module("scale")


def test_the_terms_are_those_of_the_formula(scale):
    large, tiny = sorted(scale.readers(POINTS), key=lambda r: -r.d)
    assert (large.name, large.rate, large.points[0][0]) == ("large", 250.0, 1000)
    assert large.seconds(1e6) == 4000.5
    assert large.seconds(40_960, 10) == 40_960 / 2500 + 0.5
    assert tiny.most_workers(1e9) == 1e9 / (2e4 * 4 * 64)
    terms = scale.products(FIT)
    assert (terms.g, terms.r, terms.s) == (1e10, 1e9, 0.5)
    # products: 3·10⁴ operations are 3 µs a row; reading: 800 bytes are 0.8 µs; half of it is kept
    assert terms.seconds(1e6, 100) == pytest.approx(6.0)
    # of 10 dimensions reading takes longer: 80 bytes
    assert terms.seconds(1e6, 10) == pytest.approx(0.16)
    assert terms.solve(200) == 8.0
    result = 5 * 2 * 100 * 100 * 8
    assert terms.traffic(65_536 * 1024, 100) == 1024 * result
    assert terms.traffic(65_536 * 1025, 100) == 33 * result
    assert terms.seconds(1e6, 100, 2) == pytest.approx(3.0 + 16 * result / 1e9)


def test_the_page_and_the_plot_are_made_of_the_results(scale, tmp_path):
    import json

    page, plot = tmp_path / "SCALE.md", tmp_path / "images" / "scale.svg"
    before = (ROOT / "docs" / "SCALE.md").read_text("utf-8")
    page.write_text(before, "utf-8")
    with pytest.raises(SystemExit, match=r"points.json is not there: python benchmarks/points.py"):
        scale.write(tmp_path, page, plot)
    (tmp_path / "points.json").write_text(json.dumps(POINTS))
    (tmp_path / "fit.json").write_text(json.dumps({"memory": {}}))
    with pytest.raises(SystemExit, match="no part `disk`"):
        scale.write(tmp_path, page, plot)
    assert page.read_text("utf-8") == before
    (tmp_path / "fit.json").write_text(json.dumps(FIT))
    scale.write(tmp_path, page, plot)
    text = page.read_text("utf-8")
    assert "| large | 90.0 MB | 400 | 250 | 66.7 min | 1.6 GB | 800 MB |" in text
    assert "201 MB of 1,000, 216 MB of 16,000 |" in text
    assert "| 32,768 | 128 | 0.03 s | " in text
    # a billion texts at 250 a second on one machine are 46 days; the client's 1.6 TB half an hour
    assert "| large | extract, a side | 1.6 TB | 46 days | 3.0 days |" in text
    assert "g = 10.0 · 10⁹ operations" in text
    assert "Not drawn" not in text
    assert text.count("Not measured yet") == 1  # extract.json
    assert text.count("<!-- end -->") == before.count("<!-- end -->")
    first = plot.read_bytes()
    scale.write(tmp_path, page, plot)
    assert page.read_text("utf-8") == text
    assert plot.read_bytes() == first
    assert b"<svg" in first
    sets = [{"set": "news", "texts": 10, "tokens": 500, "gemm_share": 0.5,
             "per_second": {"ours": 100.0, "ours_int8": 200.0}}]  # fmt: skip
    (tmp_path / "extract.json").write_text(json.dumps({"model": "large", "sets": sets}))
    scale.write(tmp_path, page, plot)
    assert "| news | 50 | 100 | 2.78 h | 200 | 50% |" in page.read_text("utf-8")


def test_the_page_is_what_the_results_say(scale, tmp_path):
    page, plot = tmp_path / "SCALE.md", tmp_path / "scale.svg"
    before = (ROOT / "docs" / "SCALE.md").read_text("utf-8")
    page.write_text(before, "utf-8")
    scale.write(BENCHMARKS / "results", page, plot)
    assert page.read_text("utf-8") == before
    assert plot.read_bytes() == (ROOT / "docs" / "images" / "scale.svg").read_bytes()


def a_search(rows):
    """A result of `search.py` of so many rows: 0.1 + 2·√(n / 10⁶) + 5·n / 10⁶ seconds."""
    seconds = 0.1 + 2 * (rows / 1e6) ** 0.5 + 5 * rows / 1e6
    step = {"cpu_seconds": seconds / 3, "peak_bytes": 60_000_000 + 700 * rows}
    steps = dict.fromkeys(("encrypt", "score", "decrypt"), step)
    return {"job": {"kind": "size", "rows": rows}, "steps": steps, "cpu_seconds": seconds,
            "seconds": seconds, "index_bytes": 768 * rows, "query_bytes": 7000 * rows**0.5,
            "response_bytes": 7000 * rows**0.5, "overlap": 1.0}  # fmt: skip


def test_formulas_of_a_search_are_those_of_its_results(monkeypatch):
    import importlib

    search = importlib.import_module("tabling.search")
    made = [a_search(n) for n in (1_000_000, 1000, 10_000, 100_000, 300_000)]
    monkeypatch.setattr(search, "load", lambda _: {"runs": made})
    table = search.search_formula()
    assert "| seconds of one core, s | 0.1 + 2 · √(n / 10⁶) + 5 · n / 10⁶ | 0% |" in table
    assert "| query and response, MB | 14 · √(n / 10⁶) | 0% |" in table
    assert search.search().splitlines()[2].startswith("| 1,000 | 0.8 MB | 0.22 MB | 0.22 MB |")
    assert "Not measured yet" in search.search_peer()
    assert "Not measured yet" in search.search_cranfield()
    assert "7.1 of 1,000,000" in search.picture()


def test_a_plots_points_lie_where_they_were_measured(scale):
    import xml.etree.ElementTree as ET

    from tabling.plot import Line, Picture, svg

    picture = Picture("t", "d", "x", "y", (0, 2), (-1, 1))
    drawn = svg(picture, [Line("a & b", lambda x: x / 10, [(1, 0.1), (10, 1), (100, 10)])])
    root = ET.fromstring(drawn)
    marks = [e for e in root.iter() if e.tag.endswith("circle")][:3]  # the fourth is in the key
    xs, ys = ([float(e.get(k)) for e in marks] for k in ("cx", "cy"))
    assert (xs[2] - xs[1], ys[0] - ys[1]) == pytest.approx((xs[1] - xs[0], ys[1] - ys[2]), abs=0.11)
    line = next(e.get("d") for e in root.iter() if e.get("class") == "l c0")
    assert line.startswith(f"M{xs[0]} {ys[0]}L")
    assert line.endswith(f"L{xs[2]} {ys[2]}")
