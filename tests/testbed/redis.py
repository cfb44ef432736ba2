"""A Redis server."""

from __future__ import annotations

from tests.testbed.service import Service, free_ports


class Redis(Service):
    """A Redis server of our own, that keeps nothing on disk; `REDIS_URL` says where it is."""

    kind = "redis"
    programs = ("redis-server", "redis-cli")
    _port = 0

    @property
    def variables(self) -> dict[str, str]:
        """The address, as clients of Redis take it."""
        return {"REDIS_URL": f"redis://127.0.0.1:{self._port}/0"}

    def _bring_up(self) -> None:
        [self._port] = free_ports(1)
        address = ("--bind", "127.0.0.1", "--port", str(self._port), "--protected-mode", "yes")
        self.daemon("redis", "redis-server", *address, "--dir", self.state, "--save", "", "--appendonly", "no")
        self.await_(lambda: self.answers("redis-cli", "-p", str(self._port), "ping"), "it answers", 20.0)
