"""HTTPS, and certificates of clients."""

import pytest
from certificates import certificate
from served import serving, write_heads

from linalign_lite.errors import InputError, LinalignError
from linalign_lite.service.remote_provider import RemoteProvider


@pytest.mark.parametrize("clients", [False, True], ids=["server", "both"])
def test_both_sides_prove_who_they_are(tmp_path, clients):
    authority = certificate(tmp_path, "ca")
    for name in ("server", "client"):
        certificate(tmp_path, name, authority)
    path = write_heads(tmp_path)
    asked = 'clients = "ca.pem"\n' if clients else ""
    tls = f'[tls]\ncertificate = "server.pem"\nkey = "server.key.pem"\n{asked}'
    path.write_text(path.read_text() + tls)
    ca = str(tmp_path / "ca.pem")
    mine = str(tmp_path / "client.pem"), str(tmp_path / "client.key.pem")
    with serving(path) as served:
        assert served.url.startswith("https://")
        with RemoteProvider(served.url, verify=ca, certificate=mine, tries=1) as provider:
            assert [h.name for h in provider.heads()] == ["head0"]
        with (
            pytest.raises(LinalignError, match="does not answer"),
            RemoteProvider(served.url, tries=1) as provider,
        ):
            provider.heads()  # an authority that nobody trusts
        with RemoteProvider(served.url, verify=ca, tries=1) as provider:
            if clients:
                with pytest.raises(LinalignError, match="does not answer"):
                    provider.heads()
            else:
                assert provider.heads()
    with pytest.raises(InputError, match=r"cannot read none\.pem"):
        RemoteProvider(served.url, certificate=("none.pem", "none.pem"))
