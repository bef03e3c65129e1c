"""The joint to tagalong.migrate: values in, values out."""

import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from tagalong import migrate
from tagalong.errors import MigrationCancelledError, UsageError
from tagalong.machine import AccessChoice
from tagalong.migrate import (
    Address,
    AutoConverge,
    Compression,
    CompressionMode,
    ExecAddress,
    FdAddress,
    FileAddress,
    MigrationOptions,
    MigrationReport,
    MigrationStage,
    SendProgress,
    Steering,
    TcpAddress,
    TlsCredentials,
    UnixAddress,
)
from tagalong.qapi.migration import MigrationRequest, SocketAddress
from tagalong.qapi.reports import MigrationResult
from tagalong.qapi.settings import MigrationSettings
from tagalong.vmm import transfer
from tests.support.results import migration_result
from tests.support.scripted_machine import ScriptedMachine

REPORT = migration_result().report
MOMENT = SendProgress(MigrationStage.PRECOPY, 2, 1000, 3, 4, 600, 400, 1e6, 5.0, 0.25)


def test_send_passes_options_and_converts_progress(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[object] = []

    def migrate_to(
        uri: str,
        machine: object,
        options: MigrationOptions,
        *,
        progress: Callable[[SendProgress], None],
        cancel: threading.Event,
        steering: Steering,
    ) -> MigrationReport:
        seen.extend([uri, machine, options, cancel, steering])
        progress(MOMENT)
        return REPORT

    monkeypatch.setattr(migrate, "migrate_to", migrate_to)
    machine, cancelled, steering = ScriptedMachine(), threading.Event(), Steering()
    moments: list[SendProgress] = []

    request = MigrationRequest(
        "tcp:host.example:1", MigrationSettings(downtime_limit=250), verify=True
    )
    result = transfer.send(machine, request, moments.append, cancelled, steering)

    assert result == migration_result()
    options = MigrationOptions(max_downtime_s=0.25, verify=True, drop_tags=False)
    assert seen == ["tcp:host.example:1", machine, options, cancelled, steering]
    assert moments == [MOMENT]


def test_send_passes_every_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[MigrationOptions] = []

    def migrate_to(
        _uri: str, _machine: object, options: MigrationOptions, **_rest: object
    ) -> MigrationReport:
        seen.append(options)
        return REPORT

    monkeypatch.setattr(migrate, "migrate_to", migrate_to)
    settings = MigrationSettings(
        downtime_limit=50,
        max_bandwidth=1000,
        avail_switchover_bandwidth=2000,
        cpu_throttle_initial=1,
        cpu_throttle_increment=2,
        max_cpu_throttle=3,
        tls_creds="/tls",
        tls_hostname="host.example",
        multifd_channels=4,
        multifd_compression="zstd",
        multifd_zstd_level=3,
        x_max_rounds=7,
        x_reconnect=5,
        auto_converge=True,
        multifd=True,
    )

    request = MigrationRequest("tcp:host.example:1", settings)
    transfer.send(ScriptedMachine(), request, lambda _: None, threading.Event(), Steering())

    assert seen == [
        MigrationOptions(
            max_downtime_s=0.05,
            max_rounds=7,
            max_bandwidth=1000,
            switchover_bandwidth=2000,
            auto_converge=AutoConverge(1, 2, 3),
            channels=4,
            compression=Compression(CompressionMode.ZSTD, 3),
            reconnect_s=5,
            tls=TlsCredentials(Path("/tls"), "host.example"),
        )
    ]


def test_send_without_multifd_names_no_number_of_connections() -> None:
    request = MigrationRequest("tcp:host.example:1", MigrationSettings(multifd_channels=8))

    assert request.options().channels is None


def test_send_with_a_host_name_but_no_certificates_is_refused() -> None:
    request = MigrationRequest("tcp:host.example:1", MigrationSettings(tls_hostname="host.example"))

    with pytest.raises(UsageError, match="needs tls-creds, too"):
        transfer.send(ScriptedMachine(), request, lambda _: None, threading.Event(), Steering())


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        (TcpAddress("::1", 4444), SocketAddress("inet", {"host": "::1", "port": "4444"})),
        (UnixAddress(Path("/run/in")), SocketAddress("unix", {"path": "/run/in"})),
        (FdAddress("5"), SocketAddress("fd", {"str": "5"})),
        (FileAddress(Path("vm")), None),
        (ExecAddress("cat"), None),
    ],
)
def test_socket_address_has_qmps_form(address: Address, expected: SocketAddress | None) -> None:
    assert transfer.socket_address(address) == expected


def test_listen_port_0_tells_the_real_port() -> None:
    receiver = transfer.listen("tcp:127.0.0.1:0")

    assert receiver.address is not None
    port = str(receiver.address.members["port"])
    assert int(port) > 0
    assert receiver.uri == f"tcp:127.0.0.1:{port}"
    receiver.close()
    with pytest.raises(MigrationCancelledError):
        receiver.receive(lambda _: ScriptedMachine(), lambda *_: None)


def test_listen_bad_uri_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match=r"^'x:1' is not a migration address"):
        transfer.listen("x:1")


def test_send_uses_the_access_strategy_that_is_asked_for_and_reports_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(migrate, "migrate_to", lambda *_args, **_options: REPORT)
    request = MigrationRequest("tcp:host.example:1", access="tco")
    machine = ScriptedMachine()

    result = transfer.send(machine, request, lambda _: None, threading.Event(), Steering())

    assert result == MigrationResult(REPORT, AccessChoice("tco", "asked for"))
