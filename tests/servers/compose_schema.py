"""The schema of the Compose specification, from the Go module that publishes it."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

from tests.servers import debian

MODULE = "github.com/compose-spec/compose-go/v2@v2.16.2"
_TIMEOUT_S = 300.0


def prepare() -> Path:
    """Brings the schema into the cache; the file.

    Raises:
        RuntimeError: it cannot be had; says why.
    """
    home = debian.cache() / "compose"
    file = home / "compose-spec.json"
    with debian.locked("compose"):
        if file.exists():
            return file
        if shutil.which("go") is None:
            raise RuntimeError(f"this machine has no go to fetch {MODULE} with; put its schema into {file}")
        home.mkdir(parents=True, exist_ok=True)
        found = subprocess.run(
            ["go", "mod", "download", "-json", MODULE], cwd=home, capture_output=True, text=True, timeout=_TIMEOUT_S,
            check=False,
        )  # fmt: skip
        if found.returncode:
            raise RuntimeError(f"go cannot fetch {MODULE}: {found.stdout.strip()[-400:]} {found.stderr.strip()[-400:]}")
        shutil.copyfile(Path(json.loads(found.stdout)["Dir"]) / "schema" / "compose-spec.json", file)
        file.chmod(0o644)
    return file
