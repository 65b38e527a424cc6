"""TLS, where the service speaks it itself: versions 1.2 and 1.3, and HTTP/1.1 in them.

What is wrong with the files is said in sentences, before anything is started. None shows what
stands in a file, and none a file's name either: who puts a key where its file's name belongs
would find it in the log.
"""

import ssl
from pathlib import Path
from typing import Final

from counterfoil.server.core.settings import Settings, SettingsError

_CERT: Final = "The file of COUNTERFOIL_TLS_CERT (--tls-cert)"
_KEY: Final = "The file of COUNTERFOIL_TLS_KEY (--tls-key)"


def tls_context(settings: Settings) -> ssl.SSLContext | None:
    """Read certificate and key. None: the settings ask for no TLS.

    Raises ``SettingsError`` with a sentence.
    """
    if settings.tls_cert is None or settings.tls_key is None:
        return None
    _must_be_readable(settings.tls_cert, _CERT)
    _must_be_readable(settings.tls_key, _KEY)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    password = settings.tls_key_password
    asked_for_password = False

    def give_password() -> str:
        # Without this, OpenSSL would ask at the terminal, and wait for ever.
        nonlocal asked_for_password
        asked_for_password = True
        return "" if password is None else password.get_secret_value()

    try:
        context.load_cert_chain(settings.tls_cert, settings.tls_key, give_password)
    except (ssl.SSLError, ValueError) as error:
        # ValueError: a password longer than OpenSSL takes.
        fault = _fault(settings, error, asked_for_password=asked_for_password)
        raise SettingsError(fault) from None
    return context


def _must_be_readable(name: str, what: str) -> None:
    try:
        with Path(name).open("rb"):
            pass
    except (OSError, ValueError) as error:
        reason = (getattr(error, "strerror", None) or "that is no file's name").lower()
        raise SettingsError(f"{what} cannot be read: {reason}.") from None


def _fault(settings: Settings, error: Exception, *, asked_for_password: bool) -> str:
    if getattr(error, "reason", None) == "KEY_VALUES_MISMATCH":
        return f"{_KEY} holds the key of another certificate than that of COUNTERFOIL_TLS_CERT."
    if asked_for_password and settings.tls_key_password is None:
        return f"{_KEY} is encrypted. Set COUNTERFOIL_TLS_KEY_PASSWORD to what opens it."
    if asked_for_password:
        return "COUNTERFOIL_TLS_KEY_PASSWORD does not open the file of COUNTERFOIL_TLS_KEY."
    if not _holds_a_certificate(settings.tls_cert):
        return f"{_CERT} holds no certificate in PEM form."
    return f"{_KEY} holds no private key in PEM form that OpenSSL accepts."


def _holds_a_certificate(name: str | None) -> bool:
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cafile=name)
    except ssl.SSLError:
        return False
    return True
