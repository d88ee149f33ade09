"""What the demo shop consists of: services, their routes and whom they call. Data only.

::

    storefront ─► checkout ─► inventory ─► orders-db
        │             └─────► payment ───► orders-db
        └───────► catalogue ─────────────► orders-db
"""

from __future__ import annotations

from dataclasses import dataclass

GOOD_VERSION = "v1"
BAD_VERSION = "v2-bad"
"""The version that the simulated bad deployment brings."""
BAD_VERSION_DELAY_S = 0.3
BAD_VERSION_ERROR_RATIO = 0.3
DATABASE = "orders-db"
ENTRY = "storefront"


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """One operation of a service."""

    path: str
    method: str = "GET"
    work_s: float = 0.004
    """Median time the operation takes by itself, seconds (log-normal around it)."""
    calls: tuple[tuple[str, str, str], ...] = ()
    """(service, method, path) called one after the other."""
    statement: str = ""
    """For the database: the statement that the operation runs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ShopService:
    """One process of the shop."""

    name: str
    routes: tuple[Route, ...]

    @property
    def callees(self) -> tuple[str, ...]:
        """Services that this one calls, each once."""
        return tuple(dict.fromkeys(service for route in self.routes for service, _, _ in route.calls))


SHOP: tuple[ShopService, ...] = (
    ShopService(
        name=ENTRY,
        routes=(
            Route(path="/browse", calls=(("catalogue", "GET", "/items"),)),
            Route(path="/buy", method="POST", calls=(("checkout", "POST", "/orders"),)),
        ),
    ),
    ShopService(
        name="checkout",
        routes=(
            Route(
                path="/orders", method="POST", work_s=0.006,
                calls=(("inventory", "POST", "/reservations"), ("payment", "POST", "/charges")),
            ),
        ),
    ),
    ShopService(name="catalogue", routes=(Route(path="/items", calls=((DATABASE, "GET", "/items"),)),)),
    ShopService(
        name="inventory",
        routes=(Route(path="/reservations", method="POST", calls=((DATABASE, "POST", "/reservations"),)),),
    ),
    ShopService(
        name="payment",
        routes=(Route(path="/charges", method="POST", work_s=0.010, calls=((DATABASE, "POST", "/charges"),)),),
    ),
    ShopService(
        name=DATABASE,
        routes=(
            Route(path="/items", work_s=0.002, statement="SELECT name, price FROM items ORDER BY random() LIMIT 5"),
            Route(
                path="/reservations", method="POST", work_s=0.002,
                statement="UPDATE items SET reserved = reserved + 1 WHERE id = 1 + abs(random()) % 50",
            ),
            Route(
                path="/charges", method="POST", work_s=0.002,
                statement="INSERT INTO charges (amount) VALUES (1 + abs(random()) % 200)",
            ),
        ),
    ),
)  # fmt: skip
BY_NAME: dict[str, ShopService] = {service.name: service for service in SHOP}
NAMES: tuple[str, ...] = tuple(BY_NAME)


def entity(name: str) -> str:
    """The entity id under which the platform sees a service of the shop."""
    return f"service:default/{name}"
