"""What the service is told by its environment, read once at the start.

Only environment variables count: no file is searched for, so that a service never
picks up a stray ``.env`` of the folder in which it happens to be started. The addresses
and the key are secrets: neither ``repr()`` nor an error shows them.
"""

from typing import Annotated, Literal, Self

from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from counterfoil.server.core.proxies import TrustedProxies

LogFormat = Literal["json", "console"]
LogLevel = Literal["debug", "info", "warning", "error"]


class SettingsError(Exception):
    """The environment does not describe a service that can be started. ``str()`` says why."""


class Settings(BaseSettings):
    """The whole configuration of one service. Immutable."""

    model_config = SettingsConfigDict(
        env_file=None,
        extra="ignore",
        frozen=True,
        hide_input_in_errors=True,
        populate_by_name=True,
    )

    database_url: Annotated[SecretStr, Field(validation_alias="DATABASE_URL")]
    """Where the book is: ``postgresql://…``, or a libpq string of ``key=value`` pairs."""

    database_direct_url: Annotated[
        SecretStr | None, Field(validation_alias="COUNTERFOIL_DATABASE_DIRECT_URL")
    ] = None
    """The same database without a pooler in between. ``LISTEN`` needs a session of its own,
    which pgbouncer in transaction mode cannot give. Default: ``DATABASE_URL``."""

    api_key: Annotated[SecretStr | None, Field(validation_alias="API_KEY")] = None
    """The bootstrap key: opens everything in the default tenant's book, to make the keys with
    that are used. None: only keys that were made open anything."""

    open_to_this_machine: Annotated[
        bool, Field(validation_alias="COUNTERFOIL_OPEN_TO_THIS_MACHINE")
    ] = False
    """Whether calls that address the machine as localhost need no key, and may then do
    everything in the default tenant's book. For development: ``counterfoil dev`` sets it where
    there is no API_KEY."""

    tls_cert: Annotated[str | None, Field(validation_alias="COUNTERFOIL_TLS_CERT")] = None
    """The file with the certificate of the service in PEM form, and those that lead from it to
    a known authority. With it and ``tls_key`` the service speaks HTTPS, and nothing else."""

    tls_key: Annotated[str | None, Field(validation_alias="COUNTERFOIL_TLS_KEY")] = None
    """The file with the private key of that certificate in PEM form."""

    tls_key_password: Annotated[
        SecretStr | None, Field(validation_alias="COUNTERFOIL_TLS_KEY_PASSWORD")
    ] = None
    """What opens that file, where it is encrypted."""

    trusted_proxies: Annotated[
        str | None, Field(validation_alias="COUNTERFOIL_TRUSTED_PROXIES")
    ] = None
    """From where proxies of the operator's connect: addresses and networks with commas between
    them. Only their ``X-Forwarded-For`` and ``X-Forwarded-Proto`` are believed."""

    prepare_statements: Annotated[
        bool, Field(validation_alias="COUNTERFOIL_PREPARE_STATEMENTS")
    ] = True
    """Whether a connection is the service's alone. Off behind a pooler that hands one session
    to many (pgbouncer in transaction mode): then no statement is prepared on it and no
    setting made, and the login must have the service's rights and a ``statement_timeout``."""

    pool_connections_min: Annotated[
        int, Field(validation_alias="COUNTERFOIL_POOL_CONNECTIONS_MIN", ge=1, le=1_000)
    ] = 2
    """Connections that one process keeps open."""

    pool_connections_max: Annotated[
        int, Field(validation_alias="COUNTERFOIL_POOL_CONNECTIONS_MAX", ge=1, le=1_000)
    ] = 10
    """Connections that one process opens at most; mind the number of workers."""

    log_format: Annotated[LogFormat, Field(validation_alias="COUNTERFOIL_LOG_FORMAT")] = "json"
    """``json`` for machines, one object a line; ``console`` for people."""

    log_level: Annotated[LogLevel, Field(validation_alias="COUNTERFOIL_LOG_LEVEL")] = "info"
    """The least level that is written. ``debug`` writes a line for every request."""

    @field_validator("database_url", "database_direct_url")
    @classmethod
    def _is_postgresql(cls, value: SecretStr | None) -> SecretStr | None:
        if value is None:
            return None
        text = value.get_secret_value()
        if not text.strip():
            raise ValueError("it is empty")
        if "://" in text and not text.startswith(("postgresql://", "postgres://")):
            raise ValueError("it must start with postgresql:// (no driver's name behind it)")
        if "://" not in text and "=" not in text:
            raise ValueError("it must be a postgresql:// address or libpq's key=value pairs")
        return value

    @field_validator("api_key")
    @classmethod
    def _can_be_sent(cls, value: SecretStr | None) -> SecretStr | None:
        if value is None:
            return None
        text = value.get_secret_value()
        # An empty variable is how a missing secret looks in most deployments. To read it as
        # "no key wanted" would open the book to everybody, silently.
        if not text.strip():
            raise ValueError("it is empty; unset it if no key is wanted")
        if not all("!" <= character <= "~" for character in text):
            raise ValueError("only visible ASCII characters fit into a header")
        return value

    @field_validator("tls_cert", "tls_key")
    @classmethod
    def _names_a_file(cls, value: str | None) -> str | None:
        if value is None:
            return None
        if not value.strip():
            raise ValueError("it is empty; unset it if no TLS is wanted")
        # It would be shown by whoever says which file cannot be read.
        if "-----BEGIN" in value or "\n" in value:
            raise ValueError("it is the name of a file, not what stands in it")
        return value

    @field_validator("trusted_proxies")
    @classmethod
    def _are_addresses(cls, value: str | None) -> str | None:
        if value is not None:
            TrustedProxies.parse(value)
        return value

    @model_validator(mode="after")
    def _tls_is_whole(self) -> Self:
        if (self.tls_cert is None) != (self.tls_key is None):
            raise ValueError(
                "COUNTERFOIL_TLS_CERT and COUNTERFOIL_TLS_KEY (--tls-cert and --tls-key) belong "
                "together, and only one is given"
            )
        return self

    @model_validator(mode="after")
    def _pool_is_possible(self) -> Self:
        if self.pool_connections_min > self.pool_connections_max:
            raise ValueError(
                "COUNTERFOIL_POOL_CONNECTIONS_MIN is above COUNTERFOIL_POOL_CONNECTIONS_MAX"
            )
        return self

    @classmethod
    def from_environment(cls, **given: object) -> Self:
        """Read the environment; what is ``given`` by field name wins over it.

        Raises ``SettingsError`` with a sentence for each thing that is wrong, and never
        with the value that was.
        """
        try:
            return cls(**given)  # type: ignore[arg-type]  # judged right there
        except ValidationError as error:
            raise SettingsError(_explain(error)) from None


def _explain(error: ValidationError) -> str:
    sentences = []
    for item in error.errors(include_input=False, include_url=False, include_context=False):
        name = str(item["loc"][0]) if item["loc"] else ""
        if name in Settings.model_fields:  # given by its field's name
            name = str(Settings.model_fields[name].validation_alias)
        if item["type"] == "missing":
            sentences.append(f"{name} is not set.")
            continue
        reason = item["msg"].removeprefix("Value error, ")
        reason = reason[:1].lower() + reason[1:] if name else reason
        sentences.append(f"{name}: {reason}." if name else f"{reason}.")
    return " ".join(sentences)
