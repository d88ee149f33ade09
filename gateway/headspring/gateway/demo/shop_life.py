"""What a child process of the supervisor needs to live and end well: a life line and a shared port."""

from __future__ import annotations

import os
import socket
import threading


def exit_with(life_fd: int) -> None:
    """Ends this process when the other end of a pipe closes: no orphans, however the supervisor ends."""

    def wait() -> None:
        os.read(life_fd, 1)
        os._exit(0)

    threading.Thread(target=wait, name="life", daemon=True).start()


def shared_socket(port: int) -> socket.socket:
    """A bound socket whose port several processes may share: replicas, and old beside new in a restart."""
    bound = socket.socket()
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    bound.bind(("127.0.0.1", port))
    return bound
