"""Settings: from the environment and from flags, which take precedence; invalid values are refused."""

import os
from pathlib import Path

import pytest
from pydantic import ValidationError

from server.config import BadConfig, Config, load_config
from server.launch import to_env


@pytest.fixture(autouse=True)
def no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("UPSCALE_")]:
        monkeypatch.delenv(name)


def test_without_settings_the_server_is_private() -> None:
    config = load_config()
    assert (config.host, config.port, config.api_keys, config.allow_hosts) == ("127.0.0.1", 8000, (), ())
    assert config.database == f"sqlite:///{config.data_dir}/jobs.sqlite3"
    assert config.blobs_dir == config.data_dir / "blobs"
    assert config.weights_path == config.data_dir / "weights"


def test_settings_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UPSCALE_DATA_DIR", "/somewhere")
    monkeypatch.setenv("UPSCALE_PORT", "9000")
    monkeypatch.setenv("UPSCALE_DTYPE", "fp32")
    monkeypatch.setenv("UPSCALE_KEEP_S", "0.5")
    config = load_config()
    assert (config.data_dir, config.port, config.dtype, config.keep_s) == (Path("/somewhere"), 9000, "fp32", 0.5)


def test_a_flag_wins_over_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UPSCALE_PORT", "9000")
    assert load_config(port=0).port == 0
    assert load_config(port=None).port == 9000, "a flag that was not given"


def test_an_empty_variable_is_as_good_as_none(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("UPSCALE_PORT", "UPSCALE_API_KEYS", "UPSCALE_DATABASE_URL"):
        monkeypatch.setenv(name, "")
    config = load_config()
    assert (config.port, config.api_keys, config.database_url) == (8000, (), None)


@pytest.mark.parametrize("name", ["UPSCALE_PROT", "UPSCALE_", "UPSCALE_PORTS", "UPSCALE_TESTING"])
def test_an_unknown_variable_stops_the_start(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "1")
    with pytest.raises(BadConfig, match=f"^unknown setting {name}; the settings are UPSCALE_ALLOW_HOSTS, "):
        load_config()


def test_the_test_suites_own_variables_and_those_of_others_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UPSCALE_TEST_POSTGRES", "postgresql://nowhere")
    monkeypatch.setenv("UPSCALER", "somebody else's")
    load_config()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("UPSCALE_PORT", "http"),
        ("UPSCALE_PORT", "65536"),
        ("UPSCALE_WORKERS", "-1"),
        ("UPSCALE_WORKERS", "1.5"),
        ("UPSCALE_DTYPE", "fp8"),
        ("UPSCALE_LEASE_S", "0"),
        ("UPSCALE_KEEP_S", "0"),
        ("UPSCALE_MAX_QUEUE", "0"),
        ("UPSCALE_PUBLIC_BASE_URL", "example.com"),
    ],
)
def test_a_value_that_does_not_fit_is_named_with_its_setting(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(BadConfig, match=f"^{name}='{value}': [A-Z]"):
        load_config()


def test_a_flag_that_does_not_fit_is_named_as_its_setting() -> None:
    with pytest.raises(BadConfig, match="^UPSCALE_WORKERS=65: "):
        load_config(workers=65)


@pytest.mark.parametrize("name", ["UPSCALE_API_KEYS", "UPSCALE_ALLOW_HOSTS"])
@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("one", ("one",)),
        ("one,two", ("one", "two")),
        (" one , two ,", ("one", "two")),
        (",", ()),
        ('["a"]', ('["a"]',)),
    ],
)
def test_several_values_are_separated_by_commas(
    monkeypatch: pytest.MonkeyPatch, name: str, text: str, values: tuple[str, ...]
) -> None:
    monkeypatch.setenv(name, text)
    assert getattr(load_config(), name.removeprefix("UPSCALE_").lower()) == values


def test_a_public_address_has_no_slash_at_its_end() -> None:
    assert load_config(public_base_url="https://example.com/upscale//").public_base_url == "https://example.com/upscale"


def test_a_config_does_not_change() -> None:
    with pytest.raises(ValidationError):
        load_config().port = 1


def test_every_setting_says_what_it_is() -> None:
    assert [name for name, field in Config.model_fields.items() if not field.description] == []


@pytest.mark.parametrize(
    "flags",
    [
        {},
        {
            "data_dir": "/some where",
            "host": "::1",
            "port": 0,
            "public_base_url": "https://example.com",
            "api_keys": ("one", "two"),
            "allow_hosts": ("10.0.0.0/8", "[fd00::1]:8080", "files.local"),
            "database_url": "postgresql://user:pass@host/jobs?sslmode=require",
            "weights_dir": "/weights",
            "workers": 3,
            "device": "cuda:1",
            "dtype": "bf16",
            "tile": 256,
            "fetch_timeout_s": 0.25,
            "keep_s": 1e9,
        },
    ],
    ids=["defaults", "everything"],
)
def test_a_child_process_gets_the_same_settings(monkeypatch: pytest.MonkeyPatch, flags: dict[str, object]) -> None:
    config = load_config(**flags)
    for name, value in to_env(config).items():
        monkeypatch.setenv(name, value)
    assert load_config() == config


@pytest.mark.parametrize("name", ["UPSCALE_C2PA_CERT", "UPSCALE_C2PA_KEY"])
def test_half_of_a_pair_of_settings_is_refused(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "/somewhere.pem")
    with pytest.raises(BadConfig, match="go together"):
        load_config()
