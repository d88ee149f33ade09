"""A machine beside this one, at the end of two cables: a network namespace and two pairs of virtual interfaces.

A process that is started in it shares disk and clock with us and nothing of the network. One of its cables can be
taken out: what travels there vanishes, nobody is refused.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import pytest

_NETWORK = "198.18"
"""Set aside for tests of networks (RFC 2544): nobody routes it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cable:
    """One pair of interfaces, a network of its own (/30)."""

    near: str
    """Address of this end."""
    far: str
    """Address of the other machine's end."""
    interface: str
    """Of this end."""

    def cut(self) -> None:
        """From now on what is sent at either end vanishes."""
        _ip("link", "set", self.interface, "down")

    def mend(self) -> None:
        _ip("link", "set", self.interface, "up")


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    name: str
    first: Cable
    second: Cable

    def argv(self, argv: Sequence[str]) -> list[str]:
        """The same program, over there. The process has the id that it was started with."""
        return [_program(), "netns", "exec", self.name, *argv]


@contextmanager
def machine() -> Iterator[Machine]:
    """The machine with both cables in place, taken away at the end; skips the test for who may not make one."""
    if os.getuid() != 0:
        pytest.skip("network namespaces are made by root only, and this is not root")
    _program()
    tag = f"{os.getpid():x}"[-6:]
    name = f"hs-{tag}"
    made = _try("netns", "add", name)
    if made:
        pytest.skip(f"no network namespace can be made here: {made}")
    with ExitStack() as stack:
        stack.callback(_ip, "netns", "delete", name)  # and what is in it, so both cables
        _ip("-n", name, "link", "set", "lo", "up")
        cables = [_cable(name, tag, number) for number in (1, 2)]
        yield Machine(name=name, first=cables[0], second=cables[1])


def _cable(name: str, tag: str, number: int) -> Cable:
    near, far = f"hs{tag}n{number}", f"hs{tag}f{number}"
    third = os.getpid() % 200
    cable = Cable(
        near=f"{_NETWORK}.{third}.{4 * number + 1}", far=f"{_NETWORK}.{third}.{4 * number + 2}", interface=near
    )
    # Made over there: it goes with the namespace even when this stops half-way.
    _ip("-n", name, "link", "add", far, "type", "veth", "peer", "name", near, "netns", str(os.getpid()))
    _ip("address", "add", f"{cable.near}/30", "dev", near)
    _ip("-n", name, "address", "add", f"{cable.far}/30", "dev", far)
    _ip("link", "set", near, "up")
    _ip("-n", name, "link", "set", far, "up")
    # Who knows no hardware address of its neighbour is told "no route" after three seconds. Behind a router, where
    # brokers usually are, nothing is told: so the address is known for good.
    hardware = _ip("-o", "link", "show", near).split("link/ether ", 1)[1].split()[0]
    _ip("-n", name, "neighbour", "replace", cable.near, "lladdr", hardware, "dev", far, "nud", "permanent")
    return cable


def _program() -> str:
    found = shutil.which("ip", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
    if found is None:
        pytest.skip("this machine has no program ip (package iproute2)")
    return found


def _try(*words: str) -> str:
    """ "" where it worked, else what the program said."""
    done = subprocess.run([_program(), *words], capture_output=True, text=True, check=False)
    return (done.stderr.strip() or f"status {done.returncode}") if done.returncode else ""


def _ip(*words: str) -> str:
    done = subprocess.run([_program(), *words], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"ip {' '.join(words)} failed: {done.stderr.strip()}")
    return done.stdout
