"""The environment, read strictly and without showing a secret."""

import pickle

import pytest

from counterfoil.server.core.settings import Settings, SettingsError

URL = "postgresql://service:hush-hush@db.example/book"


@pytest.fixture(autouse=True)
def no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Start from an environment that says nothing."""
    for name in Settings.model_fields.values():
        monkeypatch.delenv(str(name.validation_alias), raising=False)


def test_the_environment_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", URL)
    monkeypatch.setenv("API_KEY", "k")
    monkeypatch.setenv("COUNTERFOIL_PREPARE_STATEMENTS", "false")
    monkeypatch.setenv("COUNTERFOIL_LOG_LEVEL", "debug")

    settings = Settings.from_environment()

    assert settings.database_url.get_secret_value() == URL
    assert settings.database_direct_url is None
    assert settings.api_key is not None
    assert settings.api_key.get_secret_value() == "k"
    assert settings.prepare_statements is False
    assert settings.log_level == "debug"


def test_what_is_given_wins_over_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql://other")

    settings = Settings.from_environment(database_url=URL)

    assert settings.database_url.get_secret_value() == URL


def test_no_file_is_read(monkeypatch: pytest.MonkeyPatch, tmp_path: object) -> None:
    monkeypatch.chdir(str(tmp_path))
    with open(".env", "w", encoding="utf-8") as file:  # noqa: PTH123 - where it would be looked for
        file.write("API_KEY=from-a-file\n")

    assert Settings.from_environment(database_url=URL).api_key is None


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("DATABASE_URL", ""),
        ("DATABASE_URL", "   "),
        ("DATABASE_URL", "mysql://root:hush-hush@db/book"),
        ("DATABASE_URL", "postgresql+psycopg://root:hush-hush@db/book"),
        ("DATABASE_URL", "hush-hush"),
        ("COUNTERFOIL_DATABASE_DIRECT_URL", "http://hush-hush"),
        ("API_KEY", ""),
        ("API_KEY", " \t"),
        ("API_KEY", "hush hush-hush"),
        ("API_KEY", "hush-hush-ä"),
        ("COUNTERFOIL_TLS_CERT", " "),
        ("COUNTERFOIL_TLS_CERT", "hush-hush.pem"),
        ("COUNTERFOIL_TLS_KEY", "-----BEGIN PRIVATE KEY-----\nhush-hush"),
        ("COUNTERFOIL_TRUSTED_PROXIES", "*"),
        ("COUNTERFOIL_TRUSTED_PROXIES", "10.0.0.1, hush-hush"),
        ("COUNTERFOIL_TRUSTED_PROXIES", "10.0.0.1, ::/0"),
        ("COUNTERFOIL_PREPARE_STATEMENTS", "hush-hush"),
        ("COUNTERFOIL_POOL_CONNECTIONS_MAX", "0"),
        ("COUNTERFOIL_LOG_FORMAT", "hush-hush"),
        ("COUNTERFOIL_LOG_LEVEL", "hush-hush"),
    ],
)
def test_a_bad_value_is_named_and_not_shown(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv("DATABASE_URL", URL)
    monkeypatch.setenv(name, value)

    with pytest.raises(SettingsError) as caught:
        Settings.from_environment()

    assert name in str(caught.value)
    assert "hush" not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__


def test_a_missing_database_is_named() -> None:
    with pytest.raises(SettingsError, match=r"^DATABASE_URL is not set\.$"):
        Settings.from_environment()


def test_a_pool_that_cannot_be_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COUNTERFOIL_POOL_CONNECTIONS_MIN", "11")

    with pytest.raises(SettingsError, match="COUNTERFOIL_POOL_CONNECTIONS_MIN is above"):
        Settings.from_environment(database_url=URL, pool_connections_max=10)


def test_secrets_are_not_shown() -> None:
    settings = Settings.from_environment(database_url=URL, api_key="hush-key")

    for shown in (repr(settings), str(settings), settings.model_dump_json()):
        assert "hush" not in shown


def test_settings_reach_a_worker_whole() -> None:
    settings = Settings.from_environment(database_url=URL, api_key="k")

    assert pickle.loads(pickle.dumps(settings)) == settings  # noqa: S301 - our own
