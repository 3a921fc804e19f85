"""A budget in a file: crashes, concurrency, damaged files and full disks. See also test_budgets."""

import contextlib
import os
import random
import resource
import select
import signal
import sqlite3
import stat
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
from budget_processes import ASKED, KEY, OTHER, beside, crashed, fork, joined, name, names, used
from hypothesis import given, settings
from hypothesis import strategies as st

from linalign_lite.encrypt.budgets import file_locks, sqlite_store
from linalign_lite.encrypt.budgets.budget import Budget
from linalign_lite.encrypt.budgets.sqlite_store import SqliteStore
from linalign_lite.errors import BudgetError, FormatError, InputError, LinalignError


@pytest.fixture
def path(tmp_path):
    return tmp_path / "budget"


@pytest.fixture
def budget(path):
    return Budget(path, 100)


def written(path, data):
    """Write a file's bytes while nothing uses it."""
    sqlite_store.close_connections()
    path.write_bytes(data)


def altered(path, *statements):
    """Execute statements, and leave all of the file in one place."""
    sqlite_store.close_connections()
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as db:
        for statement in statements:
            db.execute(statement)


def test_file_is_private_whole_and_alone(path, budget):
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    budget.charge(KEY, ASKED, 5)
    assert names(path.parent) == ["budget"]  # no journal, no temporary file, no log
    Budget(path).charge(KEY, name(1), 5)
    used_now = list(path.parent.iterdir())
    assert {p.name for p in used_now} == {"budget", "budget-wal", "budget-shm"}
    assert all(stat.S_IMODE(p.stat().st_mode) == 0o600 for p in used_now)


@pytest.mark.parametrize("limit", [0, -1, (1 << 53) + 1])
def test_limits_out_of_range(path, limit):
    with pytest.raises(InputError, match="limit"):
        Budget(path, limit)
    assert not path.exists()


def test_used_up(path, budget):
    budget.charge(KEY, ASKED, 98)
    before = path.read_bytes()
    with pytest.raises(BudgetError) as error:
        budget.charge(KEY, name(1), 3)
    assert "at most 2" in str(error.value)
    assert "(hint: ask the provider for more)" in str(error.value)
    assert KEY.hex()[:8] in str(error.value)
    assert KEY.hex()[:12] not in str(error.value)
    assert error.value.exit_code == 1
    assert path.read_bytes() == before
    budget.charge(KEY, name(1), 2)


def test_where_nobody_can_tell_it_is_charged_again(budget, monkeypatch):
    monkeypatch.setattr(file_locks, "_lock", lambda *_, **__: False)
    crashed(lambda: budget.charge(KEY, ASKED, 10))
    for expected in (20, 30):
        budget.charge(KEY, ASKED, 10)
        assert used(budget) == (expected, expected)
    budget.settle(KEY, ASKED, 10)
    assert used(budget) == (30, 20)


def test_unknown_owners_count_as_alive(path, budget):
    crashed(lambda: budget.charge(KEY, ASKED, 10))
    altered(path, "UPDATE pending SET owner = 0")
    budget.charge(KEY, ASKED, 10)
    assert used(budget) == (20, 20)


class Actors:
    """Simulate several processes in one: each has its own table of held bytes."""

    def __init__(self, n):
        self.own = [{} for _ in range(n)]

    @contextlib.contextmanager
    def playing(self, actor):
        sqlite_store.close_connections()
        kept = dict(file_locks.HELD)
        file_locks.HELD.clear()
        file_locks.HELD.update(self.own[actor])
        try:
            yield
        finally:
            sqlite_store.close_connections()
            self.own[actor] = dict(file_locks.HELD)
            file_locks.HELD.clear()
            file_locks.HELD.update(kept)

    def die(self, actor):
        for held in self.own[actor].values():
            os.close(held.handle)
        self.own[actor] = {}


LIMIT = 9
OPERATIONS = st.lists(
    st.tuples(
        st.sampled_from(["charge", "charge", "settle", "refund", "die", "reopen"]),
        st.integers(0, 2),  # the process
        st.sampled_from([KEY, OTHER]),
        st.sampled_from([name(1), name(2)]),
        st.integers(1, 3),
    ),
    max_size=25,
)


@settings(max_examples=120, deadline=None, derandomize=True)
@given(operations=OPERATIONS)
def test_agrees_with_a_model(operations):
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        budget = Budget(Path(folder) / "budget", LIMIT)
        actors = Actors(3)
        for actor in range(3):
            stack.callback(actors.die, actor)
        settled, rows, lives = {KEY: 0, OTHER: 0}, [], [0, 0, 0]  # a row: (query, process, life)
        answered = set()
        for what, actor, *query in operations:
            key, _, count = query
            me = actor, lives[actor]
            pending = {k: sum(q[2] for q, *_ in rows if q[0] == k) for k in settled}
            if what == "reopen":
                budget = Budget(Path(folder) / "budget")
                continue
            if what == "die":
                actors.die(actor)
                lives[actor] += 1
                continue
            with actors.playing(actor):
                if what == "charge":
                    dead = [r for r in rows if r[0] == query and lives[r[1][0]] != r[1][1]]
                    if tuple(query[:2]) in answered:
                        with pytest.raises(BudgetError, match="answered before"):
                            budget.charge(*query)
                        continue
                    if dead:
                        rows.remove(dead[0])
                    elif settled[key] + pending[key] + count > LIMIT:
                        with pytest.raises(BudgetError):
                            budget.charge(*query)
                        continue
                    budget.charge(*query)
                    rows.append((query, me))
                elif (query, me) in rows:
                    getattr(budget, what)(*query)
                    rows.remove((query, me))
                    if what == "settle" and tuple(query[:2]) not in answered:
                        settled[key] += count
                        answered.add(tuple(query[:2]))
                else:
                    with pytest.raises(InputError):
                        getattr(budget, what)(*query)
            for k, done in settled.items():
                waiting = sum(q[2] for q, *_ in rows if q[0] == k)
                assert used(budget, k) == (done + waiting, waiting)
                assert budget.remaining(k) == LIMIT - done - waiting >= 0


def test_processes_that_create_at_once_agree(tmp_path):
    for i in range(20):
        path = tmp_path / str(i)
        children = [fork(lambda p=path: Budget(p, 7).charge(KEY, ASKED, 3)) for _ in range(2)]
        for child in children:
            joined(child)
        assert used(Budget(path))[0] in (3, 6)  # 3: the first was dead when the second charged
    assert len(names(tmp_path)) == 20


@pytest.mark.slow
def test_kill_at_any_moment(path):
    """Every acknowledged charge is on the disk, and at most one more, which is taken over."""
    budget = Budget(path, 1 << 40)
    rng = random.Random(11)
    total = open_ = said = 0
    for round_ in range(60):
        told, tell = os.pipe()

        def work(round_=round_, tell=tell):
            own = Budget(path)
            for i in range(10**6):
                own.charge(KEY, name(round_ << 32 | i), 2)
                os.write(tell, b"c")
                if i % 3 == 0:
                    own.settle(KEY, name(round_ << 32 | i), 2)
                    os.write(tell, b"s")

        child = fork(work)
        os.close(tell)
        select.select([told], [], [], 5)  # until the first charge, mostly
        time.sleep(rng.uniform(0, 0.05) if round_ % 4 else 0)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        with os.fdopen(told, "rb") as f:
            lines = f.read()
        charged, settled = lines.count(b"c"), lines.count(b"s")
        said += charged
        have, pending = used(Budget(path))
        assert total + 2 * charged <= have <= total + 2 * charged + 2
        assert 2 * (charged - settled) - 2 <= pending - open_ <= 2 * (charged - settled) + 2
        budget.charge(KEY, name(round_ << 32 | charged), 2)  # the one that was in flight
        total += 2 * charged + 2
        assert used(budget)[0] == total
        budget.settle(KEY, name(round_ << 32 | charged), 2)
        open_ = used(budget)[1]
    assert said > 60
    assert names(path.parent) == ["budget"]


def tried(path):
    """Every call works or raises a named error without the full key, for any file at ``path``."""
    worked, errors = 0, []
    for call in (
        lambda b: b.limit,
        lambda b: b.usage(),
        lambda b: b.remaining(KEY),
        lambda b: b.charge(KEY, ASKED, 1),
        lambda b: b.settle(KEY, ASKED, 1),
        lambda b: b.charge(OTHER, name(1), 1),
        lambda b: b.refund(OTHER, name(1), 1),
    ):
        try:
            call(Budget(path))
            worked += 1
        except LinalignError as e:
            errors.append(str(e))
    assert not any(KEY.hex()[:9] in text or "\n" in text for text in errors)
    return worked


def refused(path, match):
    """A new Budget raises FormatError with a hint and leaves the file as it is."""
    sqlite_store.close_connections()
    before = path.read_bytes()
    for limit in (None, 5):
        with pytest.raises(FormatError, match=match) as error:
            Budget(path, limit)
        assert error.value.hint
    assert path.read_bytes() == before
    assert names(path.parent) == [path.name]


@pytest.fixture
def filled(path, budget):
    """A file with settled and pending rows of several keys."""
    for i in range(40):
        budget.charge(name(i), ASKED, 2)
        if i % 2:
            budget.settle(name(i), ASKED, 2)
    budget.charge(KEY, ASKED, 1)
    sqlite_store.close_connections()
    return path.read_bytes()


def test_cut_short(path, filled):
    for size in [*range(120), *range(128, len(filled), 97), len(filled) - 1]:
        written(path, filled[:size])
        refused(path, "damaged")


def test_bytes_altered(path, filled, monkeypatch):
    rng = random.Random(5)
    places = [*range(100), *(rng.randrange(len(filled)) for _ in range(120))]
    assert tried(path) == 7
    for place in places:
        data = bytearray(filled)
        data[place] ^= rng.randrange(1, 256)
        written(path, data)
        # every other file as if it were too large for the check of every page
        monkeypatch.setattr(sqlite_store, "MAX_CHECKED", place % 2 << 24)
        tried(path)


def test_noise(path, filled):
    rng = random.Random(6)
    for size in (0, 1, 16, 99, 100, 512, 5000):
        written(path, rng.randbytes(size))
        refused(path, "another kind of file")
    for start in (16, 100, 512, 4096, 8192):  # ours up to there
        written(path, filled[:start] + rng.randbytes(len(filled) - start))
        assert tried(path) == 0
    written(path, filled)
    path.with_name("budget-journal").write_bytes(rng.randbytes(3000))
    tried(path)


def test_schema_that_is_no_text(path, filled):
    """SQLite's message quotes the contents, and Python cannot decode the message."""
    unnamed = filled.replace(b"tablepending", b"table\xff\xfe\xfd\xfcing")
    written(path, unnamed.replace(b"CREATE TABLE pending", b"CREATE TABEL pending"))
    refused(path, "damaged")


def test_another_kind_of_database(tmp_path):
    path = tmp_path / "other"
    altered(path, "CREATE TABLE t (x)", "INSERT INTO t VALUES (1)")
    refused(path, "another kind of file")


@pytest.mark.parametrize(
    "statement",
    [
        "CREATE TRIGGER t AFTER INSERT ON pending BEGIN DELETE FROM pending; END",
        "CREATE TRIGGER settled BEFORE DELETE ON pending BEGIN SELECT RAISE(IGNORE); END",
        "CREATE VIEW v AS SELECT 1",
        "CREATE TABLE more (x)",
        "CREATE TABLE audit (x INTEGER PRIMARY KEY AUTOINCREMENT)",
        "CREATE INDEX i ON pending (account)",
        "DROP TABLE settled",
        "ALTER TABLE pending ADD COLUMN more",
        "ALTER TABLE pending RENAME COLUMN owner TO used",
    ],
)
def test_other_tables_triggers_and_views(path, budget, statement):
    altered(path, statement)
    refused(path, "damaged")
    with pytest.raises(FormatError):  # nor by one that was opened before
        budget.charge(KEY, ASKED, 1)
    with pytest.raises(FormatError):
        budget.usage()


def test_view_in_place_of_a_table(path, budget):
    altered(path, "DROP TABLE settled", "CREATE VIEW settled AS SELECT x'00' AS key, 0 AS states")
    refused(path, "damaged")
    with pytest.raises(FormatError):
        budget.remaining(KEY)


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE budget SET states = 0",
        "UPDATE budget SET states = 9007199254740993",
        "UPDATE budget SET states = 1.5",
        "UPDATE budget SET states = 'many'",
        "DELETE FROM budget",
        "INSERT INTO budget VALUES (2, 5, NULL)",
    ],
)
def test_damaged_limit(path, budget, statement):
    altered(path, statement)
    refused(path, "damaged")
    with pytest.raises(FormatError):
        budget.charge(KEY, ASKED, 1)


@pytest.mark.parametrize("states", ["0", "-1", "9223372036854775807", "2.5", "'x'", "x'00'"])
@pytest.mark.parametrize("table", ["settled", "pending"])
def test_damaged_counts(path, budget, table, states):
    budget.charge(KEY, name(1), 5)
    budget.settle(KEY, name(1), 5)
    budget.charge(KEY, ASKED, 4)
    altered(path, f"UPDATE {table} SET states = {states}")
    for call in (budget.usage, lambda: budget.remaining(KEY), lambda: budget.charge(KEY, ASKED, 1)):
        with pytest.raises(FormatError, match="damaged"):
            call()


@pytest.mark.parametrize("key", ["'text'", "5", "x'0102'", "zeroblob(2000000)"])
def test_damaged_keys(path, budget, key):
    altered(path, f"INSERT INTO settled VALUES ({key}, 5, 0)")
    with pytest.raises(FormatError, match="damaged"):
        budget.usage()


@pytest.mark.parametrize(
    "owner", ["'x'", "-7", "1.5", "x'00'", "9223372036854775807", "1073741825"]
)
def test_damaged_owners(path, budget, owner):
    crashed(lambda: budget.charge(KEY, ASKED, 5))
    altered(path, f"UPDATE pending SET owner = {owner}")
    budget.charge(KEY, ASKED, 5)
    assert used(budget)[0] in (5, 10)


def test_newer_version(path, budget):
    altered(path, "PRAGMA user_version = 3")
    refused(path, "version.*got 3, expected 1 or 2.*update")
    with pytest.raises(FormatError, match="version"):
        budget.charge(KEY, ASKED, 1)


VERSION_1 = Path(__file__).parents[1] / "golden" / "v1.budget"


def test_a_first_use_makes_a_newer_version_of_an_old_file(path):
    """States that were settled and pending stay; nobody pays twice or less."""
    path.write_bytes(VERSION_1.read_bytes())
    with contextlib.closing(sqlite3.connect(path)) as db:
        settled = dict(db.execute("SELECT key, states FROM settled").fetchall())
        waiting = db.execute("SELECT key, states FROM pending").fetchall()
        [(limit,)] = db.execute("SELECT states FROM budget").fetchall()
    assert settled
    usage = {bytes.fromhex(u.account): u for u in Budget(path).usage()}
    assert set(usage) == {*settled, *(key for key, _ in waiting)}
    for key, found in usage.items():
        pending = sum(n for k, n in waiting if k == key)
        assert (found.used, found.pending) == (settled.get(key, 0) + pending, pending)
        assert (found.limit, found.bits, found.bits_limit, found.closed) == (limit, 0, None, False)
    assert path.read_bytes()[60:64] == b"\0\0\0\2"
    assert Budget(path).usage() == tuple(usage[k] for k in sorted(usage))


def test_processes_that_make_a_newer_version_at_once_agree(path):
    path.write_bytes(VERSION_1.read_bytes())
    children = [fork(lambda i=i: Budget(path).charge(name(7), name(i), 1)) for i in range(6)]
    for child in children:
        joined(child)
    assert used(Budget(path), name(7)) == (6, 6)
    assert path.read_bytes()[60:64] == b"\0\0\0\2"


def test_an_old_file_that_is_damaged_is_not_made_newer(path):
    path.write_bytes(VERSION_1.read_bytes())
    altered(path, "CREATE TABLE more (x)")
    before = path.read_bytes()
    refused(path, "no budget file, or is damaged")
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    "row", ["(x'{}', 'a', NULL, 0)", "(x'{}', 5, -1, 0)", "(x'{}', 5, 5, 2)", "(x'{}', 0, 5, 0)"]
)
def test_damaged_accounts(path, budget, row):
    altered(path, "INSERT INTO accounts VALUES " + row.format(KEY.hex()))
    with pytest.raises(FormatError, match="is damaged"):
        budget.charge(KEY, ASKED, 1)


def test_a_file_of_an_older_journal_mode_is_set_to_wal_by_its_first_write(path, budget):
    budget.charge(KEY, ASKED, 5)
    altered(path, "PRAGMA journal_mode = DELETE")
    before = path.read_bytes()
    assert before[18:20] == b"\1\1"
    assert used(Budget(path)) == (5, 5)
    sqlite_store.close_connections()
    assert path.read_bytes() == before
    children = [fork(lambda i=i: Budget(path).charge(KEY, name(i), 1)) for i in range(6)]
    for child in children:
        joined(child)
    assert used(budget) == (11, 11)
    sqlite_store.close_connections()
    assert path.read_bytes()[18:20] == b"\2\2"


def test_other_journal_mode(path, budget):
    sqlite_store.close_connections()
    data = path.read_bytes()
    written(path, data[:18] + b"\3\3" + data[20:])
    refused(path, "journal mode")


def test_too_large(path, budget, monkeypatch):
    monkeypatch.setattr(sqlite_store, "_MAX_FILE", 10_000)
    refused(path, "1 GiB")


def test_paths_that_are_no_budget(tmp_path, path):
    (tmp_path / "text").write_text("not a budget" * 50, encoding="utf-8")
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    os.mkfifo(tmp_path / "pipe")
    text = tmp_path / "text"
    unusable = [tmp_path, tmp_path / "dangling", tmp_path / "pipe", text, text / "x", "a\0b"]
    for bad in (path, *unusable):
        with pytest.raises(InputError) as error:
            Budget(bad)
        assert error.value.hint
    for bad in (tmp_path / "none" / "x", *unusable):
        with pytest.raises(InputError):
            Budget(bad, 5)
    assert names(tmp_path) == ["dangling", "pipe", "text"]


def test_names_that_need_quoting(tmp_path):
    for odd in ("a b?mode=memory#%41", "ü\udcff", "x;y&z"):
        budget = Budget(tmp_path / odd, 5)
        budget.charge(KEY, ASKED, 5)
        assert Budget(tmp_path / odd).remaining(KEY) == 0
    assert len(names(tmp_path)) == 3


def test_relative_path_stays_where_it_was(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    budget = Budget("b", 5)
    (tmp_path / "sub").mkdir()
    monkeypatch.chdir(tmp_path / "sub")
    assert budget.remaining(KEY) == 5


def test_a_file_that_went_away_is_not_begun_anew(path, budget):
    path.unlink()
    for call in (budget.usage, lambda: budget.charge(KEY, ASKED, 1)):
        with pytest.raises(InputError, match=r"cannot read .*; with a limit a new one is made"):
            call()
    assert not path.exists()


def test_a_new_budget_in_no_folder_is_named(tmp_path):
    with pytest.raises(InputError) as error:
        Budget(tmp_path / "gone" / "b.sqlite", 5)
    assert str(error.value).startswith(
        f"cannot create {tmp_path / 'gone' / 'b.sqlite'}: got No such"
    )
    assert f"does the folder {tmp_path / 'gone'} exist" in str(error.value)
    assert ".tmp" not in str(error.value)


def test_replaced_file_is_told_apart(path, budget):
    """A process locks a byte of the new file, not of the replaced one."""
    budget.charge(KEY, ASKED, 1)
    sqlite_store.close_connections()
    path.rename(path.with_name("old"))
    Budget(path, 100).charge(KEY, ASKED, 1)
    owners = [held.owner.number for held in file_locks.HELD.values()]
    assert len(set(owners)) == len(owners)
    crashed(lambda: budget.charge(KEY, ASKED, 1))
    assert used(budget) == (2, 2)


def test_a_log_is_not_taken_for_that_of_another_file(tmp_path, path, budget):
    """A file that is replaced while it is used is refused until its log is gone, too."""
    copy, moved = tmp_path / "copy", tmp_path / "moved"
    copy.write_bytes(path.read_bytes())
    for i in range(3):
        budget.charge(KEY, name(i), 1)
    path.rename(moved)
    with pytest.raises(InputError, match="a write-ahead log is left beside"):
        Budget(path, 100)
    assert not path.exists()
    copy.rename(path)
    for _ in range(2):
        with pytest.raises(LinalignError, match="was replaced, but not the write-ahead log"):
            budget.charge(KEY, ASKED, 1)
    for suffix in ("-wal", "-shm"):
        (tmp_path / f"budget{suffix}").rename(tmp_path / f"moved{suffix}")
    assert used(budget) == (0, 0)
    budget.charge(KEY, ASKED, 7)
    assert used(Budget(path)) == (7, 7)
    assert used(Budget(moved)) == (3, 3)


def test_reading_the_file_takes_no_lock_from_it(path, budget):
    """Closing any descriptor of a file drops POSIX locks; another process must not see the last."""
    code = (
        "import sys; from linalign_lite.encrypt.budgets.budget import Budget;"
        "Budget(sys.argv[1]).charge(bytes(range(32)), sys.argv[2].encode(), 5)"
    )
    for i in range(2):
        budget.charge(KEY, name(i), 5)
        path.read_bytes()
        subprocess.run([sys.executable, "-c", code, path, str(i) * 32], check=True)
        used_now = {p.name for p in path.parent.iterdir()}
        assert used_now == {"budget", "budget-wal", "budget-shm"}
    budget.charge(KEY, ASKED, 5)
    assert used(budget) == (25, 25)
    assert names(path.parent) == ["budget"]
    assert used(Budget(path)) == (25, 25)


@pytest.mark.parametrize("suffix", ["-wal", "-shm"])
def test_what_lies_beside_the_file_is_not_trusted(tmp_path, path, filled, suffix):
    rng, beside_it = random.Random(8), tmp_path / f"budget{suffix}"
    before = used(Budget(path), name(3))
    for data in (b"", rng.randbytes(100), rng.randbytes(40_000), bytes(32_768)):
        sqlite_store.close_connections()
        beside_it.write_bytes(data)
        assert used(Budget(path), name(3)) == before
    sqlite_store.close_connections()
    for make in (beside_it.mkdir, lambda: beside_it.symlink_to("x"), lambda: os.mkfifo(beside_it)):
        make()
        with pytest.raises(FormatError, match=f"something else as budget{suffix}"):
            Budget(path)
        beside_it.rmdir() if beside_it.is_dir() else beside_it.unlink()
    with beside_it.open("wb") as f:
        f.truncate((1 << 30) + 1)
    with pytest.raises(FormatError, match="something else as"):
        Budget(path)


def test_a_log_with_other_tables_is_refused(tmp_path, path, budget):
    """A log whose checksums are right may hold any page."""
    sqlite_store.close_connections()
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("CREATE TRIGGER t AFTER INSERT ON pending BEGIN DELETE FROM pending; END")
        log = (tmp_path / "budget-wal").read_bytes()
        main = path.read_bytes()
    written(path, main)
    (tmp_path / "budget-wal").write_bytes(log)
    with pytest.raises(FormatError, match="is damaged"):
        Budget(path)


def test_copies_of_a_budget_that_is_used(tmp_path, path, budget):
    """The backup that docs/SERVICE.md describes has every charge; a copy of the file may not."""
    budget.charge(KEY, ASKED, 5)
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.execute("VACUUM INTO ?", [str(tmp_path / "vacuumed")])
        with contextlib.closing(sqlite3.connect(tmp_path / "copied")) as copy:
            db.backup(copy)
    budget.charge(KEY, name(1), 5)
    for kind in ("vacuumed", "copied"):
        assert used(Budget(tmp_path / kind)) == (5, 5)
        Budget(tmp_path / kind).charge(KEY, name(1), 1)
    assert used(budget) == (10, 10)


def test_what_a_failure_left_is_resumed_by_the_process_that_lives(path, budget):
    """A charge that could neither be settled nor refunded is not made twice."""
    budget.charge(KEY, ASKED, 5)
    sqlite_store.close_connections()
    moved = path.rename(path.with_name("moved"))
    with pytest.raises(LinalignError):
        budget.refund(KEY, ASKED, 5)
    moved.rename(path)
    budget.charge(KEY, ASKED, 5)
    assert used(budget) == (5, 5)
    budget.charge(KEY, ASKED, 5)  # that one is being scored now
    assert used(budget) == (10, 10)
    budget.refund(KEY, ASKED, 5)
    budget.abandon(KEY, ASKED, 5)
    budget.settle_abandoned(KEY, ASKED, 5)
    assert used(budget) == (5, 0)


def test_locked_for_too_long(path, budget, monkeypatch):
    """A process that writes keeps others from writing; they read."""

    def hold():
        db = sqlite3.connect(path, isolation_level=None)
        db.execute("BEGIN EXCLUSIVE")
        globals()["kept"] = db

    monkeypatch.setattr(sqlite_store, "_LOCK_TIMEOUT", 0.2)
    sqlite_store.close_connections()
    with beside(hold):
        assert budget.usage() == ()
        for _ in range(2):
            with pytest.raises(LinalignError, match=r"SQLITE_BUSY.*locked"):
                budget.charge(KEY, ASKED, 1)
    budget.charge(KEY, ASKED, 1)
    sqlite_store.close_connections()  # the next waits as long as others


@pytest.mark.parametrize("room", [0, 600, 8200])
def test_full_disk(path, budget, room):
    budget.charge(KEY, name(9), 1)
    told, tell = os.pipe()

    def work():
        resource.setrlimit(resource.RLIMIT_FSIZE, (room, room))
        with pytest.raises(LinalignError, match="disk full") as error:
            budget.charge(KEY, ASKED, 5)
        os.write(tell, str(error.value).encode())

    crashed(work)
    os.close(tell)
    os.close(told)
    assert used(Budget(path)) == (1, 1)


def test_read_only_file(path):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "budget"
        budget = Budget(path, 5)
        budget.charge(KEY, ASKED, 2)
        path.chmod(0o444)
        Path(folder).chmod(0o755)

        def work():
            if not os.getuid():
                os.setuid(65534)
            for call in (budget.charge, budget.settle):
                with pytest.raises(LinalignError, match="read-only"):
                    call(KEY, ASKED, 2)

        crashed(work)
        assert used(budget) == (2, 2)


def test_settings_that_durability_rests_on(path, budget):
    pragmas = "synchronous", "journal_mode", "trusted_schema", "cell_size_check"
    with SqliteStore(path).transaction(write=True) as db:
        values = [db(f"PRAGMA {name}")[0][0] for name in pragmas]
    assert values == [3, "wal", 0, 1]


def test_an_error_within_rolls_back(path, budget):
    def interrupted():
        with SqliteStore(path).transaction(write=True) as db:
            db("UPDATE budget SET states = 7")
            raise KeyboardInterrupt

    before = path.read_bytes()
    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert path.read_bytes() == before
    assert budget.limit == 100
