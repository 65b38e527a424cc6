"""TLS that the service speaks itself: what it takes, and what it says of files that do not fit."""

import http.client
import re
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import httpx2
import pytest

from counterfoil import Counterfoil
from counterfoil.server.core.settings import Settings, SettingsError
from counterfoil.server.tls import tls_context
from tests.contract.conftest import KEY, open_door
from tests.support.certificates import Certificate, encrypted, make_certificate
from tests.support.cluster import Cluster, Database
from tests.support.command_line import counterfoil, started
from tests.support.service import Service, running_service

pytestmark = pytest.mark.promise("P7")

PASSWORD = "hush-hush"


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    return make_certificate(tmp_path_factory.mktemp("tls"))


def environment(certificate: Certificate) -> dict[str, str]:
    """The settings of a service with this certificate, whose key is encrypted."""
    return {
        "COUNTERFOIL_TLS_CERT": str(certificate.cert),
        "COUNTERFOIL_TLS_KEY": str(encrypted(certificate.key, PASSWORD)),
        "COUNTERFOIL_TLS_KEY_PASSWORD": PASSWORD,
        # The test's own callers, when it sees whether the service is ready.
        "SSL_CERT_FILE": str(certificate.cert),
    }


@pytest.fixture(scope="module")
def secure_service(cluster: Cluster, certificate: Certificate) -> Iterator[Service]:
    """A service of two workers with TLS."""
    with pytest.MonkeyPatch.context() as patch, cluster.database() as database:
        patch.setenv("SSL_CERT_FILE", str(certificate.cert))
        with running_service(
            database.url, api_key=KEY, workers=2, environment=environment(certificate)
        ) as service:
            yield service


def test_the_client_works_over_tls(secure_service: Service) -> None:
    assert secure_service.url.startswith("https://")
    with Counterfoil(base_url=secure_service.url, api_key=KEY) as book:
        payload = {"customer_id": "cust_1"}
        stored = book.events.append(agent_name="a", event_type="t", payload=payload)
        assert [event.id for event in book.events.list(tags=["customer:cust_1"])] == [stored.id]


def test_a_certificate_that_nobody_vouches_for_is_not_taken(
    secure_service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SSL_CERT_FILE")

    with httpx2.Client(base_url=secure_service.url) as client, pytest.raises(httpx2.ConnectError):
        client.get("/health/live")


def test_plain_http_is_not_spoken_there(secure_service: Service) -> None:
    address = urlsplit(secure_service.url)
    assert address.hostname
    plain = http.client.HTTPConnection(address.hostname, address.port, timeout=10)

    plain.request("GET", "/health/live")
    with pytest.raises((http.client.HTTPException, ConnectionError)):
        plain.getresponse()
    plain.close()


def spoken(service: Service, certificate: Certificate, **bounds: ssl.TLSVersion) -> str | None:
    """Shake hands, and return the version that was agreed on."""
    context = ssl.create_default_context(cafile=str(certificate.cert))
    for name, version in bounds.items():
        setattr(context, name, version)
    context.set_alpn_protocols(["h2", "http/1.1"])
    address = urlsplit(service.url)
    with (
        socket.create_connection((address.hostname, address.port), timeout=10) as connection,
        context.wrap_socket(connection, server_hostname="localhost") as secure,
    ):
        assert secure.selected_alpn_protocol() == "http/1.1"
        return secure.version()


def test_old_versions_are_not_spoken(secure_service: Service, certificate: Certificate) -> None:
    assert spoken(secure_service, certificate) == "TLSv1.3"
    assert spoken(secure_service, certificate, maximum_version=ssl.TLSVersion.TLSv1_2) == "TLSv1.2"


def test_the_oldest_version_is_no_question_of_how_openssl_is_set_up(
    certificate: Certificate,
) -> None:
    context = tls_context(settings_of(certificate.cert, certificate.key))

    assert context is not None
    assert context.minimum_version is ssl.TLSVersion.TLSv1_2


def test_over_tls_a_browser_is_told_to_stay_with_it(secure_service: Service) -> None:
    with open_door(secure_service) as door:
        for path in ("/health/live", "/events", "/docs"):
            answer = door.client.get(path)
            assert answer.headers["strict-transport-security"] == "max-age=31536000"


def test_a_proxys_word_on_tls_counts_if_it_is_named(cluster: Cluster) -> None:
    said = {"X-Forwarded-Proto": "https", "X-Forwarded-For": "203.0.113.9"}
    level = {"COUNTERFOIL_LOG_LEVEL": "debug"}
    with cluster.database() as database:
        for trusted, believed in (("10.0.0.0/8", False), ("127.0.0.1, ::1", True)):
            settings = {**level, "COUNTERFOIL_TRUSTED_PROXIES": trusted}
            with (
                running_service(database.url, environment=settings) as service,
                open_door(service) as door,
            ):
                answer = door.client.get("/events", headers=said)
                assert ("strict-transport-security" in answer.headers) is believed
                answer = door.client.get("/events")
                assert "strict-transport-security" not in answer.headers
                assert ('"client": "203.0.113.9"' in service.log) is believed


def test_over_tls_too_a_refusal_arrives_though_its_body_is_not_read(
    secure_service: Service,
) -> None:
    """There the connection cannot be closed in one direction: the answer's length ends it."""
    with open_door(secure_service, Connection="close") as stranger:
        answer = stranger.client.post("/events/batch", content=b"x" * 3_000_000)

    assert answer.status_code == 401


def test_serve_takes_certificate_and_key_as_options(
    database: Database, certificate: Certificate
) -> None:
    """They win over the variables."""
    options = (
        "--port",
        "0",
        "--tls-cert",
        str(certificate.cert),
        "--tls-key",
        str(certificate.key),
    )
    elsewhere = {"COUNTERFOIL_TLS_CERT": "nowhere.pem", "COUNTERFOIL_TLS_KEY": "nowhere.pem"}
    with started("serve", *options, DATABASE_URL=database.url, API_KEY=KEY, **elsewhere) as process:
        assert process.stdout is not None
        address = process.stdout.readline().split()[-1]
        context = ssl.create_default_context(cafile=str(certificate.cert))
        with httpx2.Client(base_url=address, verify=context) as client:
            assert client.get("/health/live").status_code == 200
        process.terminate()
        assert process.wait(20) == 0


@pytest.mark.parametrize("command", ["serve", "dev"])
def test_a_start_with_files_that_do_not_fit_ends_with_a_sentence(
    command: str, certificate: Certificate
) -> None:
    refused = counterfoil(
        command,
        *("--port", "0"),
        DATABASE_URL="postgresql://nowhere.invalid/book",
        COUNTERFOIL_TLS_CERT=str(certificate.key),
        COUNTERFOIL_TLS_KEY=str(certificate.key),
    )

    assert refused.returncode == 2
    assert "COUNTERFOIL_TLS_CERT (--tls-cert) holds no certificate" in refused.stderr
    assert refused.stdout == ""


# --- Files that do not fit ----------------------------------------------------------


def settings_of(cert: Path | None, key: Path | None, password: str | None = None) -> Settings:
    return Settings.from_environment(
        database_url="postgresql:///",
        tls_cert=None if cert is None else str(cert),
        tls_key=None if key is None else str(key),
        tls_key_password=password,
    )


def fault(cert: Path | None, key: Path | None, password: str | None = None) -> str:
    """What is said of these files."""
    with pytest.raises(SettingsError) as caught:
        tls_context(settings_of(cert, key, password))
    assert PASSWORD not in str(caught.value)
    assert re.fullmatch(r"[A-Z].*\.", str(caught.value))
    return str(caught.value)


def test_without_a_certificate_there_is_no_tls() -> None:
    assert tls_context(settings_of(None, None)) is None


def test_half_of_what_tls_needs_is_refused(certificate: Certificate) -> None:
    for cert, key in ((certificate.cert, None), (None, certificate.key)):
        assert "only one is given" in fault(cert, key)


def test_a_file_that_cannot_be_read_is_named_by_its_setting(
    certificate: Certificate, tmp_path: Path
) -> None:
    nowhere = tmp_path / PASSWORD
    assert fault(nowhere, certificate.key) == (
        "The file of COUNTERFOIL_TLS_CERT (--tls-cert) cannot be read: no such file or directory."
    )
    assert fault(certificate.cert, tmp_path) == (
        "The file of COUNTERFOIL_TLS_KEY (--tls-key) cannot be read: is a directory."
    )


def test_a_key_in_the_place_of_its_files_name_is_not_shown(certificate: Certificate) -> None:
    text = Path(certificate.key.read_text())

    assert "COUNTERFOIL_TLS_KEY: it is the name of a file" in fault(certificate.cert, text)


def test_files_that_hold_something_else_are_told_apart(
    certificate: Certificate, tmp_path: Path
) -> None:
    other = make_certificate(tmp_path, "other")
    locked = encrypted(other.key, PASSWORD)
    empty = tmp_path / "empty"
    empty.touch()
    assert "holds the key of another certificate" in fault(certificate.cert, other.key)
    assert "COUNTERFOIL_TLS_CERT (--tls-cert) holds no certificate" in fault(empty, other.key)
    assert "COUNTERFOIL_TLS_KEY (--tls-key) holds no private key" in fault(other.cert, empty)
    assert "is encrypted. Set COUNTERFOIL_TLS_KEY_PASSWORD" in fault(other.cert, locked)
    assert "PASSWORD does not open" in fault(other.cert, locked, f"not-{PASSWORD}".upper())
    assert "PASSWORD does not open" in fault(other.cert, locked, "long" * 1_000)
    assert tls_context(settings_of(other.cert, locked, PASSWORD))
