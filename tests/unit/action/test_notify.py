"""Each message once, to every channel, as clean text."""

from __future__ import annotations

import io
import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from headspring.action.notify.apprise_ import AppriseNotifier
from headspring.action.notify.console import ConsoleNotifier
from headspring.action.notify.dispatch import Delivery, Dispatcher, cleaned
from headspring.action.notify.port import Notification
from headspring.proto.errors import ConfigError, Unavailable

MESSAGE = Notification(incident_id="inc-1", title="Restart: succeeded", body="all is well", url="http://h/1")


def _dispatcher(stream: io.StringIO, store: Path | None = None) -> Dispatcher:
    return Dispatcher([ConsoleNotifier(stream)], store)


def test_a_message_is_sent_once_per_incident_and_kind() -> None:
    stream = io.StringIO()
    dispatcher = _dispatcher(stream)
    assert dispatcher.send(MESSAGE) == {"console": Delivery.SENT}
    assert dispatcher.send(MESSAGE) == {"console": Delivery.REPEATED}
    other = Notification(incident_id="inc-2", title=MESSAGE.title, body="b")
    assert dispatcher.send(other) == {"console": Delivery.SENT}
    kind = Notification(incident_id="inc-1", title=MESSAGE.title, body="b", kind="run-2/succeeded")
    assert dispatcher.send(kind) == {"console": Delivery.SENT}
    assert len(stream.getvalue().splitlines()) == 3


def test_what_was_sent_is_remembered_over_a_restart(tmp_path: Path) -> None:
    first = _dispatcher(io.StringIO(), tmp_path / "sent.db")
    assert first.send(MESSAGE)["console"] is Delivery.SENT
    first.close()
    again = _dispatcher(io.StringIO(), tmp_path / "sent.db")
    assert again.send(MESSAGE)["console"] is Delivery.REPEATED
    again.close()


def test_a_channel_that_fails_is_tried_again_and_keeps_no_other_from_sending() -> None:
    class Broken(ConsoleNotifier):
        @property
        def name(self) -> str:
            return "broken"

    closed = io.StringIO()
    closed.close()
    dispatcher = Dispatcher([Broken(closed), ConsoleNotifier(io.StringIO())])
    assert dispatcher.send(MESSAGE) == {"broken": Delivery.FAILED, "console": Delivery.SENT}
    assert dispatcher.send(MESSAGE) == {"broken": Delivery.FAILED, "console": Delivery.REPEATED}


def test_threads_that_send_the_same_send_it_once() -> None:
    stream = io.StringIO()
    dispatcher = _dispatcher(stream)
    threads = [threading.Thread(target=dispatcher.send, args=(MESSAGE,)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(stream.getvalue().splitlines()) == 1


def test_control_and_direction_characters_do_not_reach_people() -> None:
    stream = io.StringIO()
    _dispatcher(stream).send(
        Notification(incident_id="inc-1", title="a\x1b[2J\u202eb\nc", body="one\r\ntwo\x00\x9b", severity="critical")
    )
    assert stream.getvalue() == "[critical] inc-1 a[2Jb c: one two\n"
    assert cleaned("x" * 50, 10) == "x" * 9 + "…"


def test_apprise_delivers_to_a_real_endpoint_and_says_when_it_cannot() -> None:
    got: list[dict[str, str]] = []

    class Hook(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            got.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            """Quiet."""

    server = HTTPServer(("127.0.0.1", 0), Hook)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    notifier = AppriseNotifier([f"json://127.0.0.1:{server.server_port}/hook"])
    notifier.send(MESSAGE)
    server.shutdown()
    server.server_close()
    thread.join()
    assert (got[0]["title"], got[0]["message"]) == (MESSAGE.title, f"{MESSAGE.body}\n{MESSAGE.url}")
    with pytest.raises(Unavailable):
        notifier.send(MESSAGE)


def test_an_address_that_apprise_does_not_know_is_named_without_its_secret() -> None:
    with pytest.raises(ConfigError, match=r"address 1 \(nonsense") as caught:
        AppriseNotifier(["nonsense://token-abc"]).send(MESSAGE)
    assert "token-abc" not in str(caught.value)
