"""Brings the servers of the `real` tests into the cache: `python -m tests.servers`."""

from __future__ import annotations

import sys
import time

from tests.servers import alertmanager, debian, prometheus, victoria


def main() -> int:
    """Installs what is missing; 1 if something cannot be had."""
    missing = 0
    for name, packages in (
        ("prometheus", prometheus.PACKAGES),
        ("alertmanager", alertmanager.PACKAGES),
        ("victoria", victoria.PACKAGES),
    ):
        started = time.monotonic()
        try:
            found = debian.root(name, packages)
        except RuntimeError as error:
            sys.stderr.write(f"{name}: {error}\n")
            missing += 1
        else:
            sys.stdout.write(f"{name}: {found} ({time.monotonic() - started:.1f} s)\n")
    return 1 if missing else 0


if __name__ == "__main__":
    sys.exit(main())
