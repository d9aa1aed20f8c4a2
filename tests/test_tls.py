"""Our own TLS, over real handshakes: versions, renewal without a dropped connection, failures that can be seen."""

import datetime as dt
import http.client
import os
import socket
import ssl
import subprocess
import sys

import pytest
import running
import trustme
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from running import JSON, review

from function.serving import tls

FAILURES = "kube_audit_function_tls_handshake_failures_total"
EXPIRY = "kube_audit_function_certificate_expiry_timestamp_seconds"
RELOADED = 'kube_audit_function_config_last_reload_successful{config="certificate"}'
FAST = running.bounded(reload_seconds=0.1)


@pytest.fixture(scope="module")
def authority():
    return trustme.CA()


def write(certificate, directory):
    """Write certificate and key as a mounted Secret has them."""
    os.makedirs(directory, exist_ok=True)
    certificate.private_key_pem.write_to_path(str(directory / "tls.key"))
    chain = b"".join(blob.bytes() for blob in certificate.cert_chain_pems)
    (directory / "tls.crt").write_bytes(chain)


def mount(directory, version, certificate):
    """Do what the kubelet does: write a new version, and swap the symbolic link to it."""
    write(certificate, directory / version)
    os.symlink(version, directory / "..tmp")
    os.replace(directory / "..tmp", directory / "..data")
    for name in ("tls.crt", "tls.key"):
        if not os.path.lexists(directory / name):
            os.symlink(f"..data/{name}", directory / name)


def serve_tls(directory, **more):
    env = {"AUDIT_TLS_CERT_FILE": str(directory / "tls.crt"), "AUDIT_TLS_KEY_FILE": str(directory / "tls.key")}
    return running.serve(env, command=FAST, scheme="https", **more)


def client(authority, **options):
    context = ssl.create_default_context()
    authority.configure_trust(context)
    for name, value in options.items():
        setattr(context, name, value)
    return context


def connect(server, context):
    return http.client.HTTPSConnection("localhost", server.port, context=context, timeout=10)


def serial(server, context):
    """Return the serial number of the certificate that a new connection is shown."""
    with shake_hands(server, context) as wrapped:
        return x509.load_der_x509_certificate(wrapped.getpeercert(binary_form=True)).serial_number


def shake_hands(server, context, name="localhost"):
    raw = socket.create_connection(("127.0.0.1", server.port), timeout=10)
    try:
        return context.wrap_socket(raw, server_hostname=name)
    except OSError:
        raw.close()
        raise


def number(certificate):
    return x509.load_pem_x509_certificate(certificate.cert_chain_pems[0].bytes()).serial_number


@pytest.fixture(scope="module")
def served(authority, tmp_path_factory):
    directory = tmp_path_factory.mktemp("tls")
    certificate = authority.issue_cert("localhost", not_after=dt.datetime(2049, 12, 31, 23, 59, 59, tzinfo=dt.UTC))
    write(certificate, directory)
    with serve_tls(directory) as server:
        yield server


def test_reviews_over_tls(served, authority):
    connection = connect(served, client(authority))
    assert running.ask(connection, "POST", "/log-request?timeout=5s", review("tls"), JSON).status == 200
    assert connection.sock.version() == "TLSv1.3"
    assert running.ask(connection, "POST", "/log-request?timeout=5s", review("again"), JSON).status == 200
    assert served.records("again")


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
def test_tls_1_2_is_served_and_older_is_refused(served, authority):
    context = client(authority, maximum_version=ssl.TLSVersion.TLSv1_2)
    assert running.ask(connect(served, context), "GET", "/healthz").status == 200
    old = client(authority, minimum_version=ssl.TLSVersion.TLSv1, maximum_version=ssl.TLSVersion.TLSv1_1)
    old.set_ciphers("ALL:@SECLEVEL=0")
    before = served.metrics()[FAILURES]
    with pytest.raises(ssl.SSLError):
        running.ask(connect(served, old), "GET", "/healthz")
    running.wait_for(lambda: served.metrics()[FAILURES] == before + 1)


def test_the_expiry_metric_is_the_certificates_not_after(served):
    assert served.metrics()[EXPIRY] == dt.datetime(2049, 12, 31, 23, 59, 59, tzinfo=dt.UTC).timestamp()
    assert served.metrics()[RELOADED] == 1


def test_only_http_1_1_is_negotiated(served, authority):
    """Go offers h2 first."""
    context = client(authority)
    context.set_alpn_protocols(["h2", "http/1.1"])
    with shake_hands(served, context) as connection:
        assert connection.selected_alpn_protocol() == "http/1.1"


def test_callers_that_send_no_server_name_are_served(served, authority):
    """As those whose webhook's URL holds an IP address."""
    context = client(authority, check_hostname=False)
    with shake_hands(served, context, name=None) as connection:
        assert connection.getpeercert()


def test_a_caller_that_does_not_trust_us_is_counted_and_logged(authority, tmp_path):
    write(authority.issue_cert("localhost"), tmp_path)
    with serve_tls(tmp_path) as server:
        with pytest.raises(ssl.SSLCertVerificationError):
            running.ask(connect(server, ssl.create_default_context()), "GET", "/healthz")
        line = server.logged("TLS handshake failed")
        assert line["severity"] == "WARNING"
        assert "caBundle" in line["hint"]
        running.wait_for(lambda: server.metrics()[FAILURES] == 1)


def test_plain_http_on_the_tls_port_is_counted_and_logged(authority, tmp_path):
    write(authority.issue_cert("localhost"), tmp_path)
    with serve_tls(tmp_path) as server:
        assert b"HTTP/1.1 200" not in server.send(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        assert "plain HTTP" in server.logged("TLS handshake failed")["hint"]
        running.wait_for(lambda: server.metrics()[FAILURES] == 1)
        assert running.ask(connect(server, client(authority)), "GET", "/readyz").status == 200


# -- renewal ------------------------------------------------------------------------------------------------------


def test_a_renewed_certificate_is_served_without_a_restart_and_a_bad_one_is_not(authority, tmp_path):
    """Through it all one keep-alive connection stays open."""
    first = authority.issue_cert("localhost")
    later = dt.datetime(2048, 1, 1, tzinfo=dt.UTC)
    second = authority.issue_cert("localhost", not_after=later)
    mount(tmp_path, "..1", first)
    context = client(authority)
    with serve_tls(tmp_path) as server:
        kept = connect(server, context)
        assert running.ask(kept, "POST", "/log-request", review("first"), JSON).status == 200
        kept_socket = kept.sock
        assert serial(server, context) == number(first)

        mount(tmp_path, "..2", second)
        running.wait_for(lambda: serial(server, context) == number(second))
        assert server.metrics()[EXPIRY] == later.timestamp()
        assert server.metrics()[RELOADED] == 1

        broken = tmp_path / "..3"
        write(authority.issue_cert("localhost"), broken)
        first.private_key_pem.write_to_path(str(broken / "tls.key"))
        os.symlink("..3", tmp_path / "..tmp")
        os.replace(tmp_path / "..tmp", tmp_path / "..data")
        running.wait_for(lambda: server.metrics()[RELOADED] == 0)
        assert "do not fit together" in server.logged("the new certificate is not usable")["message"]
        assert serial(server, context) == number(second)
        assert server.metrics()[EXPIRY] == later.timestamp()

        third = authority.issue_cert("localhost")
        mount(tmp_path, "..4", third)
        running.wait_for(lambda: serial(server, context) == number(third))
        assert server.metrics()[RELOADED] == 1
        assert running.ask(kept, "POST", "/log-request", review("last"), JSON).status == 200
        assert kept.sock is kept_socket
        assert b"PRIVATE" not in server.stderr


def test_a_renewal_with_another_kind_of_key_replaces_the_old_certificate(tmp_path):
    """OpenSSL keeps one certificate a key type: the old one must not live on beside the new."""
    authority = trustme.CA()
    rsa = authority.issue_cert("localhost", key_type=trustme.KeyType.RSA)
    ecdsa = authority.issue_cert("localhost", key_type=trustme.KeyType.ECDSA)
    mount(tmp_path, "..1", rsa)
    context = client(authority, maximum_version=ssl.TLSVersion.TLSv1_2)
    only_rsa = client(authority, maximum_version=ssl.TLSVersion.TLSv1_2)
    only_rsa.set_ciphers("ECDHE-RSA-AES128-GCM-SHA256")
    with serve_tls(tmp_path) as server:
        assert serial(server, only_rsa) == number(rsa)
        mount(tmp_path, "..2", ecdsa)
        running.wait_for(lambda: serial(server, context) == number(ecdsa))
        with pytest.raises(ssl.SSLError):
            serial(server, only_rsa)


# -- starting -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("broken", ["certificate", "key", "other key", "empty"])
def test_an_unusable_certificate_is_a_clear_error(authority, tmp_path, broken):
    write(authority.issue_cert("localhost"), tmp_path)
    if broken == "other key":
        authority.issue_cert("localhost").private_key_pem.write_to_path(str(tmp_path / "tls.key"))
    else:
        name = "tls.key" if broken == "key" else "tls.crt"
        (tmp_path / name).write_text("" if broken == "empty" else "s3cr3t nonsense")
    env = {"AUDIT_TLS_CERT_FILE": str(tmp_path / "tls.crt"), "AUDIT_TLS_KEY_FILE": str(tmp_path / "tls.key")}
    code, _, err = running.run(running.SERVE, env | {"PORT": str(running.free_port()), "AUDIT_JOURNAL_DIR": "-"})
    assert code == 3
    assert "cannot serve TLS" in err
    assert "AUDIT_TLS_" in err
    assert "Traceback" not in err
    assert "s3cr3t" not in err


# -- notAfter -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "moment",
    [dt.datetime(2049, 12, 31, 23, 59, 59), dt.datetime(2050, 1, 1), dt.datetime(9999, 12, 31, 23, 59, 59)],  # noqa: DTZ001 - UTC is set below
)
def test_not_after_is_read_from_both_forms_of_time(authority, moment):
    """UTCTime up to 2049, GeneralizedTime from 2050 on (RFC 5280, 4.1.2.5)."""
    moment = moment.replace(tzinfo=dt.UTC)
    pem = authority.issue_cert("localhost", not_after=moment).cert_chain_pems[0].bytes().decode()
    assert tls.not_after(ssl.PEM_cert_to_DER_cert(pem)) == moment.timestamp()


def test_not_after_of_certificates_made_by_openssl(tmp_path):
    """Version 1 and 3, read as the openssl command reads them."""
    made = 0
    for extra in ([], ["-x509v1"]):
        path = tmp_path / "cert.pem"
        command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj"]
        command += ["/CN=x", "-days", "77", "-keyout", str(tmp_path / "key.pem"), "-out", str(path), *extra]
        try:
            if subprocess.run(command, capture_output=True, check=False).returncode:
                continue  # an openssl without -x509v1
        except FileNotFoundError:
            pytest.skip("no openssl command here")
        expected = x509.load_pem_x509_certificate(path.read_bytes()).not_valid_after_utc.timestamp()
        assert tls.not_after(ssl.PEM_cert_to_DER_cert(path.read_text())) == expected
        made += 1
    assert made


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(tls.CertificateError, match=r"missing\.crt"):
        tls.load_certificate(tls.server_context(lambda: None), str(tmp_path / "missing.crt"), str(tmp_path / "x"))


def test_a_key_that_is_not_there_is_named_and_not_its_certificate(authority, tmp_path):
    write(authority.issue_cert("localhost"), tmp_path)
    with pytest.raises(tls.CertificateError, match=r"missing\.key: No such file"):
        tls.load_certificate(tls.server_context(lambda: None), str(tmp_path / "tls.crt"), str(tmp_path / "missing.key"))


def test_a_key_with_a_passphrase_is_refused_and_nobody_is_asked_for_it(authority, tmp_path):
    """OpenSSL would ask on the terminal, and wait; a reload would wait for ever."""
    write(authority.issue_cert("localhost"), tmp_path)
    key = serialization.load_pem_private_key((tmp_path / "tls.key").read_bytes(), None)
    pem, form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    (tmp_path / "tls.key").write_bytes(key.private_bytes(pem, form, serialization.BestAvailableEncryption(b"guess")))
    with pytest.raises(tls.CertificateError, match=r"tls\.key needs a passphrase"):
        tls.load_certificate(tls.server_context(lambda: None), str(tmp_path / "tls.crt"), str(tmp_path / "tls.key"))


def test_python_has_not_lost_the_hook_that_reports_handshakes():
    """`sslobject_class` is documented; uvloop and asyncio must both use it."""
    for loop in ("uvloop", "asyncio"):
        code = f"""
import asyncio, ssl, sys, importlib
from function.serving import tls
loop_module = importlib.import_module({loop!r})
failed = []
async def main():
    context = tls.server_context(lambda: failed.append(1))
    server = await asyncio.start_server(lambda r, w: None, "127.0.0.1", 0, ssl=context)
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    writer.write(b"GET / HTTP/1.1\\r\\n\\r\\n")
    await reader.read()
    await asyncio.sleep(0.05)
    assert failed == [1], failed
loop_module.run(main())
"""
        exit_code, _, err = running.run([sys.executable, "-c", code])
        assert exit_code == 0, err
