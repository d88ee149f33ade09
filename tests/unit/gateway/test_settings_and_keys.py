"""Settings know where they came from; keys open what their role allows and nothing else."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from headspring.gateway.auth.keys import SESSION_S, KeyStore, Role
from headspring.gateway.auth.requests import SESSION_COOKIE, Authenticator
from headspring.gateway.runtime.config import SETTINGS, resolve
from headspring.gateway.runtime.data import prepare
from headspring.proto.clock import ManualClock
from headspring.proto.errors import ConfigError, Forbidden, NotFound, Unauthenticated


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(start_ns=1_700_000_000 * 10**9)


@pytest.fixture
def keys(tmp_path: Path, clock: ManualClock) -> KeyStore:
    return KeyStore(tmp_path, clock=clock)


def test_a_flag_beats_the_environment_which_beats_the_file_which_beats_the_default(tmp_path: Path) -> None:
    file = tmp_path / "headspring.toml"
    file.write_text("port = 1111\notlp_port = 2222\ngrpc_port = 3333\n")
    settings = resolve({"port": 9999}, environ={"HEADSPRING_PORT": "8888", "HEADSPRING_OTLP_PORT": "7777"}, file=file)
    found = {name: (item.value, item.source) for name, item in settings.resolved.items()}
    assert found["port"] == (9999, "flag")
    assert found["otlp_port"] == (7777, "environment")
    assert found["grpc_port"] == (3333, f"file {file}")
    assert found["host"] == ("127.0.0.1", "default")


@pytest.mark.parametrize(
    ("environ", "part"),
    [
        ({"HEADSPRING_PORT": "http"}, "'http' is not int"),
        ({"HEADSPRING_PORT": "70000"}, "above 65535"),
        ({"HEADSPRING_WINDOW_S": "1"}, "below 10"),
        ({"HEADSPRING_HOST_METRICS": "perhaps"}, "is not bool"),
    ],
)
def test_an_unusable_value_names_the_setting_and_its_source(environ: dict[str, str], part: str) -> None:
    with pytest.raises(ConfigError, match="from environment") as caught:
        resolve(environ=environ)
    assert part in str(caught.value)


def test_a_file_with_an_unknown_setting_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "headspring.toml"
    file.write_text("prot = 1\n")
    with pytest.raises(ConfigError, match="unknown setting prot"):
        resolve(environ={}, file=file)


def test_secret_settings_are_never_shown() -> None:
    shown = resolve(environ={"HEADSPRING_BOOTSTRAP_KEY": "canary-canary-canary"}).resolved["bootstrap_key"].shown
    assert "canary" not in shown


def test_every_setting_has_a_reason_and_a_usable_default() -> None:
    assert all(setting.help for setting in SETTINGS)
    assert set(resolve(environ={}).resolved) == {setting.name for setting in SETTINGS}


def test_the_first_start_makes_an_admin_key_and_the_second_does_not(keys: KeyStore) -> None:
    key = keys.bootstrap()
    assert keys.principal(key).role is Role.ADMIN
    assert keys.bootstrap() == ""


def test_a_key_is_not_stored_in_the_clear(keys: KeyStore, tmp_path: Path) -> None:
    key = keys.create("reader", Role.VIEWER)
    assert key.encode() not in (tmp_path / "auth.db").read_bytes()
    for name in ("auth.db", "auth.pepper"):
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o600


def test_a_revoked_key_stops_working_at_once(keys: KeyStore) -> None:
    key = keys.create("reader", Role.VIEWER)
    keys.principal(key)
    keys.revoke("reader")
    with pytest.raises(Unauthenticated):
        keys.principal(key)
    with pytest.raises(NotFound):
        keys.revoke("reader")


def test_a_new_key_of_the_same_name_replaces_the_old_one(keys: KeyStore) -> None:
    old, new = keys.create("reader", Role.VIEWER), keys.create("reader", Role.OPERATOR)
    with pytest.raises(Unauthenticated):
        keys.principal(old)
    assert keys.principal(new).role is Role.OPERATOR


@pytest.mark.parametrize("role", list(Role))
def test_a_role_may_do_what_the_roles_before_it_may(keys: KeyStore, role: Role) -> None:
    principal = keys.principal(keys.create("somebody", role))
    order = list(Role)
    for wanted in order:
        if order.index(wanted) <= order.index(role):
            principal.require(wanted)
        else:
            with pytest.raises(Forbidden, match="needs"):
                principal.require(wanted)


def test_a_session_ends(keys: KeyStore, clock: ManualClock) -> None:
    token = keys.open_session(keys.create("reader", Role.VIEWER))
    assert keys.session(token).csrf
    clock.advance(SESSION_S + 1)
    with pytest.raises(Unauthenticated):
        keys.session(token)


def test_a_closed_session_is_over(keys: KeyStore) -> None:
    token = keys.open_session(keys.create("reader", Role.VIEWER))
    keys.close_session(token)
    with pytest.raises(Unauthenticated):
        keys.session(token)


def test_a_short_bootstrap_key_is_refused(keys: KeyStore) -> None:
    with pytest.raises(ConfigError, match="at least 16"):
        keys.bootstrap("short")


def test_telemetry_is_not_taken_on_a_browser_cookie(keys: KeyStore) -> None:
    who = Authenticator(keys)
    key = keys.create("admin", Role.ADMIN)
    token = keys.open_session(key)
    assert who.principal({"cookie": f"{SESSION_COOKIE}={token}"}).name == "admin"
    with pytest.raises(Unauthenticated):
        who.tenant_for_intake({"cookie": f"{SESSION_COOKIE}={token}"})
    assert who.tenant_for_intake({"authorization": f"Bearer {key}"}) == "default"


@pytest.mark.parametrize("header", ["", "Basic abc", "Bearer ", "Bearer wrong", "bearer\x00"])
def test_an_unknown_key_opens_nothing(keys: KeyStore, header: str) -> None:
    with pytest.raises(Unauthenticated):
        Authenticator(keys).principal({"authorization": header})


def test_a_key_that_another_process_revoked_stops_working_within_seconds(
    keys: KeyStore, clock: ManualClock, tmp_path: Path
) -> None:
    key = keys.create("reader", Role.VIEWER)
    keys.principal(key)
    KeyStore(tmp_path, clock=clock).revoke("reader")
    clock.advance(6)
    with pytest.raises(Unauthenticated):
        keys.principal(key)


def test_kernels_compiled_from_other_code_are_not_used_and_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NUMBA_CACHE_DIR", raising=False)
    stale = tmp_path / "kernels" / "0123456789abcdef"
    stale.mkdir(parents=True)
    prepare(tmp_path)
    first = Path(os.environ.pop("NUMBA_CACHE_DIR"))
    assert not stale.exists()
    first.mkdir(parents=True)
    prepare(tmp_path)
    assert os.environ.pop("NUMBA_CACHE_DIR") == str(first), "the same code finds its kernels again"
    assert first.exists()
