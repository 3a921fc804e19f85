"""The query budget stays within its limit under crashes, concurrency and damaged files."""

import contextlib
import os
import random
import resource
import select
import signal
import sqlite3
import stat
import tempfile
import threading
import time
import traceback
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from linalign_lite.encrypt.budgets import budget as module
from linalign_lite.encrypt.budgets import database
from linalign_lite.encrypt.budgets.budget import Budget, Usage
from linalign_lite.errors import BudgetError, FormatError, InputError, LinalignError

KEY, OTHER = bytes(range(32)), bytes([255]) * 32
ASKED = b"q" * 32


def name(i):
    return i.to_bytes(32, "big")


def names(folder):
    return sorted(p.name for p in folder.iterdir())


def used(budget, key=KEY):
    """Return (used, pending) of one key."""
    found = [(u.used, u.pending) for u in budget.usage() if u.account == key.hex()]
    return found[0] if found else (0, 0)


def fork(work):
    """Run ``work`` in a child that is killed afterwards, as by a crash. Return its process id."""
    child = os.fork()
    if not child:
        try:
            work()
        except BaseException:  # noqa: BLE001 (nothing may return into the parent's tests)
            traceback.print_exc()
            os._exit(1)
        os.kill(os.getpid(), signal.SIGKILL)
    return child


def joined(child):
    """Wait for a child of ``fork``, which must have finished its work."""
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status), f"the child failed: {status}"


def crashed(work):
    joined(fork(work))


@contextlib.contextmanager
def beside(work):
    """Run ``work`` in a child that stays alive until the block ends."""
    (ready, tell), (listen, end) = os.pipe(), os.pipe()

    def run():
        os.close(end)
        work()
        os.write(tell, b"!")
        os.read(listen, 1)

    child = fork(run)
    os.close(listen)
    os.close(tell)
    try:
        assert os.read(ready, 1) == b"!"
        yield child
    finally:
        os.close(end)
        os.close(ready)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(child, 0)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "budget"


@pytest.fixture
def budget(path):
    return Budget(path, 100)


def altered(path, *statements):
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as db:
        for statement in statements:
            db.execute(statement)


def test_file_is_private_whole_and_alone(path, budget):
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    budget.charge(KEY, ASKED, 5)
    assert names(path.parent) == ["budget"]  # no journal, no temporary file, no log


def test_limit_is_kept_until_another_is_given(path, budget):
    budget.charge(KEY, ASKED, 50)
    assert Budget(path).limit == 100
    assert Budget(path, 60).remaining(KEY) == 10
    assert budget.limit == 60
    assert Budget(path, 40).remaining(KEY) == 0
    assert Budget(path, 1 << 53).remaining(OTHER) == 1 << 53


@pytest.mark.parametrize("limit", [0, -1, (1 << 53) + 1])
def test_limits_out_of_range(path, limit):
    with pytest.raises(InputError, match="limit"):
        Budget(path, limit)
    assert not path.exists()


def test_accounts(budget):
    assert budget.usage() == ()
    budget.charge(KEY, ASKED, 30)
    assert budget.usage() == (Usage(KEY.hex(), 30, 30, 100),)
    budget.settle(KEY, ASKED, 30)
    assert budget.usage() == (Usage(KEY.hex(), 30, 0, 100),)
    with pytest.raises(BudgetError, match=r"answered before.*make the query again"):
        budget.charge(KEY, ASKED, 30)  # asked again
    budget.charge(KEY, name(1), 30)
    budget.charge(OTHER, ASKED, 100)
    assert budget.usage() == (Usage(KEY.hex(), 60, 30, 100), Usage(OTHER.hex(), 100, 100, 100))
    budget.refund(KEY, name(1), 30)
    budget.charge(KEY, name(1), 70)
    assert (budget.remaining(KEY), budget.remaining(bytes(32))) == (0, 100)
    budget.refund(OTHER, ASKED, 100)
    assert used(budget, OTHER) == (0, 0)


def test_used_up(path, budget):
    budget.charge(KEY, ASKED, 98)
    before = path.read_bytes()
    with pytest.raises(BudgetError) as error:
        budget.charge(KEY, name(1), 3)
    assert "at most 2" in str(error.value)
    assert KEY.hex()[:8] in str(error.value)
    assert KEY.hex()[:12] not in str(error.value)
    assert error.value.exit_code == 1
    assert path.read_bytes() == before
    budget.charge(KEY, name(1), 2)


@pytest.mark.parametrize(
    "charge",
    [
        (b"", ASKED, 1),
        (KEY, KEY + b"x", 1),
        (KEY, ASKED, 0),
        (KEY, ASKED, -5),
        (KEY, ASKED, 1 << 70),
    ],
)
def test_arguments(budget, charge):
    for call in (budget.charge, budget.settle, budget.refund):
        with pytest.raises(InputError, match="cannot charge"):
            call(*charge)
    assert budget.usage() == ()


def test_a_charge_ends_once(budget):
    for end in (budget.refund, budget.settle):
        budget.charge(KEY, ASKED, 2)
        for other in [(OTHER, ASKED, 2), (KEY, name(3), 2), (KEY, ASKED, 1)]:
            with pytest.raises(InputError, match="no such charge"):
                end(*other)
        end(KEY, ASKED, 2)
        with pytest.raises(InputError, match="no such charge"):
            end(KEY, ASKED, 2)
    assert used(budget) == (2, 0)


def test_what_a_crash_interrupted_is_free_once(budget):
    crashed(lambda: budget.charge(KEY, ASKED, 60))
    assert used(budget) == (60, 60)
    with pytest.raises(BudgetError):
        budget.charge(KEY, ASKED, 59)  # another count, another query
    budget.charge(KEY, ASKED, 60)
    assert used(budget) == (60, 60)
    with pytest.raises(BudgetError):  # now this process is scoring it
        budget.charge(KEY, ASKED, 60)
    budget.settle(KEY, ASKED, 60)
    with pytest.raises(BudgetError):
        budget.charge(KEY, ASKED, 60)
    assert used(budget) == (60, 0)


def test_interrupted_again_and_again_is_charged_once(path, budget):
    for _ in range(5):
        crashed(lambda: budget.charge(KEY, ASKED, 60))
    Budget(path, 10)  # a lower limit does not take back what was granted
    budget.charge(KEY, ASKED, 60)
    assert used(budget) == (60, 60)


def test_each_of_several_interrupted_charges_is_free_once(budget):
    def twice():
        budget.charge(KEY, ASKED, 20)
        budget.charge(KEY, ASKED, 20)

    crashed(twice)
    for expected in (40, 40, 60):
        budget.charge(KEY, ASKED, 20)
        assert used(budget) == (expected, expected)


def test_what_lives_is_charged_again(path, budget):
    with beside(lambda: Budget(path).charge(KEY, ASKED, 10)):
        budget.charge(KEY, ASKED, 10)
        assert used(budget) == (20, 20)
        budget.refund(KEY, ASKED, 10)
        with pytest.raises(InputError, match="no such charge"):  # the other's is not ours to end
            budget.settle(KEY, ASKED, 10)
    budget.charge(KEY, ASKED, 10)
    assert used(budget) == (10, 10)


def test_threads_and_instances_live(path, budget):
    budget.charge(KEY, ASKED, 10)
    thread = threading.Thread(target=budget.charge, args=(KEY, ASKED, 10))
    thread.start()
    thread.join()
    again = Budget(path)
    again.charge(KEY, ASKED, 10)
    del budget
    again.charge(KEY, ASKED, 10)
    assert used(again) == (40, 40)


def test_one_of_many_at_once_resumes(path, budget):
    crashed(lambda: budget.charge(KEY, ASKED, 10))
    with contextlib.ExitStack() as all_alive:
        for _ in range(4):
            all_alive.enter_context(beside(lambda: Budget(path).charge(KEY, ASKED, 10)))
        assert used(budget) == (40, 40)
    (hold, let_go), (told, tell), (stay, leave) = os.pipe(), os.pipe(), os.pipe()

    def race():
        os.close(let_go)
        os.close(leave)
        os.read(hold, 1)
        budget.charge(KEY, ASKED, 10)
        os.write(tell, b"!")
        os.close(tell)
        os.read(stay, 1)  # alive until all of them have charged

    children = [fork(race) for _ in range(6)]
    os.close(let_go)
    os.close(tell)
    for _ in children:
        assert os.read(told, 1) == b"!"
    os.close(leave)
    for child in children:
        joined(child)
    for descriptor in (hold, told, stay):
        os.close(descriptor)
    assert used(budget) == (60, 60)  # four of the six were free


def test_a_child_keeps_nothing_of_its_parent_alive(budget):
    """A parent charges, forks a worker and is killed; the worker lives."""
    listen, end = os.pipe()

    def parent():
        budget.charge(KEY, ASKED, 10)
        told, tell = os.pipe()
        if not os.fork():
            os.close(end)
            with pytest.raises(InputError, match="no such charge"):
                budget.settle(KEY, ASKED, 10)  # its parent's
            budget.charge(KEY, ASKED, 10)  # its parent lives
            os.write(tell, b"!")
            os.read(listen, 1)
            os._exit(0)
        os.close(tell)
        assert os.read(told, 1) == b"!"

    crashed(parent)
    budget.charge(KEY, ASKED, 10)
    assert used(budget) == (20, 20)  # the parent's was taken over
    budget.charge(KEY, ASKED, 10)
    assert used(budget) == (30, 30)  # the worker's was not
    os.close(end)
    os.close(listen)


def test_where_nobody_can_tell_it_is_charged_again(budget, monkeypatch):
    monkeypatch.setattr(module, "_lock", lambda *_, **__: False)
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
        kept = dict(module._HELD)
        module._HELD.clear()
        module._HELD.update(self.own[actor])
        try:
            yield
        finally:
            self.own[actor] = dict(module._HELD)
            module._HELD.clear()
            module._HELD.update(kept)

    def die(self, actor):
        for handle, _ in self.own[actor].values():
            os.close(handle)
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


def test_processes_in_parallel(path):
    budget = Budget(path, 120)
    told, tell = os.pipe()

    def work(i):
        for j in range(50):
            with contextlib.suppress(BudgetError):
                budget.charge(KEY, name(1000 * i + j), 1)
                os.write(tell, b".")
                if j % 2:
                    budget.settle(KEY, name(1000 * i + j), 1)

    children = [fork(lambda i=i: work(i)) for i in range(4)]
    for child in children:
        joined(child)
    os.close(tell)
    with os.fdopen(told, "rb") as f:
        assert len(f.read()) == 120
    assert used(budget)[0] == 120
    assert budget.remaining(KEY) == 0


def test_processes_that_create_at_once_agree(tmp_path):
    for i in range(20):
        path = tmp_path / str(i)
        children = [fork(lambda p=path: Budget(p, 7).charge(KEY, ASKED, 3)) for _ in range(2)]
        for child in children:
            joined(child)
        assert used(Budget(path))[0] in (3, 6)  # 3: the first was dead when the second charged
    assert len(names(tmp_path)) == 20


def test_forks_while_threads_charge(path):
    budget = Budget(path, 1000)
    done = []

    def charge(i):
        own = Budget(path)
        for j in range(40):
            (own if j % 2 else budget).charge(KEY, name(1000 * i + j), 1)
            done.append(1)

    threads = [threading.Thread(target=charge, args=(i,)) for i in range(3)]
    for thread in threads:
        thread.start()
    for i in range(20):
        crashed(lambda i=i: budget.charge(KEY, name(10**6 + i), 1))
    for thread in threads:
        thread.join()
    assert len(done) == 120
    assert used(budget) == (140, 140)


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
    return path.read_bytes()


def test_cut_short(path, filled):
    for size in [*range(120), *range(128, len(filled), 97), len(filled) - 1]:
        path.write_bytes(filled[:size])
        refused(path, "damaged")


def test_bytes_altered(path, filled, monkeypatch):
    rng = random.Random(5)
    places = [*range(100), *(rng.randrange(len(filled)) for _ in range(120))]
    assert tried(path) == 7
    for place in places:
        data = bytearray(filled)
        data[place] ^= rng.randrange(1, 256)
        path.write_bytes(data)
        # every other file as if it were too large for the check of every page
        monkeypatch.setattr(module, "MAX_CHECKED", place % 2 << 24)
        tried(path)


def test_noise(path, filled):
    rng = random.Random(6)
    for size in (0, 1, 16, 99, 100, 512, 5000):
        path.write_bytes(rng.randbytes(size))
        refused(path, "another kind of file")
    for start in (16, 100, 512, 4096, 8192):  # ours up to there
        path.write_bytes(filled[:start] + rng.randbytes(len(filled) - start))
        assert tried(path) == 0
    path.write_bytes(filled)
    path.with_name("budget-journal").write_bytes(rng.randbytes(3000))
    tried(path)


def test_schema_that_is_no_text(path, filled):
    """SQLite's message quotes the contents, and Python cannot decode the message."""
    unnamed = filled.replace(b"tablepending", b"table\xff\xfe\xfd\xfcing")
    path.write_bytes(unnamed.replace(b"CREATE TABLE pending", b"CREATE TABEL pending"))
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


def test_accounts_have_limits_of_their_own(path, budget):
    budget.change(KEY, limit=7, bits=50)
    budget.charge(KEY, ASKED, 5, 40)
    with pytest.raises(BudgetError, match="at most 2, the rest of 7"):
        budget.charge(KEY, name(1), 3)
    with pytest.raises(BudgetError, match="more bits of scores"):
        budget.charge(KEY, name(1), 2, 11)
    budget.charge(KEY, name(1), 2, 10)
    budget.charge(OTHER, ASKED, 100, 1 << 40)
    mine, other = budget.usage()
    assert (mine.limit, mine.bits, mine.bits_limit) == (7, 50, 50)
    assert (other.limit, other.bits, other.bits_limit) == (100, 1 << 40, None)
    assert (budget.remaining(KEY), budget.remaining(name(9))) == (0, 100)
    budget.settle(KEY, ASKED, 5)
    budget.refund(KEY, name(1), 2)
    assert budget.usage()[0].bits == 40
    assert Budget(path, bits=45).bits == 45
    with pytest.raises(BudgetError, match="more bits"):
        budget.charge(name(9), ASKED, 1, 46)


def test_a_closed_account(budget):
    budget.change(KEY, closed=True)
    for call in (budget.require_open, lambda k: budget.charge(k, ASKED, 1)):
        with pytest.raises(BudgetError, match="is closed"):
            call(KEY)
    budget.require_open(OTHER)
    assert budget.usage() == (Usage(KEY.hex(), 0, 0, 100, closed=True),)
    budget.change(KEY, limit=5)
    assert budget.usage()[0].closed
    budget.change(KEY, closed=False)
    budget.charge(KEY, ASKED, 5)


def test_what_the_dead_left_is_settled_when_its_response_was_kept(budget):
    crashed(lambda: budget.charge(KEY, ASKED, 60, 600))
    budget.settle_abandoned(KEY, name(1), 60)
    assert used(budget) == (60, 60)
    budget.settle_abandoned(KEY, ASKED, 60)
    assert used(budget) == (60, 0)
    assert budget.usage()[0].bits == 600
    budget.charge(KEY, name(2), 10)
    budget.settle_abandoned(KEY, name(2), 10)  # its process lives
    assert used(budget) == (70, 10)


def test_two_that_answered_the_same_query_pay_once(path, budget):
    """One was killed before it could take its charge back."""
    with beside(lambda: Budget(path).charge(KEY, ASKED, 10)):
        budget.charge(KEY, ASKED, 10)
        budget.settle(KEY, ASKED, 10)
        assert used(budget) == (20, 10)
    budget.settle_abandoned(KEY, ASKED, 10)
    assert used(budget) == (10, 0)


@pytest.mark.parametrize("bits", [-1, (1 << 53) + 1, 1 << 64])
def test_bits_out_of_range(budget, bits):
    with pytest.raises(InputError, match="cannot charge"):
        budget.charge(KEY, ASKED, 1, bits)
    assert budget.usage() == ()
    budget.charge(KEY, ASKED, 1, 1 << 53)
    with pytest.raises(BudgetError, match="more bits"):
        budget.charge(KEY, name(1), 1, 1)
    assert budget.usage()[0].bits == 1 << 53


@pytest.mark.parametrize(
    "row", ["(x'{}', 'a', NULL, 0)", "(x'{}', 5, -1, 0)", "(x'{}', 5, 5, 2)", "(x'{}', 0, 5, 0)"]
)
def test_damaged_accounts(path, budget, row):
    altered(path, "INSERT INTO accounts VALUES " + row.format(KEY.hex()))
    with pytest.raises(FormatError, match="is damaged"):
        budget.charge(KEY, ASKED, 1)


def test_other_journal_mode(path, budget):
    altered(path, "PRAGMA journal_mode = WAL")
    refused(path, "journal mode")


def test_too_large(path, budget, monkeypatch):
    monkeypatch.setattr(database, "_MAX_FILE", 10_000)
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
        with pytest.raises(InputError, match="cannot read"):
            call()
    assert not path.exists()


def test_replaced_file_is_told_apart(path, budget):
    """A process locks a byte of the new file, not of the replaced one."""
    budget.charge(KEY, ASKED, 1)
    path.rename(path.with_name("old"))
    Budget(path, 100).charge(KEY, ASKED, 1)
    assert len({byte for _, byte in module._HELD.values()}) == len(module._HELD)
    crashed(lambda: budget.charge(KEY, ASKED, 1))
    assert used(budget) == (2, 2)


def test_locked_for_too_long(path, budget, monkeypatch):
    def hold():
        db = sqlite3.connect(path, isolation_level=None)
        db.execute("BEGIN EXCLUSIVE")
        globals()["kept"] = db

    monkeypatch.setattr(database, "_LOCK_TIMEOUT", 0.2)
    with beside(hold):
        for call in (budget.usage, lambda: budget.charge(KEY, ASKED, 1)):
            with pytest.raises(LinalignError, match=r"SQLITE_BUSY.*locked"):
                call()
    budget.charge(KEY, ASKED, 1)


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
            assert Budget(path).remaining(KEY) == 3
            for call in (budget.charge, budget.settle):
                with pytest.raises(LinalignError, match="read-only"):
                    call(KEY, ASKED, 2)

        crashed(work)
        assert used(budget) == (2, 2)


def test_settings_that_durability_rests_on(path, budget):
    pragmas = "synchronous", "journal_mode", "trusted_schema", "cell_size_check"
    with database.transaction(path, write=True) as db:
        values = [db.execute(f"PRAGMA {name}").fetchone()[0] for name in pragmas]
    assert values == [3, "delete", 0, 1]


def test_an_error_within_rolls_back(path, budget):
    def interrupted():
        with database.transaction(path, write=True) as db:
            db.execute("UPDATE budget SET states = 7")
            raise KeyboardInterrupt

    before = path.read_bytes()
    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert path.read_bytes() == before
    assert budget.limit == 100
