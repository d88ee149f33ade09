"""Builds the jar with our formats and windows, and puts it with the connector and the job script into `headspring/`
of the environment whose Python runs this. Needs a JDK 17 or newer, and Maven unless `--connector` names the jar.

    .flink/bin/python streaming/flink/build.py
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
JAR = "headspring-flink.jar"
_PLUGIN = "org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy-dependencies"


def flink_jars() -> Path:
    """The folder with the jars of this environment's Flink."""
    import pyflink

    return Path(pyflink.__file__).parent / "lib"


def connector(target: Path) -> Path:
    """Brings the Kafka connector that `pom.xml` names into `target`."""
    run("mvn", "-q", "-B", "-f", str(HERE / "pom.xml"), _PLUGIN, f"-DoutputDirectory={target}",
        "-DincludeScope=runtime")  # fmt: skip
    (found,) = target.glob("flink-sql-connector-kafka-*.jar")
    return found


def jar(target: Path, *, libraries: Path, kafka: Path) -> Path:
    """Compiles `java/` against Flink's jars and the connector."""
    sources = sorted((HERE / "java").rglob("*.java"))
    with tempfile.TemporaryDirectory() as scratch:
        classes = Path(scratch) / "classes"
        run("javac", "--release", "17", "-proc:none", "-Xlint:all,-processing,-classfile,-path", "-Werror",
            "-cp", f"{libraries}/*:{kafka}", "-d", str(classes), *map(str, sources))  # fmt: skip
        shutil.copytree(HERE / "java" / "META-INF", classes / "META-INF")
        built = Path(scratch) / JAR
        run("jar", "--create", "--file", str(built), "--date=2020-01-01T00:00:00Z", "-C", str(classes), ".")
        return Path(shutil.move(built, target / JAR))


def run(*argv: str) -> None:
    """A program of the JDK or Maven; ends this script with its words if it fails."""
    try:
        result = subprocess.run(argv, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        sys.exit(f"{argv[0]} is not installed here; wanted a JDK 17 or newer, and Maven")
    if result.returncode:
        sys.exit(f"{argv[0]} failed with {result.returncode}:\n{(result.stdout + result.stderr).strip()[-4000:]}")


def main() -> None:
    """Fills the folder, or the one that `--out` names."""
    options = argparse.ArgumentParser(description=(__doc__ or "").strip())
    options.add_argument("--out", type=Path, default=Path(sys.prefix) / "headspring")
    options.add_argument("--connector", type=Path, help="jar of flink-sql-connector-kafka, instead of Maven's")
    options.add_argument("--flink", type=Path, help="folder of Flink's jars, instead of this environment's")
    chosen = options.parse_args()
    out: Path = chosen.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    kafka = Path(shutil.copy2(chosen.connector, out)) if chosen.connector else connector(out)
    jar(out, libraries=chosen.flink or flink_jars(), kafka=kafka)
    shutil.copy2(HERE / "job.py", out)
    print(out)


if __name__ == "__main__":
    main()
