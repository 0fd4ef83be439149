"""The notifying agent: alerts become log lines, signed webhooks, messages, and what fires in an Alertmanager.

Notes
-----
The topic `alerts` is the truth; what this agent keeps is how far each target has been told. A target that is down or
hangs is tried again with growing pauses and delays no other.
"""

from __future__ import annotations

import logging
import ssl
import threading
from collections.abc import Callable, Sequence
from datetime import UTC, datetime

from sqlalchemy.orm import Session

from agents.access.askers import Askers, Believe
from agents.config import Settings
from agents.control import Background, event_identity, run_control_agent
from agents.database.engine import make_engine, session_factory
from agents.notifying import deliveries
from agents.notifying.addresses import Endpoint, parse_endpoint
from agents.notifying.alertmanager import Teller
from agents.notifying.logic import (
    STALE_AFTER,
    Target,
    Wanted,
    message,
    retrain_body,
    retrain_message,
    webhook_body,
)
from agents.notifying.webhook import DeliveryError, load_secret, post
from agents.registry.questions import Questions
from agents.registry.watched import is_watched
from agents.runtime import mark_ready
from schemas.codec import decode, utc
from schemas.errors import DecodeError
from schemas.events import Alert, RetrainRequest
from schemas.topics import ALERTS, RETRAIN_REQUESTS
from streams.kafka.config import KafkaConfig
from streams.kafka.records import Record

NAME = "notifying"
_LEVELS = {"info": logging.INFO, "warning": logging.WARNING, "critical": logging.ERROR}
_DAY_S = 86_400.0

log = logging.getLogger(f"driftline.{NAME}")


def targets_of(settings: Settings) -> list[Target]:
    """All configured targets, each once."""
    webhooks = [Target(url, "webhook") for url in settings.webhook_urls]
    return list(dict.fromkeys([*webhooks, *(Target(url, "apprise") for url in settings.notify_urls)]))


class AlertNotifier:
    """Writes the log line of an alert and plans its deliveries.

    Parameters
    ----------
    targets : sequence of Target
        Who gets messages.
    changed : callable
        Called with every alert, for those who are told what is open rather than what is new.
    believe : callable, optional
        Says who asks for a successor; what is not believed is left out (the retraining agent audits it).
    """

    def __init__(
        self,
        targets: Sequence[Target],
        changed: Callable[[], None] = lambda: None,
        *,
        believe: Believe | None = None,
    ) -> None:
        self._targets = targets
        self._believe = believe
        self._changed = changed

    def __call__(self, session: Session, record: Record) -> None:
        """Handle one record of `alerts` or `retrain-requests`; what cannot be read is logged and left out."""
        try:
            if record.topic == RETRAIN_REQUESTS:
                self._asked(session, record)
                return
            alert = decode(record.value or b"", Alert)
        except DecodeError as error:
            log.warning("%s-%d@%d left out: %s", record.topic, record.partition, record.offset, error)
            return
        level = logging.INFO if alert.status == "closed" else _LEVELS[alert.severity]
        log.log(level, "alert %s %s: %s. %s", alert.status, alert.incident_id, alert.title, alert.explanation)
        self._changed()
        now = datetime.now(UTC)
        if record.timestamp_ms and now - utc(record.timestamp_ms) > STALE_AFTER:
            return
        deliveries.plan(session, self._targets, event_id_of(record), alert, now)

    def _asked(self, session: Session, record: Record) -> None:
        """Tell whoever trains a model that is only watched; for all others the retraining agent does what is asked."""
        request = decode(record.value or b"", RetrainRequest)
        if not is_watched(session, request.model):
            return
        if self._believe is not None:
            self._believe(session, record, request)
        newest = Questions().champion(session, request.model)
        wanted = Wanted(
            request=request,
            version=newest.external if newest is not None else None,
            number=newest.version if newest is not None else None,
        )
        log.info("a successor of %s is asked for elsewhere (%s): %s", request.model, request.trigger, request.reason)
        now = datetime.now(UTC)
        if record.timestamp_ms and now - utc(record.timestamp_ms) > STALE_AFTER:
            return
        deliveries.plan(session, self._targets, event_id_of(record), wanted, now)


def event_id_of(record: Record) -> str:
    """The event's own id, so that receivers see the same one as readers of the topic."""
    found = dict(record.headers or ()).get("ce_id")
    return found.decode(errors="replace")[:128] if found else event_identity(record)


class Sender:
    """Sends to webhooks and, through Apprise, to everything else."""

    def __init__(self, secret: str, endpoints: dict[Target, Endpoint], *, tls: ssl.SSLContext | None = None) -> None:
        self._secret = secret
        self._endpoints = endpoints
        self._tls = tls

    def __call__(self, target: Target, event_id: str, news: deliveries.News, at: datetime) -> None:
        """Send one message. Raises `DeliveryError`."""
        if target.channel == "webhook":
            body = webhook_body(news, at) if isinstance(news, Alert) else retrain_body(news, at)
            post(self._endpoints[target], self._secret, event_id, body, at, tls=self._tls)
        else:
            _apprise(target, news)


def _apprise(target: Target, news: deliveries.News) -> None:
    from apprise import Apprise, AppriseAsset

    logging.getLogger("apprise").setLevel(logging.ERROR)
    client = Apprise(
        asset=AppriseAsset(app_id="Driftline", app_desc="Driftline", async_mode=False, secure_logging=True)
    )
    if not client.add(target.url):
        raise DeliveryError("Apprise does not know this kind of URL", final=True)
    severity = news.severity if isinstance(news, Alert) else "warning"
    title, text = message(news) if isinstance(news, Alert) else retrain_message(news)
    if not client.notify(
        title=title, body=text, notify_type={"info": "info", "warning": "warning"}.get(severity, "failure")
    ):
        raise DeliveryError("Apprise could not deliver it")


def run(settings: Settings, kafka: KafkaConfig, stop: threading.Event) -> None:
    """Notify until `stop` is set.

    Raises
    ------
    UnsafeSettingError, ConfigurationError
        A URL or the secret is wrong.
    TopicError, BrokerError, DatabaseUnavailableError
        The supervisor starts the agent again.
    """
    targets = targets_of(settings)
    endpoints = {t: parse_endpoint(t.url, settings.webhook_allow) for t in targets if t.channel == "webhook"}
    secret = load_secret(settings.webhook_secret, settings.home.resolve()) if endpoints else ""
    engine = make_engine(settings.database)
    sessions, readers = session_factory(engine), session_factory(engine, read_only=True)
    send = Sender(secret, endpoints)
    couriers = [deliveries.Courier(target, send, sessions, readers) for target in targets]
    page = f"http://{settings.host}:{settings.port}/" if settings.port else ""
    managers = list(dict.fromkeys(Target(url, "alertmanager") for url in settings.alertmanager_urls))
    tellers = [Teller(target, readers, page) for target in managers]

    def changed() -> None:
        for teller in tellers:
            teller.changed()

    threads: list[deliveries.Courier | Teller] = [*couriers, *tellers]
    for each in threads:
        each.start()
    try:
        run_control_agent(
            NAME,
            (ALERTS, RETRAIN_REQUESTS),
            AlertNotifier(targets, changed, believe=Askers.of(settings, kafka)),
            settings,
            kafka,
            stop,
            sessions=sessions,
            background=[Background(_DAY_S, courier.prune) for courier in couriers],
            on_ready=lambda: mark_ready(settings, NAME),
        )
    finally:
        for each in threads:
            each.stop(timeout_s=2.0)
        engine.dispose()
