"""Who asks for a successor: requests on `retrain-requests` are believed like commands, by their signature."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from sqlalchemy.orm import Session

from agents.access.logic import Principal
from agents.access.signatures import audience_of, own_ring
from agents.access.signers import Signers
from agents.config import Settings
from agents.signing import KeyRing
from schemas.errors import DecodeError
from schemas.events import RetrainRequest
from schemas.topics import RETRAIN_REQUESTS
from streams.kafka.config import KafkaConfig
from streams.kafka.records import Record


class Believe(Protocol):
    """Says who asks, or raises `DecodeError`."""

    def __call__(self, session: Session, record: Record, request: RetrainRequest) -> Principal: ...


class Askers:
    """Believes requests that the agents of this home, or a registered principal, signed.

    Parameters
    ----------
    audience : callable
        Whom requests have to be signed for, asked once.
    ring : KeyRing
        Keys of this home's agents: believed unless they were revoked.
    """

    def __init__(self, audience: Callable[[], str], ring: KeyRing, signers: Signers | None = None) -> None:
        self._ask = audience
        self._audience: str | None = None
        self._ring = ring
        self._signers = signers or Signers()

    @classmethod
    def of(cls, settings: Settings, kafka: KafkaConfig) -> Askers:
        """Over the keys and the cluster of `settings`."""
        return cls(lambda: audience_of(kafka, RETRAIN_REQUESTS), own_ring(settings.home))

    def __call__(self, session: Session, record: Record, request: RetrainRequest) -> Principal:
        """Who asks for what a record holds, once that one may.

        Raises
        ------
        DecodeError
            As `agents.access.signers.Signers.asker`.
        """
        if self._audience is None:
            self._audience = self._ask()
        try:
            return self._signers.asker(session, record, request, self._audience)
        except DecodeError as error:
            if error.reason != "untrusted":
                raise
            # An agent of this home may have made or changed its key since the registry started.
            self._signers.trust_own(session, self._ring)
            return self._signers.asker(session, record, request, self._audience)
