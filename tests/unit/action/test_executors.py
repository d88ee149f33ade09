"""Executors against a real server and real programs."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from headspring.action.execute.http import MAX_RESPONSE_BYTES, HttpExecutor
from headspring.action.execute.port import MAX_OUTPUT_CHARS
from headspring.action.execute.process import ProcessExecutor
from headspring.proto.action import PlannedStep
from headspring.proto.errors import ConfigError, ExecutionFailed, Rejected


class _Ops(BaseHTTPRequestHandler):
    seen: list[tuple[str, str, str, str]]

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def _answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode()
        self.seen.append((self.command, self.path, self.headers.get("Idempotency-Key", ""), body))
        if self.path == "/moved":
            self.send_response(307)
            self.send_header("Location", "/elsewhere")
            self.end_headers()
        elif self.path == "/broken":
            self.send_response(500)
            self.end_headers()
            self.wfile.write(b"no \x1b[31mluck")
        elif self.path == "/large":
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"x" * (4 * MAX_RESPONSE_BYTES))
        elif self.path == "/slow":
            time.sleep(1.0)
        else:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b'{"state":"running"}')

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""


@pytest.fixture
def ops() -> Iterator[ThreadingHTTPServer]:
    _Ops.seen = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Ops)
    server.handle_error = lambda *_: None  # type: ignore[method-assign]  # clients of these tests hang up early
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def _base(ops: ThreadingHTTPServer) -> str:
    return f"http://127.0.0.1:{ops.server_port}"


def _step(executor: str = "http", **arguments: str) -> PlannedStep:
    return PlannedStep(step_id="one", name="One", executor=executor, arguments=arguments)


def test_a_step_is_sent_once_with_its_key_and_body(ops: ThreadingHTTPServer) -> None:
    step = _step(method="POST", url=f"{_base(ops)}/services/cart/scale", body='{"replicas": "3"}')
    assert HttpExecutor(ops_url=_base(ops)).run(step, idempotency_key="run-1/one") == '200 {"state":"running"}'
    assert _Ops.seen == [("POST", "/services/cart/scale", "run-1/one", '{"replicas": "3"}')]


def test_a_preview_only_reads(ops: ThreadingHTTPServer) -> None:
    url = f"{_base(ops)}/services/cart"
    executor = HttpExecutor(ops_url=_base(ops))
    text = executor.preview(_step(method="POST", url=f"{url}/restart", preview_url=url))
    assert "would send POST" in text
    assert "running" in text
    assert executor.preview(_step(method="POST", url=f"{url}/restart")) == f"would send POST {url}/restart"
    assert [entry[:3] for entry in _Ops.seen] == [("GET", "/services/cart", "")]


def test_redirects_are_not_followed(ops: ThreadingHTTPServer) -> None:
    with pytest.raises(ExecutionFailed, match="redirects are not followed"):
        HttpExecutor(ops_url=_base(ops)).run(_step(url=f"{_base(ops)}/moved"), idempotency_key="k")
    assert [entry[1] for entry in _Ops.seen] == ["/moved"]


def test_an_error_answer_fails_the_step_without_its_control_characters(ops: ThreadingHTTPServer) -> None:
    with pytest.raises(ExecutionFailed, match=r"answered 500: no \[31mluck"):
        HttpExecutor(ops_url=_base(ops)).run(_step(url=f"{_base(ops)}/broken"), idempotency_key="k")


def test_a_large_answer_is_cut(ops: ThreadingHTTPServer) -> None:
    text = HttpExecutor(ops_url=_base(ops)).run(_step(url=f"{_base(ops)}/large"), idempotency_key="k")
    assert len(text) < MAX_OUTPUT_CHARS + 50
    assert text.endswith("(cut)")


def test_a_slow_answer_fails_the_step(ops: ThreadingHTTPServer) -> None:
    started = time.monotonic()
    with pytest.raises(ExecutionFailed, match="Timeout"):
        HttpExecutor(ops_url=_base(ops)).run(_step(url=f"{_base(ops)}/slow", timeout_s="0.2"), idempotency_key="k")
    assert time.monotonic() - started < 0.9


def test_a_dead_endpoint_fails_the_step(ops: ThreadingHTTPServer) -> None:
    base = _base(ops)
    ops.shutdown()
    ops.server_close()
    with pytest.raises(ExecutionFailed, match="ConnectError"):
        HttpExecutor(ops_url=base).run(_step(url=f"{base}/x"), idempotency_key="k")


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:{other}/", "http://localhost:{port}/", "http://127.1:{port}/", "http://2130706433:{port}/",
        "http://0x7f000001:{port}/", "http://0177.0.0.1:{port}/", "http://[::ffff:127.0.0.1]:{port}/",
        "http://user@127.0.0.1:{port}/", "http://127.0.0.1:{port}@evil.example/", "http://127.0.0.1:{port}\\@evil/",
        "http://127.0.0.1%2f:{port}/", "http://127.0.0.1.:{port}/", "ftp://127.0.0.1:{port}/", "file:///etc/passwd",
        "//127.0.0.1:{port}/", "http://127.0.0.1:{port}/a/../b", "http://127.0.0.1:{port}/#x", "http://127.0.0.1:0/",
        "http://127.0.0.1:99999/", "http://127.0.0.1:{port}/\r\nX: y", "http:// 127.0.0.1:{port}/", "", "http://",
        "http://ⅼocalhost:{port}/", "http://169.254.169.254/latest", "http+unix://x/",
    ],
)  # fmt: skip
def test_any_other_address_is_rejected_without_a_request(ops: ThreadingHTTPServer, url: str) -> None:
    step = _step(method="GET", url=url.format(port=ops.server_port, other=ops.server_port - 1))
    executor = HttpExecutor(ops_url=_base(ops))
    with pytest.raises(Rejected):
        executor.run(step, idempotency_key="k")
    with pytest.raises(Rejected):
        executor.preview(step)
    assert _Ops.seen == []


def test_link_local_is_refused_where_the_socket_would_open_even_when_allowed() -> None:
    with pytest.raises(Rejected, match="no place for"):
        HttpExecutor(allow_hosts=["169.254.169.254:80"]).run(_step(url="http://169.254.169.254/"), idempotency_key="k")


def test_without_an_operations_address_nothing_is_sent(ops: ThreadingHTTPServer) -> None:
    with pytest.raises(Rejected, match="ops_url"):
        HttpExecutor().run(_step(url=f"{_base(ops)}/x"), idempotency_key="k")
    assert HttpExecutor(allow_hosts=[f"127.0.0.1:{ops.server_port}"]).run(
        _step(url=f"{_base(ops)}/x"), idempotency_key="k"
    )
    for bad in ("ftp://x", "http://user@x", "x"):
        with pytest.raises(ConfigError):
            HttpExecutor(ops_url=bad)


def test_a_strange_key_method_or_timeout_is_rejected(ops: ThreadingHTTPServer) -> None:
    executor = HttpExecutor(ops_url=_base(ops))
    for key, arguments in (
        ("a\r\nb", {}),
        ("k", {"method": "TRACE"}),
        ("k", {"timeout_s": "soon"}),
        ("k", {"timeout_s": "nan"}),
    ):
        with pytest.raises(Rejected):
            executor.run(_step(url=f"{_base(ops)}/x", **arguments), idempotency_key=key)
    assert _Ops.seen == []


def _run(*argv: str, allow: str = "/bin/sh", **arguments: str) -> str:
    return ProcessExecutor(allow=[allow]).run(
        _step("process", argv=json.dumps(argv), **arguments), idempotency_key="k1"
    )


def test_a_program_gets_its_words_as_they_are_and_no_environment_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", "s3cret")
    text = _run("/bin/sh", "-c", 'echo "[$1]"; /usr/bin/env', "x", "a; echo b $HOME")
    assert text.startswith("[a; echo b $HOME]\n")
    assert "s3cret" not in text
    assert "HEADSPRING_IDEMPOTENCY_KEY=k1" in text


def test_a_failing_program_fails_the_step() -> None:
    with pytest.raises(ExecutionFailed, match="ended with 3: sorry"):
        _run("/bin/sh", "-c", "echo sorry; exit 3")


def test_a_program_that_runs_too_long_is_ended_with_its_children() -> None:
    started = time.monotonic()
    with pytest.raises(ExecutionFailed, match="ran longer"):
        _run("/bin/sh", "-c", "sleep 30 & sleep 30", timeout_s="0.2")
    assert time.monotonic() - started < 5


def test_a_talkative_program_is_cut_and_does_not_block() -> None:
    assert _run("/bin/sh", "-c", "head -c 3000000 /dev/zero | tr '\\0' x").endswith("(cut)")


@pytest.mark.parametrize(
    "argv",
    ['["/bin/ls"]', '["sh"]', '["/bin/../bin/sh"]', "[]", '"/bin/sh"', '["/bin/sh", 1]', "", '["/bin/sh", "\\u0000"]'],
)
def test_any_other_program_is_rejected(argv: str) -> None:
    executor = ProcessExecutor(allow=["/bin/sh"])
    for call in (lambda s: executor.run(s, idempotency_key="k"), executor.preview):
        with pytest.raises(Rejected):
            call(_step("process", argv=argv))


def test_without_an_allow_list_no_program_runs() -> None:
    with pytest.raises(Rejected, match="not on the list"):
        ProcessExecutor().run(_step("process", argv='["/bin/sh"]'), idempotency_key="k")
    with pytest.raises(ConfigError):
        ProcessExecutor(allow=["sh"])
