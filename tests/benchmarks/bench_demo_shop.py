"""What the demo shop costs: CPU and memory of its processes, and how fast it starts.

Run: `python tests/benchmarks/bench_demo_shop.py` from the repository root; writes `results/demo_shop.json`.
Telemetry goes to a server that takes and forgets it, so that exporters do all their work.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import tempfile
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx2
import psutil

_WARM_S = 10.0
_MEASURED_S = 30.0
_RESULT = Path(__file__).parent / "results" / "demo_shop.json"


class _Sink(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        pass


def _cpu_s(processes: list[psutil.Process]) -> float:
    return float(sum(sum(process.cpu_times()[:2]) for process in processes))


def main() -> None:
    """Measures for half a minute and writes the result."""
    sink = ThreadingHTTPServer(("127.0.0.1", 0), _Sink)
    threading.Thread(target=sink.serve_forever, daemon=True).start()
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        supervisor = subprocess.Popen(
            [
                sys.executable, "-m", "headspring.gateway.demo.supervisor", "--otlp",
                f"http://127.0.0.1:{sink.server_address[1]}", "--api-key", "none-needed", "--data", folder,
                "--port", "0", "--until-eof",
            ],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        try:
            assert supervisor.stdout
            url = supervisor.stdout.readline().split()[-1]
            start_s = time.monotonic() - started
            time.sleep(_WARM_S)
            parent = psutil.Process(supervisor.pid)
            processes = [parent, *parent.children(recursive=True)]
            before, load_before = _cpu_s(processes), httpx2.get(f"{url}/simulate/status").json()["load"]
            time.sleep(_MEASURED_S)
            after, load_after = _cpu_s(processes), httpx2.get(f"{url}/simulate/status").json()["load"]
            memory = sum(process.memory_info().rss for process in processes)
        finally:
            supervisor.terminate()
            supervisor.wait(20)
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True).stdout
    result = {
        "command": "python tests/benchmarks/bench_demo_shop.py",
        "commit": commit.strip(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "python": platform.python_version(),
        "results": {
            "processes": len(processes),
            "cores_used": round((after - before) / _MEASURED_S, 3),
            "memory_mib": round(memory / 2**20),
            "start_s": round(start_s, 2),
            "requests_per_s": round((load_after["sent"] - load_before["sent"]) / _MEASURED_S, 1),
            "failed": load_after["failed"],
            "p95_s": load_after["recent_p95_s"],
        },
    }
    text = json.dumps(result, indent=2) + "\n"
    _RESULT.write_text(text, encoding="utf-8")
    sys.stdout.write(text)


if __name__ == "__main__":
    main()
