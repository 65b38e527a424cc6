"""Certificates for tests, made by OpenSSL when they are wanted: none lies about and runs out."""

import subprocess
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Certificate:
    """A certificate for this machine that vouches for itself, and its key."""

    cert: Path
    key: Path


def make_certificate(folder: Path, name: str = "own") -> Certificate:
    """Make a certificate for localhost and 127.0.0.1."""
    made = Certificate(folder / f"{name}.crt", folder / f"{name}.key")
    _openssl(
        *("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"),
        *("-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"),
        *("-days", "2", "-keyout", str(made.key), "-out", str(made.cert)),
    )
    return made


def encrypted(key: Path, password: str) -> Path:
    """Write a key that is opened by a password beside this one."""
    target = key.with_suffix(".encrypted")
    _openssl(
        "pkey", "-in", str(key), "-aes256", "-passout", f"pass:{password}", "-out", str(target)
    )
    return target


def _openssl(*arguments: str) -> None:
    done = subprocess.run(["openssl", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
