"""Jars from Maven Central, by Maven's own resolver, into the cache; and the Java that runs them."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from xml.sax.saxutils import escape

from tests.servers import debian

_PLUGIN = "org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy-dependencies"
_TIMEOUT_S = 900.0


def jars(name: str, artifacts: Sequence[str], *, transitive: bool = True) -> Path:
    """A folder `lib` below the cache's `name` with these artifacts, `group:artifact:version`, and what they need.

    Raises:
        RuntimeError: they cannot be had; says why.
    """
    home = debian.cache() / name
    folder, stamp, wanted = home / "lib", home / "jars", "\n".join([*sorted(artifacts), str(transitive)])
    with debian.locked(name):
        if stamp.exists() and stamp.read_text() == wanted:
            return folder
        if shutil.which("mvn") is None:
            raise RuntimeError(f"{name}: this machine has no mvn; put the jars of {', '.join(artifacts)} into {folder}")
        shutil.rmtree(folder, ignore_errors=True)
        home.mkdir(parents=True, exist_ok=True)
        (home / "pom.xml").write_text(_pom(name, artifacts, transitive))
        argv = ["mvn", "-q", "-B", _PLUGIN, f"-DoutputDirectory={folder}", "-DincludeScope=runtime"]
        result = subprocess.run(argv, cwd=home, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False)
        if result.returncode:
            raise RuntimeError(f"{name}: mvn failed with {result.returncode}: {result.stdout.strip()[-800:]}")
        stamp.write_text(wanted)
    return folder


def java(program: str = "java") -> str:
    """The full path of a program of the Java installation: `java`, `javac`, `jar`.

    Raises:
        RuntimeError: there is no Java here.
    """
    home = os.environ.get("JAVA_HOME", "")
    found = shutil.which(str(Path(home) / "bin" / program) if home else program)
    if found is None:
        raise RuntimeError(f"{program} is not installed here; wanted a JDK 17 or newer")
    return found


def _pom(name: str, artifacts: Sequence[str], transitive: bool) -> str:
    bare = "" if transitive else (
        "<exclusions><exclusion><groupId>*</groupId><artifactId>*</artifactId></exclusion></exclusions>"
    )  # fmt: skip
    rows = []
    for artifact in artifacts:
        group, artifact_id, version = map(escape, artifact.split(":"))
        rows.append(
            f"<dependency><groupId>{group}</groupId><artifactId>{artifact_id}</artifactId>"
            f"<version>{version}</version>{bare}</dependency>"
        )
    return (
        '<project xmlns="http://maven.apache.org/POM/4.0.0"><modelVersion>4.0.0</modelVersion>'
        f"<groupId>local</groupId><artifactId>{escape(name)}</artifactId><version>1</version><packaging>pom</packaging>"
        f"<dependencies>{''.join(rows)}</dependencies></project>"
    )
