"""Pages over real embedded stores: what they show, whom they let in, what a form may do."""

from __future__ import annotations

import gzip
import re
import sqlite3
from collections.abc import AsyncIterator, Iterator
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import quote

import httpx2
import pytest
from tests.servers.pages import DIGEST, INCIDENT, OPENED_NS, RUN, Site, plan, service, site

from headspring.proto.action import RunState
from headspring.proto.clock import NS_PER_S, ManualClock
from headspring.proto.incident import Diagnosis

BASE = "http://pages.example"
OWN = {"origin": BASE}
PAGES = (
    "/incidents", f"/incidents/{INCIDENT}", "/services", "/query?query=service_error_ratio", "/runs", f"/runs/{RUN}",
    "/runbooks",
)  # fmt: skip
ASKS = ("/incidents?text=", "/query?query=", "/login?next=")
HOSTILE = (
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "'><svg/onload=alert(1)>",
    "</title></textarea></script><script>alert(1)</script>",
    "javascript:alert(1)//{{7*7}}${7*7}",
    '" autofocus onfocus=alert(1) x="',
    "<iframe srcdoc='<script>alert(1)</script>'>",
    "\u202e\x1b[31m<a href=javascript:alert(1)>x</a>",
)


@pytest.fixture
def pages(tmp_path: Path) -> Iterator[Site]:
    made = site(tmp_path)
    yield made
    made.close()


@pytest.fixture
async def browser(pages: Site) -> AsyncIterator[httpx2.AsyncClient]:
    async with client(pages) as made:
        await sign_in(made, pages.keys["operator"])
        yield made


def client(pages: Site, base: str = BASE) -> httpx2.AsyncClient:
    return httpx2.AsyncClient(transport=httpx2.ASGITransport(app=pages.app), base_url=base)


async def sign_in(browser: httpx2.AsyncClient, key: str) -> httpx2.Response:
    return await browser.post("/login", data={"key": key}, headers={"origin": str(browser.base_url).rstrip("/")})


def fields(html: str, action: str) -> dict[str, str]:
    """Named inputs of the form with an action, as a browser without JavaScript would send them."""
    form = re.search(rf'<form[^>]*action="{re.escape(action)}".*?</form>', html, re.DOTALL)
    assert form, f"no form for {action}"
    tags = re.findall(r"<input[^>]*>", form.group())
    found = {}
    for tag in tags:
        name, value = re.search(r'name="([^"]*)"', tag), re.search(r'value="([^"]*)"', tag)
        if name:
            found[name.group(1)] = unescape(value.group(1)) if value else ""
    return found


class Tags(HTMLParser):
    """Every tag with its attributes, as a browser reads them."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.seen: list[tuple[str, dict[str, str | None]]] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))


# -- what is shown


async def test_the_incident_page_says_what_why_and_what_may_be_done(browser: httpx2.AsyncClient) -> None:
    html = (await browser.get(f"/incidents/{INCIDENT}")).text
    text = re.sub(r"\s+", " ", unescape(re.sub(r"<[^>]+>", " ", html)))
    for wanted in (
        "storefront and checkout are affected; most probably because payment is failing.", "LIKELY", "91 %",
        "What would settle it: one trace with an error in payment", "payment → checkout → storefront",
        "orders-db is saturated", "its latency did not move", "- version: v2-bad", "Blast radius: medium", "47 %",
        DIGEST, "Deploy v2-bad again", "explained by payment, two calls down", "in 56 min",
    ):  # fmt: skip
        assert wanted in text, wanted
    order = [html.index(f'id="{name}"') for name in (
        "title", "cause", "path", "evidence", "ruled-out", "actions", "timeline", "feedback", "alerts")]  # fmt: skip
    assert order == sorted(order)


async def test_every_claim_with_a_query_links_to_a_page_that_answers_it(browser: httpx2.AsyncClient) -> None:
    html = (await browser.get(f"/incidents/{INCIDENT}")).text
    links = [unescape(link) for link in re.findall(r'href="(/query\?[^"]+)"', html)]
    assert len(links) == 4
    for link in links:
        answer = await browser.get(link)
        assert answer.status_code == 200
        assert "1 series" in answer.text
    assert html.count('class="spark"') == 4  # two claims share no query, so each has its own chart


async def test_an_inconclusive_or_missing_diagnosis_is_said_so(pages: Site, browser: httpx2.AsyncClient) -> None:
    pages.services.documents.put_diagnosis(
        Diagnosis(incident_id=INCIDENT, tenant="default", version=9, none=True, would_settle="telemetry of the network")
    )
    html = (await browser.get(f"/incidents/{INCIDENT}")).text
    assert "INCONCLUSIVE" in html
    assert "Nothing known here is to blame" in html
    assert "telemetry of the network" in html


async def test_services_are_listed_the_least_healthy_first(browser: httpx2.AsyncClient) -> None:
    html = (await browser.get("/services")).text
    names = re.findall(r'<th scope="row"[^>]*><a[^>]*>([^<]+)</a>', html)
    assert names[:3] == ["payment", "checkout", "storefront"]
    assert set(names) == {"payment", "checkout", "storefront", "inventory", "catalogue", "orders-db"}


async def test_the_list_filters_by_state_and_text(browser: httpx2.AsyncClient) -> None:
    assert INCIDENT in (await browser.get("/incidents?state=open&text=storefront")).text
    assert "No incident fits" in (await browser.get("/incidents?state=resolved")).text
    assert "No incident fits" in (await browser.get("/incidents?text=elsewhere")).text


async def test_a_query_outside_the_subset_points_at_the_trouble(browser: httpx2.AsyncClient) -> None:
    answer = await browser.get("/query", params={"query": "rate(up[5m]"})
    assert answer.status_code == 422
    assert 'role="alert"' in answer.text
    assert "^</pre>" in answer.text


@pytest.mark.parametrize("path", ["/nothing", "/incidents/a/b", "/static/nothing.css", "/<b>bold</b>"])
async def test_an_unknown_address_is_a_page_to_a_browser_and_a_problem_to_a_program(
    browser: httpx2.AsyncClient, path: str
) -> None:
    page = await browser.get(path, headers={"accept": "text/html,application/xhtml+xml"})
    assert (page.status_code, page.headers["content-type"]) == (404, "text/html; charset=utf-8")
    assert "There is no page" in page.text
    assert unescape(page.text).count(f"There is no page {path}.") == 1
    assert 'rel="stylesheet"' in page.text
    assert 'href="/incidents"' in page.text
    assert "<b>" not in page.text
    problem = await browser.get(path, headers={"accept": "application/json"})
    assert (problem.status_code, problem.headers["content-type"]) == (404, "application/problem+json")


async def test_an_api_address_is_never_answered_with_a_page(browser: httpx2.AsyncClient) -> None:
    answer = await browser.get("/api/v1/nothing", headers={"accept": "text/html"})
    assert (answer.status_code, answer.headers["content-type"]) == (404, "application/problem+json")


async def test_a_method_that_a_page_does_not_take_and_a_form_that_is_none_are_pages(
    browser: httpx2.AsyncClient,
) -> None:
    answer = await browser.delete("/incidents", headers={"accept": "text/html"})
    assert (answer.status_code, "DELETE is not allowed" in answer.text) == (405, True)
    kind = {"content-type": "multipart/form-data; boundary=x", "accept": "text/html", **OWN}
    answer = await browser.post("/login", content=b"--x\r\nnot a form", headers=kind)
    assert (answer.status_code, answer.headers["content-type"]) == (400, "text/html; charset=utf-8")


async def test_an_unknown_incident_is_a_page_that_says_so(browser: httpx2.AsyncClient) -> None:
    answer = await browser.get("/incidents/inc-nowhere")
    assert (answer.status_code, answer.headers["content-type"]) == (404, "text/html; charset=utf-8")
    assert "inc-nowhere" in answer.text


# -- hostile text


@pytest.mark.parametrize("hostile", HOSTILE)
async def test_text_from_outside_never_becomes_markup(tmp_path: Path, hostile: str) -> None:
    pages = site(tmp_path, hostile=hostile)
    async with client(pages) as browser:
        await sign_in(browser, pages.keys["operator"])
        for address in (*PAGES, *(ask + quote(hostile) for ask in ASKS)):
            answer = await browser.get(address)
            if address.startswith("/incidents/"):
                assert hostile in unescape(answer.text), "shown, as text"
            for tag, attributes in Tags(answer.text).seen:
                assert tag not in ("iframe", "object", "embed", "base")
                assert tag != "script" or str(attributes.get("src", "")).startswith("/static/"), address
                assert tag != "img", address
                assert not [name for name in attributes if name.startswith("on") or name == "style"], address
                for name in ("href", "action", "formaction"):
                    if name in attributes:
                        assert re.match(r"[/#]", str(attributes[name])), (address, attributes)
                        assert not str(attributes[name]).startswith("//")
    pages.close()


async def test_pages_allow_no_inline_code_and_no_frames(browser: httpx2.AsyncClient) -> None:
    for address in (*PAGES, "/login", "/incidents/nope"):
        policy = (await browser.get(address)).headers["content-security-policy"]
        assert "default-src 'self'" in policy
        assert "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy


# -- who may see and send


@pytest.mark.parametrize("address", [*PAGES, "/audit"])
async def test_a_stranger_is_sent_to_sign_in_and_back(pages: Site, address: str) -> None:
    async with client(pages) as browser:
        answer = await browser.get(address)
        assert answer.status_code == 303
        assert answer.headers["location"].startswith("/login?next=%2F")


async def test_a_wrong_key_and_a_sender_of_telemetry_are_not_let_in(pages: Site) -> None:
    async with client(pages) as browser:
        for key in ("hsk_wrong", "", pages.keys["ingest"]):
            answer = await sign_in(browser, key)
            assert answer.status_code == 401
            assert "set-cookie" not in answer.headers


async def test_the_cookie_is_closed_to_scripts_and_other_sites(pages: Site) -> None:
    for base, secure in (("http://pages.example", False), ("https://pages.example", True)):
        async with client(pages, base) as browser:
            cookie = (await sign_in(browser, pages.keys["viewer"])).headers["set-cookie"].lower()
            assert "httponly" in cookie
            assert "samesite=strict" in cookie
            assert ("secure" in cookie) is secure


async def test_signing_out_ends_the_session_itself(browser: httpx2.AsyncClient) -> None:
    cookie = browser.cookies["headspring_session"]
    form = fields((await browser.get("/incidents")).text, "/logout")
    assert (await browser.post("/logout", data=form, headers=OWN)).status_code == 303
    browser.cookies.set("headspring_session", cookie)
    assert (await browser.get("/incidents")).headers["location"].startswith("/login")


async def test_sign_in_never_leads_to_another_site(pages: Site) -> None:
    async with client(pages) as browser:
        for place in ("https://evil.example", "//evil.example", "/\\evil.example", "javascript:alert(1)"):
            answer = await browser.post(
                "/login", data={"key": pages.keys["viewer"], "next": place}, headers=OWN
            )  # fmt: skip
            assert answer.headers["location"] == "/incidents"


async def test_the_audit_trail_is_for_admins(pages: Site, browser: httpx2.AsyncClient) -> None:
    assert (await browser.get("/audit")).status_code == 403
    await sign_in(browser, pages.keys["admin"])
    assert (await browser.get("/audit")).status_code == 200


async def test_the_audit_trail_shows_decisions_and_a_broken_chain(
    tmp_path: Path, pages: Site, browser: httpx2.AsyncClient
) -> None:
    await decide(browser, comment="sure")
    await sign_in(browser, pages.keys["admin"])
    html = (await browser.get("/audit")).text
    assert "run.approve" in html
    assert "sure" in html
    assert "holds over all 2 entries" in html
    with sqlite3.connect(tmp_path / "audit.db") as forged:
        forged.execute("UPDATE audit SET actor = 'nobody' WHERE number = 2")
    forged.close()
    assert "broken at entry 2" in (await browser.get("/audit")).text


# -- decisions


async def decide(browser: httpx2.AsyncClient, verb: str = "approve", **changed: str) -> httpx2.Response:
    html = (await browser.get(f"/incidents/{INCIDENT}")).text
    form = fields(html, f"/runs/{RUN}/approve") | changed
    return await browser.post(f"/runs/{RUN}/{verb}", data=form, headers=OWN)


async def test_a_plan_is_approved_with_plain_forms(pages: Site, browser: httpx2.AsyncClient) -> None:
    answer = await decide(browser, comment="looks right")
    assert answer.status_code == 303
    shown = (await browser.get(answer.headers["location"].partition("#")[0])).text
    assert "Approved. The run starts now" in shown
    assert "Approved by operator" in shown
    assert "looks right" in shown
    run = pages.store.run(RUN)
    assert run is not None
    assert run.state is RunState.APPROVED
    assert run.decision is not None
    assert (run.decision.actor, run.decision.digest) == ("operator", DIGEST)


async def test_where_two_must_approve_the_first_is_told_so(pages: Site, browser: httpx2.AsyncClient) -> None:
    pages.actions.needed = 2
    answer = await decide(browser)
    shown = (await browser.get(answer.headers["location"].partition("#")[0])).text
    assert "asks for more people" in shown
    assert "You have decided" in shown
    assert "Approve and run" not in shown
    await sign_in(browser, pages.keys["admin"])
    assert "done=approved#" in (await decide(browser)).headers["location"]


async def test_a_plan_is_rejected_with_the_same_form(pages: Site, browser: httpx2.AsyncClient) -> None:
    assert (await decide(browser, "reject")).status_code == 303
    run = pages.store.run(RUN)
    assert run is not None
    assert run.state is RunState.REJECTED


async def test_another_digest_than_the_one_read_approves_nothing(pages: Site, browser: httpx2.AsyncClient) -> None:
    answer = await decide(browser, digest="ab" * 32)
    assert answer.status_code == 409
    assert "read it again" in answer.text
    run = pages.store.run(RUN)
    assert run is not None
    assert run.decision is None


async def test_the_second_to_decide_is_told_who_was_first(pages: Site, browser: httpx2.AsyncClient) -> None:
    html = (await browser.get(f"/runs/{RUN}")).text
    async with client(pages) as other:
        await sign_in(other, pages.keys["admin"])
        await decide(other, "reject")
    answer = await browser.post(f"/runs/{RUN}/approve", data=fields(html, f"/runs/{RUN}/approve"), headers=OWN)
    assert answer.status_code == 409
    assert "admin was first" in answer.text


async def test_an_operator_stops_all_automation_and_every_page_says_so(
    pages: Site, browser: httpx2.AsyncClient
) -> None:
    form = fields((await browser.get("/runs")).text, "/automation")
    answer = await browser.post("/automation", data=form, headers=OWN)
    assert answer.headers["location"] == "/runs?done=frozen"
    html = (await browser.get("/incidents")).text
    assert "Automation is stopped" in html
    await browser.post("/automation", data=fields(html, "/automation"), headers=OWN)
    assert "Automation is stopped" not in (await browser.get("/incidents")).text
    await sign_in(browser, pages.keys["viewer"])
    html = (await browser.get("/runs")).text
    assert "/automation" not in html
    form["csrf"] = fields(html, "/logout")["csrf"]
    assert (await browser.post("/automation", data=form, headers=OWN)).status_code == 403
    assert not pages.actions.frozen


@pytest.mark.parametrize(
    "headers", [{}, {"origin": "https://evil.example"}, {"origin": "null"}, {"referer": "https://evil.example/x"}]
)
async def test_a_form_from_elsewhere_changes_nothing(
    pages: Site, browser: httpx2.AsyncClient, headers: dict[str, str]
) -> None:
    form = fields((await browser.get(f"/runs/{RUN}")).text, f"/runs/{RUN}/approve")
    answer = await browser.post(f"/runs/{RUN}/approve", data=form, headers=headers)
    assert answer.status_code == 403
    run = pages.store.run(RUN)
    assert run is not None
    assert run.decision is None


@pytest.mark.parametrize("token", ["", "wrong", "é"])
async def test_a_form_without_the_sessions_token_changes_nothing(
    pages: Site, browser: httpx2.AsyncClient, token: str
) -> None:
    for address in (f"/runs/{RUN}/approve", f"/runs/{RUN}/reject", f"/incidents/{INCIDENT}/feedback",
                    f"/incidents/{INCIDENT}/runs", "/logout"):  # fmt: skip
        data = {"csrf": token, "digest": DIGEST, "verdict": "right-cause", "runbook": "restart-service",
                "idempotency_key": "key-12345"}  # fmt: skip
        assert (await browser.post(address, data=data, headers=OWN)).status_code == 403
    assert pages.feedback == []


async def test_an_api_key_in_a_header_opens_no_form(pages: Site) -> None:
    async with client(pages) as program:
        program.headers["authorization"] = f"Bearer {pages.keys['admin']}"
        answer = await program.post(f"/runs/{RUN}/approve", data={"digest": DIGEST, "csrf": ""}, headers=OWN)
        assert answer.status_code == 401


async def test_a_viewer_reads_but_does_not_decide(pages: Site, browser: httpx2.AsyncClient) -> None:
    form = fields((await browser.get(f"/runs/{RUN}")).text, f"/runs/{RUN}/approve")
    await sign_in(browser, pages.keys["viewer"])
    html = (await browser.get(f"/incidents/{INCIDENT}")).text
    assert "deciding needs the role operator" in html
    assert f'action="/runs/{RUN}/approve"' not in html
    form["csrf"] = fields(html, "/logout")["csrf"]
    assert (await browser.post(f"/runs/{RUN}/approve", data=form, headers=OWN)).status_code == 403


async def test_who_asked_for_a_run_is_not_offered_to_decide(pages: Site, browser: httpx2.AsyncClient) -> None:
    pages.store.add("run-own", plan(requested_by="operator"))
    html = (await browser.get("/runs/run-own")).text
    assert "You asked for this run, so somebody else has to decide" in html
    assert "Approve and run" not in html


async def test_a_session_that_ended_approves_nothing_and_says_so(tmp_path: Path) -> None:
    clock = ManualClock(start_ns=OPENED_NS)
    pages = site(tmp_path, clock=clock)
    async with client(pages) as browser:
        await sign_in(browser, pages.keys["operator"])
        form = fields((await browser.get(f"/runs/{RUN}")).text, f"/runs/{RUN}/approve")
        clock.advance(13 * 3600)
        answer = await browser.post(f"/runs/{RUN}/approve", data=form, headers=OWN)
        assert answer.status_code == 401
        assert "Nothing was done" in answer.text
    pages.close()


# -- feedback and requests


async def test_feedback_is_kept_with_who_said_it(pages: Site, browser: httpx2.AsyncClient) -> None:
    form = fields((await browser.get(f"/incidents/{INCIDENT}")).text, f"/incidents/{INCIDENT}/feedback")
    data = {"csrf": form["csrf"], "verdict": "wrong-cause", "entity": service("checkout"), "comment": "pool was full"}
    assert (await browser.post(f"/incidents/{INCIDENT}/feedback", data=data, headers=OWN)).status_code == 303
    (given,) = pages.feedback
    assert (given.subject, given.verdict, given.actor, given.entity, given.comment) == (
        INCIDENT, "wrong-cause", "operator", service("checkout"), "pool was full",
    )  # fmt: skip
    assert given.time_ns == OPENED_NS + 240 * NS_PER_S


async def test_a_form_sent_twice_asks_for_one_run(pages: Site, browser: httpx2.AsyncClient) -> None:
    html = (await browser.get(f"/incidents/{INCIDENT}")).text
    form = fields(html, f"/incidents/{INCIDENT}/runs") | {"runbook": "restart-service"}
    for _ in range(2):
        assert (await browser.post(f"/incidents/{INCIDENT}/runs", data=form, headers=OWN)).status_code == 303
    assert len(pages.store.runs("default", INCIDENT).items) == 2
    assert "somebody else has to decide" in (await browser.get(f"/incidents/{INCIDENT}")).text


async def test_a_verdict_nobody_knows_is_refused(pages: Site, browser: httpx2.AsyncClient) -> None:
    form = fields((await browser.get(f"/incidents/{INCIDENT}")).text, f"/incidents/{INCIDENT}/feedback")
    data = {"csrf": form["csrf"], "verdict": "outcome-success"}
    answer = await browser.post(f"/incidents/{INCIDENT}/feedback", data=data, headers=OWN)
    assert (answer.status_code, pages.feedback) == (422, [])


# -- weight


async def test_the_incident_page_needs_little_javascript(browser: httpx2.AsyncClient) -> None:
    html = (await browser.get(f"/incidents/{INCIDENT}")).text
    scripts = [str(attributes["src"]) for tag, attributes in Tags(html).seen if tag == "script"]
    size = sum([len(gzip.compress((await browser.get(script)).content)) for script in scripts])
    assert 0 < size < 20_000  # bytes; the promise for this page is 100 kB
