"""What everything on Redis has in common."""

from __future__ import annotations

from headspring.knowledge.coordination.redis.server import RedisServer


class OnRedis:
    """Has a server, its own or one that is shared."""

    def __init__(self, server: RedisServer | str, password: str) -> None:
        self._own = not isinstance(server, RedisServer)
        self.server = server if isinstance(server, RedisServer) else RedisServer(server, password=password)

    def ping(self) -> None:
        """
        Raises:
            Unavailable: the server does not answer as it should.
        """
        self.server.ping()

    def close(self) -> None:
        """Ends the connections, if they are not shared."""
        if self._own:
            self.server.close()
