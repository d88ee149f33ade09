"""What happened to runs: written down, published, told to people; also what another process could not tell any more."""

from __future__ import annotations

import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from headspring.action.audit.chain import AuditLog
from headspring.action.notify.dispatch import Dispatcher
from headspring.action.notify.port import Notification
from headspring.action.store import RunStore, put_event
from headspring.action.views import Decision, RunView
from headspring.proto import codec
from headspring.proto.action import ActionEvent, Feedback, RunState
from headspring.proto.clock import NS_PER_S, Clock
from headspring.proto.errors import Unavailable
from headspring.proto.ids import digest, entity_name
from headspring.proto.relational.database import ALL_TENANTS
from headspring.proto.topics import ACTIONS, FEEDBACK, record_key

logger = logging.getLogger(__name__)

PLATFORM = "headspring"
"""Who asks when nobody did: the platform itself. Any operator may decide about what it asks for."""
SETTLED_NS = 10 * NS_PER_S
"""What is older and not told, its process will not tell any more."""
_REMINDED_NS = 900 * NS_PER_S
"""Messages are tried for so long, by any process, when a channel or its process failed."""

Emit = Callable[[str, bytes, bytes, int], None]
"""Topic, key, value, time; durable on return; may be called from any thread."""


class Trail:
    """See the module. Every call blocks and may come from any thread."""

    def __init__(
        self, *, store: RunStore, audit: AuditLog, dispatcher: Dispatcher, emit: Emit, clock: Clock, page_url: str
    ) -> None:
        self._store = store
        self._audit = audit
        self._dispatcher = dispatcher
        self._emit = emit
        self._clock = clock
        self._page_url = page_url
        # A chat service that hangs must not hold a decision up: messages are sent beside it, in order.
        self._telling = ThreadPoolExecutor(max_workers=1, thread_name_prefix="notify")

    def close(self) -> None:
        self._telling.shutdown(wait=False, cancel_futures=True)

    def note(self, run: RunView, state: RunState, text: str, *, step_id: str = "", actor: str = PLATFORM) -> None:
        """Writes what happened down, publishes it, and tells people where it matters; once, however often called."""
        now_ns = self._clock.now_ns()
        event = ActionEvent(
            event_id="ev-" + digest(run.run_id, state, step_id, text)[:24], tenant=run.tenant, run_id=run.run_id,
            incident_id=run.incident_id, runbook=run.runbook, state=state, time_ns=now_ns, actor=actor, text=text,
            step_id=step_id, digest=run.plan.digest,
        )  # fmt: skip
        if self._store.has_event(event.event_id) or not self._write(event):
            return
        if self._audit.shared:
            try:
                self.publish(event)
            except (Unavailable, TimeoutError) as error:
                # It is written down; `sweep` publishes it when there is a way again.
                logger.warning("event %s is not published yet: %s", event.event_id, error)
        else:
            self.publish(event)
        if _for_people(event):
            self._tell(run, event)

    def note_request(self, run: RunView, how_sure: str = "") -> None:
        text = f"{run.plan.title} is proposed for {entity_name(run.plan.cause_entity)}{how_sure}; it waits for approval"
        self.note(run, RunState.WAITING_APPROVAL, text, actor=run.requested_by)

    def note_decision(self, run: RunView, decision: Decision, *, count: str = "") -> None:
        words = "rejected" if decision.verdict == "reject" else f"approved{count}"
        comment = f": {decision.comment}" if decision.comment else ""
        self.note(run, run.state, f"{words} by {decision.actor}{comment}", actor=decision.actor)

    def tell_late(self, run: RunView) -> None:
        """Says what was written down and not yet said, because its process died or its disk was full."""
        logger.warning("run %s is %s, which was not told by who wrote it down", run.run_id, run.state)
        if not run.events:
            self.note_request(run)
        self.tell_decisions(run)
        if run.state.final and run.state is not RunState.REJECTED:
            self.note(run, run.state, f"{run.state}; the platform stopped before it could say why")

    def tell_decisions(self, run: RunView) -> None:
        """Says decisions that no event speaks of."""
        for decision in run.decisions:
            if not told(run, decision):
                self.note_decision(run, decision)

    def publish(self, event: ActionEvent) -> None:
        """Puts an event on its topic, and the outcome of a run on that of feedback; may be called again."""
        self._emit(ACTIONS.name, record_key(event.tenant, event.run_id), codec.encode(event), event.time_ns)
        if event.state in (RunState.SUCCEEDED, RunState.ROLLED_BACK, RunState.FAILED):
            good = event.state is RunState.SUCCEEDED
            run = self._store.run(event.run_id)
            outcome = Feedback(
                feedback_id="fb-" + digest(event.event_id)[:24], tenant=event.tenant, subject=event.run_id,
                subject_kind="run", verdict="outcome-success" if good else "outcome-failure", actor=PLATFORM,
                time_ns=event.time_ns, comment=event.text, entity=run.plan.cause_entity if run else "",
                detail={"runbook": event.runbook, "incident": event.incident_id},
            )  # fmt: skip
            self._emit(
                FEEDBACK.name, record_key(outcome.tenant, outcome.subject), codec.encode(outcome), outcome.time_ns
            )
        self._store.mark_emitted(event.event_id)

    def sweep(self) -> None:
        """Does what processes that died, or had no way to a topic or a channel, left undone. One process at a time."""
        now_ns = self._clock.now_ns()
        settled_ns = now_ns - SETTLED_NS
        for run in self._store.untold(before_ns=settled_ns):
            self.tell_late(run)
        for event in self._store.unemitted(before_ns=settled_ns):
            self.publish(event)
        for event in self._store.events_between(now_ns - _REMINDED_NS, settled_ns):
            if _for_people(event) and not self._dispatcher.knows(event.incident_id, _kind(event)):
                found = self._store.run(event.run_id)
                if found is not None and found.state is event.state:  # nobody is disturbed with what has passed
                    self._tell(found, event)

    def _write(self, event: ActionEvent) -> bool:
        """Into the audit trail and among the run's events; False when it is there already."""
        detail = {
            "incident": event.incident_id, "runbook": event.runbook, "text": event.text, "digest": event.digest,
        }  # fmt: skip
        about = (event.actor, f"run.{event.state}", event.run_id, detail, event.time_ns, event.tenant)
        if self._audit.shared:
            with self._store.database.transaction(tenant=ALL_TENANTS) as connection:
                if not put_event(connection, event):
                    return False
                entry = self._audit.add(connection, *about)
            self._audit.added(entry)
            return True
        # First the trail: a crash in between leaves an entry twice, never none.
        self._audit.append(*about)
        return self._store.add_event(event)

    def _tell(self, run: RunView, event: ActionEvent) -> None:
        url = f"{self._page_url}/incidents/{run.incident_id}" if self._page_url else ""
        message = Notification(
            incident_id=run.incident_id,
            title=f"{run.plan.title}: {event.state.value.replace('_', ' ')}",
            body=event.text,
            severity="warning" if event.state is not RunState.SUCCEEDED else "info",
            url=url,
            kind=_kind(event),
        )
        try:
            self._telling.submit(self._dispatcher.send, message)
        except RuntimeError:
            logger.warning("run %s is %s, which people are not told: the platform stops", run.run_id, run.state)


def told(run: RunView, decision: Decision) -> bool:
    """Whether an event speaks of a decision."""
    return any(event.actor == decision.actor and event.time_ns >= decision.time_ns for event in run.events)


def _for_people(event: ActionEvent) -> bool:
    return event.state is RunState.WAITING_APPROVAL or event.state.final


def _kind(event: ActionEvent) -> str:
    return f"{event.run_id}/{event.state}"
