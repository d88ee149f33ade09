"""Debian's Chromium for the tests of the web UI, with its libraries and a font, unpacked beside the system."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from tests.servers import debian

PACKAGES = ("chromium", "chromium-common", "fonts-dejavu-core")


def prepare() -> Path:
    """The browser's program: what `HEADSPRING_CHROMIUM` names, this machine's own, or one in the cache."""
    found = os.environ.get("HEADSPRING_CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
    return Path(found) if found else debian.root("chromium", PACKAGES) / "usr" / "lib" / "chromium" / "chromium"


def environment() -> dict[str, str]:
    """Of the browser's process: where its libraries and fonts are, when it is the one in the cache."""
    program = prepare()
    unpacked = debian.cache() / "chromium" / "root"
    if not program.is_relative_to(unpacked):
        return dict(os.environ)
    fonts = debian.cache() / "chromium" / "fonts.conf"
    fonts.write_text(
        f"<fontconfig><dir>{unpacked / 'usr/share/fonts'}</dir>"
        f"<cachedir>{debian.cache() / 'chromium' / 'fonts'}</cachedir></fontconfig>"
    )
    private = [str(folder) for folder in sorted((unpacked / "usr/lib").glob("*-linux-gnu/pulseaudio"))]
    libraries = ":".join([*private, debian.library_path(unpacked)])
    return {**os.environ, "LD_LIBRARY_PATH": libraries, "FONTCONFIG_FILE": str(fonts)}
