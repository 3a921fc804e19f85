"""A budget in PostgreSQL: servers that stop, sessions that are lost, tables that are no budget."""

import contextlib
import io
import os
import sys
import threading
import time
import traceback
from pathlib import Path

import budget_processes
import numpy as np
import pytest
from budget_processes import ASKED, KEY, OTHER, beside, crashed, fork, joined, name, used
from vectors.postgresql import USER, Server

from linalign_lite.core.head import Head
from linalign_lite.encrypt.budgets import ledger as module
from linalign_lite.encrypt.budgets import postgresql_responses, postgresql_store
from linalign_lite.encrypt.budgets.budget import Budget
from linalign_lite.encrypt.budgets.ledger import Charge, Ledger
from linalign_lite.encrypt.scored_rows import HeadRows
from linalign_lite.errors import (
    BudgetError,
    FormatError,
    InputError,
    LinalignError,
    MismatchError,
    MissingExtraError,
)

HEAD = Head(np.eye(2), np.zeros(2))
CHARGE = Charge(KEY, ASKED, 5, 50)


@pytest.fixture(scope="module")
def server():
    with Server() as found:
        yield found


@pytest.fixture
def url(server, tmp_path, monkeypatch):
    monkeypatch.setattr(budget_processes, "ended", server.wait_for_end)
    yield server.budget(tmp_path.name, "&timeout=10")
    postgresql_store.close_connections()


@pytest.fixture
def budget(url):
    return Budget(url, 100)


@pytest.fixture
def sql(server, tmp_path):
    """Run a statement in the schema of this test's budget."""

    def run(statement, *values):
        with server.connect() as db:
            db.execute(f'SET search_path TO "linalign_{tmp_path.name}"')
            found = db.execute(statement, values or None)
            return found.fetchall() if found.description else []

    return run


def lose_session(sql):
    """End the session of this process, as a restart of the server does."""
    query = "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE application_name=%s"
    assert sql(query, f"linalign-lite {os.getpid()}") == [(True,)]


def test_processes_that_create_at_once_agree(url):
    children = [
        fork(lambda asked=bytes([i]) * 32: Budget(url, 7).charge(KEY, asked, 1)) for i in range(6)
    ]
    for child in children:
        joined(child)
    assert used(Budget(url))[0] == 6
    assert Budget(url).limit == 7


def test_budgets_of_one_database_are_apart(server, budget, url):
    other = Budget(url.replace("budget=", "budget=B-"), 50)
    budget.charge(KEY, ASKED, 100)
    other.charge(KEY, ASKED, 50)
    assert (used(budget), used(other)) == ((100, 100), (50, 50))
    with pytest.raises(InputError, match=r"there is no budget none of .*give a limit"):
        Budget(server.budget("none"))


def test_accounts_do_not_wait_for_each_other(url):
    budget = Budget(url.replace("timeout=10", "timeout=0.3"), 100)
    lock = postgresql_store.PostgresqlStore(url)._number(KEY)

    def hold():
        session = Budget(url)._store
        connection = session._engine.connect()
        connection.exec_driver_sql(f"SELECT pg_advisory_lock({lock})")
        globals()["held"] = connection

    with beside(hold):
        budget.charge(OTHER, ASKED, 5)
        with pytest.raises(LinalignError, match="locked for too long"):
            budget.charge(KEY, ASKED, 5)
        assert budget.usage_of(KEY).used == 0  # who only reads does not wait
    budget.charge(KEY, ASKED, 5)
    assert (used(budget), used(budget, OTHER)) == ((5, 5), (5, 5))


def test_a_locked_table_is_an_error_after_the_timeout(server, url):
    budget = Budget(url.replace("timeout=10", "timeout=0.3"), 100)
    schema = budget._store._schema
    with server.connect() as db, db.transaction():
        db.execute(f'LOCK TABLE "{schema}".pending')
        for call in (budget.usage, lambda: budget.charge(KEY, ASKED, 5)):
            with pytest.raises(LinalignError, match=r"locked for too long.*another session"):
                call()
    budget.charge(KEY, ASKED, 5)
    assert used(budget) == (5, 5)


def test_a_server_that_stops_and_starts_between_calls(server, budget):
    budget.charge(KEY, ASKED, 5)
    server.halt()
    try:
        for _ in range(2):
            with pytest.raises(LinalignError, match=r"cannot use budget .*is the server running"):
                budget.charge(KEY, name(1), 5)
    finally:
        server.start()
    assert used(budget) == (5, 5)
    budget.charge(KEY, name(1), 5)
    assert used(budget) == (10, 10)
    budget.charge(KEY, ASKED, 5)  # whose session the server ended: taken over
    assert used(budget) == (10, 10)
    server.halt()
    server.start()
    budget.charge(KEY, name(2), 5)  # the first call after it finds a new connection by itself
    assert used(budget) == (15, 15)


def test_a_server_that_stops_during_calls_forgets_no_charge(server, budget):
    """Every charge that returned is there, and each that failed can be made, once."""
    done, failed, stop = [], [], threading.Event()

    def charge():
        i = 0
        while not stop.is_set():
            i += 1
            try:
                budget.charge(KEY, name(i), 1)
                budget.settle(KEY, name(i), 1)
            except LinalignError:
                failed.append(i)
            else:
                done.append(i)

    budget.change(KEY, limit=1 << 40)
    thread = threading.Thread(target=charge)
    thread.start()
    try:
        for _ in range(2):
            before = len(done)
            while len(done) < before + 20:
                time.sleep(0.01)
            server.halt()
            server.start()
    finally:
        stop.set()
        thread.join()
    assert failed
    assert used(budget)[0] >= len(done)
    for i in failed:
        try:
            budget.charge(KEY, name(i), 1)
        except BudgetError as e:  # settled, and the answer was lost
            assert "answered before" in str(e)  # noqa: PT017
        else:
            budget.settle(KEY, name(i), 1)
    assert used(budget) == (len(done) + len(failed), 0)


def test_charges_of_a_lost_session_are_taken_over_once(budget, sql):
    budget.charge(KEY, ASKED, 5)
    lose_session(sql)
    crashed(lambda: budget.charge(KEY, ASKED, 5))
    assert used(budget) == (5, 5)
    with beside(lambda: budget.charge(KEY, ASKED, 5)):
        with pytest.raises(InputError, match="no such charge pending"):
            budget.settle(KEY, ASKED, 5)
        assert used(budget) == (5, 5)


@pytest.mark.parametrize("moment", ["before it is kept", "after it was kept"])
def test_a_session_that_is_lost_while_scoring_costs_nothing(budget, sql, moment, monkeypatch):
    book, scored = Ledger(budget, HeadRows(HEAD).digest()), []

    def write(file):
        scored.append(file.write(b"scores"))
        if moment.startswith("before"):
            lose_session(sql)

    if moment.startswith("after"):
        settle = module.Ledger._settle

        def late(self, entry):
            lose_session(sql)
            settle(self, entry)

        monkeypatch.setattr(module.Ledger, "_settle", late)
    for _ in range(3):
        with book.answered(CHARGE, write) as kept:
            assert kept.read() == b"scores"
    assert len(scored) == 1
    (usage,) = budget.usage()
    assert (usage.used, usage.pending, usage.bits) == (5, 0, 50)


def test_a_response_is_sent_again_by_another_process(budget, url):
    crashed(
        lambda: Ledger(Budget(url), HeadRows(HEAD).digest()).answered(
            CHARGE, lambda f: f.write(b"scores")
        )
    )

    def never(_):
        raise AssertionError

    with Ledger(budget, HeadRows(HEAD).digest()).answered(CHARGE, never) as kept:
        assert kept.read() == b"scores"
    assert used(budget) == (5, 0)


def test_a_response_that_could_not_be_kept_is_not_charged(budget, monkeypatch):
    monkeypatch.setattr(postgresql_responses, "MAX_ONE", 100)
    book = Ledger(budget, HeadRows(HEAD).digest())
    with pytest.raises(MismatchError, match=r"too large to be kept.*fewer states"):
        book.answered(CHARGE, lambda f: [f.write(bytes(60)) for _ in range(2)])
    assert used(budget) == (0, 0)
    with book.answered(CHARGE, lambda f: f.write(bytes(100))) as kept:
        assert kept.read() == bytes(100)


def test_the_first_response_stays_and_the_oldest_go(budget, sql):
    kept = postgresql_responses.PostgresqlResponses(budget._store, 250)
    for text in (b"first", b"second"):
        kept.keep("a", lambda f, text=text: f.write(text))
    assert kept.open("a").read() == b"first"
    for i in range(4):
        kept.keep(str(i), lambda f: f.write(bytes(100)))
    assert sql("SELECT name FROM responses ORDER BY name") == [("2",), ("3",)]
    assert kept.open("a") is None
    kept.keep("large", lambda f: f.write(bytes(300)))  # the newest stays, whatever its size
    assert sql("SELECT name FROM responses") == [("large",)]
    assert isinstance(kept.open("large"), io.BytesIO)


def test_looks_at_all_responses_are_rare(budget, monkeypatch):
    """One at the first, and one for each 1/64 of the bytes: 64 here."""
    kept, looks = postgresql_responses.PostgresqlResponses(budget._store, 4096), []
    begin = budget._store.transaction

    @contextlib.contextmanager
    def watched(**options):
        with begin(**options) as db:

            def execute(sql, *values):
                looks.extend([1] * ("sum(size)" in sql))
                return db(sql, *values)

            yield execute

    monkeypatch.setattr(budget._store, "transaction", watched)
    for i in range(13):
        kept.keep(str(i), lambda f: f.write(bytes(16)))
    assert len(looks) == 1 + 12 // 4


def test_a_process_whose_end_is_noticed_late_is_charged_once(budget, url, monkeypatch):
    """The next process charges the query too, and drops the first charge when it has answered."""
    crashed(lambda: Budget(url).charge(KEY, ASKED, 5, 50))
    with monkeypatch.context() as late:
        late.setattr(postgresql_store.PostgresqlStore, "is_dead", lambda *_: False)
        budget.charge(KEY, ASKED, 5, 50)
    assert used(budget) == (10, 10)
    budget.settle(KEY, ASKED, 5)
    (usage,) = budget.usage()
    assert (usage.used, usage.pending, usage.bits) == (5, 0, 50)


def test_a_refund_leaves_the_charge_of_a_dead_process(budget, url, monkeypatch):
    crashed(lambda: Budget(url).charge(KEY, ASKED, 5))
    with monkeypatch.context() as late:
        late.setattr(postgresql_store.PostgresqlStore, "is_dead", lambda *_: False)
        budget.charge(KEY, ASKED, 5)
    budget.refund(KEY, ASKED, 5)
    assert used(budget) == (5, 5)
    budget.charge(KEY, ASKED, 5)
    assert used(budget) == (5, 5)


def test_errors_of_the_server_are_named(budget, sql, url):
    """A trigger that raises them; a Budget that is made later refuses the trigger."""
    for code, cause in (
        ("53100", "disk is full"),
        ("42501", "permission is missing"),
        ("40P01", "in the way"),
    ):
        sql(
            "CREATE OR REPLACE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS"
            f" $$ BEGIN RAISE EXCEPTION 'secret row' USING ERRCODE = '{code}'; END $$"
        )
        sql("CREATE OR REPLACE TRIGGER t BEFORE INSERT ON pending EXECUTE FUNCTION fail()")
        with pytest.raises(LinalignError, match=cause) as error:
            budget.charge(KEY, ASKED, 5)
        assert "secret" not in str(error.value)
    with pytest.raises(FormatError, match="triggers"):
        Budget(url)
    sql("DROP TRIGGER t ON pending")
    budget.charge(KEY, ASKED, 5)
    read_only = Budget(url + "&options=-c%20default_transaction_read_only%3Don")
    assert used(read_only) == (5, 5)
    with pytest.raises(LinalignError, match=r"read-only.*primary"):
        read_only.charge(KEY, name(1), 5)


@pytest.mark.parametrize(
    ("statement", "match"),
    [
        ("UPDATE version SET version = 2", "unknown version: got 2, expected 1 .*update"),
        ("DELETE FROM version", "unknown version: got none"),
        ("DROP TABLE version", "is damaged: got other tables"),
        ("DROP TABLE settled", "other tables"),
        ("CREATE TABLE more (x integer)", "other tables"),
        ("CREATE VIEW v AS SELECT 1 AS x", "other tables"),
        ("ALTER TABLE pending ADD COLUMN more text", "other tables"),
        ("ALTER TABLE settled ALTER states TYPE numeric", "other tables"),
        ("ALTER TABLE accounts DROP CONSTRAINT accounts_pkey", "keys"),
        ("ALTER TABLE settled ENABLE ROW LEVEL SECURITY", "policies"),
        ("CREATE RULE r AS ON INSERT TO pending DO INSTEAD NOTHING", "triggers"),
        ("DELETE FROM budget", "contents that are not a budget's"),
        ("UPDATE budget SET states = -1", "contents that are not a budget's"),
    ],
)
def test_tables_that_are_no_budget(budget, url, sql, statement, match):
    sql(statement)
    for limit in (None, 5):
        with pytest.raises(FormatError, match=match) as error:
            Budget(url, limit)
        assert error.value.hint


def test_a_table_that_goes_while_it_is_used(budget, sql):
    budget.charge(KEY, ASKED, 5)
    sql("DROP TABLE pending")
    with pytest.raises(FormatError, match=r"is damaged: got the error 42P01"):
        budget.charge(KEY, name(1), 5)


# -- URLs and passwords ----------------------------------------------------------------------------

SECRET = "pa:ss@w/rd"
QUOTED = "pa%3Ass%40w%2Frd"


@pytest.fixture
def guarded(server):
    """A role that needs its password."""
    with server.connect() as db:
        db.execute(f"CREATE ROLE guarded LOGIN PASSWORD '{SECRET}'")
        db.execute("GRANT CREATE ON DATABASE postgres TO guarded")
    rules, text = server.data / "pg_hba.conf", (server.data / "pg_hba.conf").read_text()
    rules.write_text("local all guarded scram-sha-256\n" + text)
    with server.connect() as db:
        db.execute("SELECT pg_reload_conf()")
    time.sleep(0.2)
    yield f"host={server.socket}&budget=guarded&user=guarded"
    postgresql_store.close_connections()
    with server.connect() as db:
        db.execute("DROP OWNED BY guarded CASCADE; DROP ROLE guarded")
    rules.write_text(text)


def test_a_password_is_used_and_not_shown(guarded, server, monkeypatch, capfd):
    where = f"postgresql://guarded:{QUOTED}@/postgres?{guarded.replace('&user=guarded', '')}"
    good = Budget(where, 5)
    good.charge(KEY, ASKED, 5)
    monkeypatch.setenv("PGPASSWORD", SECRET)
    assert used(Budget(f"postgresql:///postgres?{guarded}")) == (5, 5)
    monkeypatch.setenv("PGPASSWORD", "wrong" + SECRET)
    postgresql_store.close_connections()
    shown = [repr(good), str(good.name)]
    for bad in (
        f"postgresql:///postgres?{guarded}",
        f"postgresql:///postgres?{guarded}&password=no{QUOTED}",
        where.replace(QUOTED, "no" + QUOTED),
        where.replace("/postgres?", "/nowhere?"),
    ):
        with pytest.raises(LinalignError, match="cannot use budget guarded of") as error:
            Budget(bad, 5)
        shown += ["".join(traceback.format_exception(error.value)), repr(error.value)]
        assert "guarded" in str(error.value) or "nowhere" in str(error.value)
    shown += capfd.readouterr()
    assert not any(SECRET in text or QUOTED in text for text in shown)


@pytest.mark.parametrize(
    "url",
    [
        "postgresql:x", "postgresql:/host/db", "postgresql://h:port/db",
        "postgresql:///postgres?budget=a.b",
        "postgresql:///postgres?budget=a&budget=b", "postgresql:///p?budget=%22;drop",
        "postgresql:///postgres?timeout=0", "postgresql:///postgres?timeout=x",
        "postgresql:///p?timeout=nan",
    ],
)  # fmt: skip
def test_urls_that_name_no_budget(url):
    with pytest.raises(InputError, match=r"(URL of a budget is not usable|is text, not a path)"):
        Budget(url)


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://bob:s3cr@et@host/db", "postgresql://bob:a@s3cr/et@host/db",
        "postgresql://bob:a@s3cr?et@host/db", "postgresql://b/ob:s3cret@host/db",
        "postgresql://bob:s3cret@a/db?host=a&host=b&port=1,1",
        "postgresql://bob:s3cret@/db?port=1&port=2",
    ],
)  # fmt: skip
def test_urls_that_would_show_a_password_or_fail_without_a_name(url):
    with pytest.raises(InputError, match=r"URL of a budget (has an @ too many|is not usable)") as e:
        Budget(url)
    assert not any(part in str(e.value) for part in ("s3cr", "et@", "bob"))


def test_an_at_sign_that_is_encoded_or_of_an_option_is_none_too_many():
    for url in ("me%40x:s%40@127.0.0.1:1/db", "bob:s3?c@127.0.0.1:1/db?password=a@b"):
        with pytest.raises(LinalignError, match=r"budget default of postgresql://127.0.0.1:1/db:"):
            Budget(f"postgresql://{url}", 5)


def test_a_path_is_not_a_url():
    with pytest.raises(InputError, match="is text, not a path"):
        Budget(Path("postgresql://user@host/db"))


def test_servers_that_are_not_there(tmp_path, server):
    for where in (
        f"host={tmp_path}",
        "host=127.0.0.1&port=1",
        f"host={server.socket}&bad_option=1",
    ):
        with pytest.raises(LinalignError, match="cannot use budget default of"):
            Budget(f"postgresql:///postgres?user={USER}&{where}", 5)


def test_without_the_extra(url, monkeypatch):
    monkeypatch.setitem(sys.modules, "sqlalchemy", None)
    with pytest.raises(MissingExtraError, match=r"'linalign-lite\[postgresql\]'"):
        Budget(url, 5)
