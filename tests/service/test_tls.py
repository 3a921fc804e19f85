"""HTTPS, and certificates of clients."""

import datetime
import ipaddress

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from served import serving, write_heads

from linalign_lite.errors import InputError, LinalignError
from linalign_lite.service.remote_provider import RemoteProvider


def certificate(folder, name, issuer=None, **extensions):
    """Make NAME.pem and NAME.key.pem, signed by ``issuer`` or by itself; returns (cert, key)."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    parent = issuer[0].subject if issuer else subject
    now = datetime.datetime.now(datetime.UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(parent)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(minutes=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=issuer is None, path_length=None), critical=True)
    )
    if issuer is not None:
        address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
        builder = builder.add_extension(x509.SubjectAlternativeName([address]), critical=False)
        authority = x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer[1].public_key())
        builder = builder.add_extension(authority, critical=False)
    else:
        usage = x509.KeyUsage(*(i in (5, 6) for i in range(9)))
        builder = builder.add_extension(usage, critical=True)
        own = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
        builder = builder.add_extension(own, critical=False)
    made = builder.sign(issuer[1] if issuer else key, hashes.SHA256())
    (folder / f"{name}.pem").write_bytes(made.public_bytes(serialization.Encoding.PEM))
    secret = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (folder / f"{name}.key.pem").write_bytes(secret)
    return made, key


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
