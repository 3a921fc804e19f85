"""The configuration of a service is checked before anything starts."""

import pytest

from linalign_lite.core.signing import SigningKey
from linalign_lite.errors import FormatError, InputError, LinalignError
from linalign_lite.service.configuration import IN_THE_CLEAR, Configuration

HEAD = '[[heads]]\nname = "intents"\nfile = "intents.head.npz"\n'


def load(tmp_path, text):
    path = tmp_path / "service.toml"
    path.write_text(text)
    return Configuration.load(path)


def test_paths_are_beside_the_file(tmp_path):
    tls = '[tls]\ncertificate = "a.pem"\nkey = "b.pem"\nclients = "c.pem"\n'
    found = load(tmp_path, f'keys = "keys"\naudit_log = "audit"\nhost = "0.0.0.0"\n{HEAD}{tls}')
    assert found.keys == tmp_path / "keys"
    assert found.audit_log == tmp_path / "audit"
    assert found.heads[0].file == tmp_path / "intents.head.npz"
    assert found.heads[0].known_accounts() is None
    assert found.tls.clients == tmp_path / "c.pem"
    assert (found.port, found.workers, found.heads[0].profile) == (8765, None, "private")


def test_accounts_are_files(tmp_path):
    signer = SigningKey.generate()
    signer.verifying.save(tmp_path / "alice.pub")
    found = load(tmp_path, f'keys = "keys"\n{HEAD}accounts = ["alice.pub"]\n')
    assert found.heads[0].known_accounts() == {signer.public}


def test_the_secret_half_of_an_account_is_refused(tmp_path):
    SigningKey.generate().save(tmp_path / "alice.key")
    found = load(tmp_path, f'keys = "keys"\n{HEAD}accounts = ["alice.key"]\n')
    with pytest.raises(InputError, match=r"alice\.key: this is the secret half .*make a new key"):
        found.heads[0].known_accounts()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("keys = ", r"service\.toml is not TOML: got Invalid value \(at "),
        ("port = 8000\n", "configuration lacks fields: expected keys$"),
        (f"keys = 3\n{HEAD}", r"configuration\.keys .*: got a whole number, expected text"),
        (f'keys = "keys"\nport = "80"\n{HEAD}', "got text, expected a whole number"),
        (f'keys = "keys"\n{HEAD}limit = 0\n', r"configuration\.heads\[0\]\.limit is not usable"),
        (f'keys = "keys"\n{HEAD.replace("[[heads]]", "[heads]")}', r"write \[\[heads\]\] with two"),
        (f'keys = "keys"\nport = 70000\n{HEAD}', r"port is not usable: got 70000"),
        (f'keys = "keys"\nspeed = 1\n{HEAD}', "has unknown fields: got speed"),
        (f'keys = "keys"\n{HEAD}profile = "open"\n', r"profile is unknown: got open"),
        (f'keys = "keys"\n{HEAD.replace("intents", "../x")}', r"name is not usable"),
    ],
)
def test_what_is_no_configuration(tmp_path, text, message):
    with pytest.raises(FormatError, match=message):
        load(tmp_path, text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('keys = "keys"\nheads = []\n', "this serves nothing: expected"),
        (f'keys = "keys"\n{HEAD}{HEAD}', "two heads have one name"),
        (f'keys = "keys"\n{HEAD}limit = 3\n', "head intents has limits but no budget"),
        (f'keys = "keys"\norigins = ["127.0.0.1:8000"]\n{HEAD}', "an origin is not usable: got"),
        (f'keys = "keys"\norigins = ["http://a.org/"]\n{HEAD}', "as http://127.0.0.1:8000 .hint"),
        (f'keys = "keys"\nhost = "0.0.0.0"\n{HEAD}', "without TLS this service answers its own"),
        (f'keys = "keys"\nhost = "example.org"\n{HEAD}', "without TLS this service answers its"),
    ],
)
def test_what_a_configuration_cannot_mean(tmp_path, text, message):
    with pytest.raises(InputError, match=message):
        load(tmp_path, text)


def test_plain_http_beyond_this_machine_is_asked_for_in_words(tmp_path):
    text = f'keys = "keys"\nhost = "0.0.0.0"\nwithout_tls = "{IN_THE_CLEAR}"\n{HEAD}'
    assert load(tmp_path, text).host == "0.0.0.0"
    for host in ("127.0.0.1", "::1", "localhost"):
        assert load(tmp_path, f'keys = "keys"\nhost = "{host}"\n{HEAD}').host == host


def test_a_file_that_is_no_configuration(tmp_path):
    with pytest.raises(InputError):
        Configuration.load(tmp_path / "missing.toml")
    (tmp_path / "large.toml").write_bytes(b"#" * (1 << 20) + b"#")
    with pytest.raises(LinalignError, match="too large"):
        Configuration.load(tmp_path / "large.toml")


def test_a_budget_is_a_file_or_a_url(tmp_path):
    found = load(tmp_path, f'keys = "keys"\n{HEAD}budget = "b.sqlite"\nlimit = 5\n')
    assert found.heads[0].open_budget().name == str(tmp_path / "b.sqlite")
    url = "postgresql://user:pass-word@db.example.org/heads?budget=intents"
    found = load(tmp_path, f'keys = "keys"\n{HEAD}budget = "{url}"\n')
    assert found.heads[0].budget == url
    assert "pass-word" not in repr(found)
