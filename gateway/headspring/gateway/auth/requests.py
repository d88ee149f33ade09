"""From a request's headers to a principal: a bearer key for programs, a cookie for browsers."""

from __future__ import annotations

from collections.abc import Mapping
from http.cookies import CookieError, SimpleCookie

from headspring.gateway.auth.keys import KeyStore, Principal, Role
from headspring.proto.errors import Unauthenticated

SESSION_COOKIE = "headspring_session"


def bearer(headers: Mapping[str, str]) -> str:
    """The API key in `Authorization: Bearer KEY` or `X-API-Key: KEY`; "" when there is none."""
    scheme, _, value = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        return value.strip()
    return headers.get("x-api-key", "").strip()


def session_token(headers: Mapping[str, str]) -> str:
    """The session cookie's value; "" when there is none."""
    cookie: SimpleCookie = SimpleCookie()
    try:
        cookie.load(headers.get("cookie", ""))
    except CookieError:
        return ""
    return cookie[SESSION_COOKIE].value if SESSION_COOKIE in cookie else ""


class Authenticator:
    """Finds out who asks."""

    def __init__(self, keys: KeyStore) -> None:
        self.keys = keys

    def principal(self, headers: Mapping[str, str]) -> Principal:
        """
        Raises:
            Unauthenticated: no key, no session, or one that is not known.
        """
        key = bearer(headers)
        if key:
            return self.keys.principal(key)
        token = session_token(headers)
        if token:
            return self.keys.session(token)
        raise Unauthenticated("no API key; send `Authorization: Bearer KEY`")

    def tenant_for_intake(self, headers: Mapping[str, str]) -> str:
        """Tenant of a sender of telemetry, always from its verified key. Cookies are not taken here:
        a page of somebody else's must not be able to post telemetry in a browser's name."""
        key = bearer(headers)
        if not key:
            raise Unauthenticated("no API key; send `Authorization: Bearer KEY`")
        principal = self.keys.principal(key)
        principal.require(Role.INGEST)
        return principal.tenant
