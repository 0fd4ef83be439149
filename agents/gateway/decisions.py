"""The registry as the gateway and the command line use it: a session a call, plain values out."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from datetime import UTC, datetime
from functools import lru_cache

from sqlalchemy.orm import Session

from agents.access.logic import Principal
from agents.config import Settings
from agents.database.engine import Sessions, session_factory
from agents.database.migrate import migrated
from agents.datasets import catalog
from agents.datasets import lineage as dataset_lineage
from agents.gateway.views import ModelFacts, VersionFacts
from agents.registry import approvals, flags, impact, lineage
from agents.registry.batch import Chosen, Outcome, What, chosen, decide_all
from agents.registry.change import Change
from agents.registry.flags import Flag
from agents.registry.impact import Use
from agents.registry.intact import refuse_altered, tell_altered, waiting
from agents.registry.ledger import acting_for
from agents.registry.lineage import Lineage
from agents.registry.reviews import ReviewInfo, review, reviews
from agents.registry.search import Search, Seen, find_versions
from agents.registry.service import Registry
from agents.registry.views import ModelInfo, VersionInfo
from agents.registry.watched import is_watched
from schemas.errors import ArtifactError, ConfigurationError, NotFoundError, TransitionError
from schemas.specification import Specification


class RegistryDecisions:
    """Questions in read-only sessions, decisions in one unit of work each.

    Parameters
    ----------
    registry : Registry
        Its `sessions` write.
    readers : Sessions
        Read-only sessions: a listing never waits for the write lock.

    Notes
    -----
    A decision writes its audit row and its events into the outbox; the registry agent sends them. All methods may
    raise `DatabaseUnavailableError`; nothing has changed then.
    """

    def __init__(self, registry: Registry, readers: Sessions) -> None:
        self._registry = registry
        self.readers = readers

    @classmethod
    def of(cls, settings: Settings) -> RegistryDecisions:
        """Wired to the database and the artifact store of `settings`; the database is made or migrated where needed.

        Raises
        ------
        DatabaseUnavailableError, RegistryError
        """
        from agents.artifacts import ArtifactStore

        engine = migrated(settings.database)
        registry = Registry(session_factory(engine), ArtifactStore.of(settings))
        return cls(registry, session_factory(engine, read_only=True))

    def warm_up(self) -> None:
        """Ask what people ask first: whoever is the first would wait 50 ms for tables to be mapped and SQL written."""
        for as_of in (None, datetime.now(UTC)):
            found, _ = self.find_models(Search(limit=1, as_of=as_of))
            for one in found:
                self.infos(one.model, as_of)

    def models(self) -> list[ModelFacts]:
        """Registered models, by name."""
        return self.find_models(Search())[0]

    def find_models(self, search: Search, seen: Seen = lambda names: names) -> tuple[list[ModelFacts], str]:
        """Models that `search` finds and that may be seen, and the name to go on after (empty: these were all)."""
        with self.readers() as session:
            found, after = self._registry.find_models(session, search, seen)
        return [_facts(info) for info in found], after

    def find_versions(self, search: Search, seen: Seen = lambda names: names) -> tuple[list[VersionInfo], str]:
        """Versions that `search` finds, of models that may be seen, and the model to go on after."""
        with self.readers() as session:
            return find_versions(session, search, seen)

    def model(self, model: str) -> ModelFacts:
        """One model. Raises `NotFoundError`."""
        with self.readers() as session:
            return _facts(self._registry.model(session, model))

    def model_count(self) -> int:
        """How many models are registered."""
        with self.readers() as session:
            return self._registry.model_count(session)

    def tags(self, model: str, version: int | None) -> dict[str, str]:
        """Tags of a version, or of the model. Raises `NotFoundError`."""
        with self.readers() as session:
            if version is None:
                return dict(self._registry.model(session, model).tags)
            return dict(self._registry.version(session, model, version).tags)

    def tag(  # noqa: PLR0917
        self,
        model: str,
        version: int | None,
        tags: Mapping[str, str],
        removed: Iterable[str],
        by: Principal,
        actor: str,
    ) -> dict[str, str]:
        """Set and remove tags; those in force. Raises `NotFoundError`, `ConfigurationError`."""
        with self._registry.sessions.begin() as session:
            acting_for(session, by)
            return self._registry.tag(session, model, version, tags, removed, actor)

    def versions(self, model: str, as_of: datetime | None = None) -> list[VersionFacts]:
        """Versions, oldest first; as they stood at `as_of`. Raises `NotFoundError`."""
        return [
            VersionFacts(
                version=v.version,
                stage=v.stage,
                at=v.at,
                parent=v.parent,
                run_id=v.run_id,
                actor=v.actor,
                reason=v.reason,
                artifact=v.artifact,
                report=v.report,
                champion=v.champion,
                decision=v.decision,
                registered_at=v.registered_at,
                promoted_at=v.promoted_at,
                external=v.external,
                tags=v.tags,
                flags=[str(one) for one in v.flags],
                allowed_types=v.allowed_types,
            )
            for v in self.infos(model, as_of)
        ]

    def infos(self, model: str, as_of: datetime | None = None) -> list[VersionInfo]:
        """Versions with everything the registry tells of them."""
        with self.readers() as session:
            return self._registry.versions(session, model, as_of)

    def info(self, model: str, version: int) -> VersionInfo:
        """One version. Raises `NotFoundError`."""
        with self.readers() as session:
            return self._registry.version(session, model, version)

    def refuse_watched(self, model: str, what: str) -> None:
        """Refuse what needs the model itself. Raises `TransitionError`; an unknown model is left to whoever asks."""
        with self.readers() as session:
            if is_watched(session, model):
                raise TransitionError(
                    f"is only watched: it is trained and served elsewhere and cannot be {what} here",
                    where=f"model {model}",
                    remedy="do that where the model lives",
                )

    def specification(self, model: str) -> Specification:
        """Specification of the champion. Raises `NotFoundError`."""
        with self.readers() as session:
            return self._registry.specification(session, model)

    def lineage(self, model: str, version: int | None = None) -> Lineage:
        """Lineage of a version; default the champion, else the newest. Raises `NotFoundError`."""
        with self.readers() as session:
            champion = self._registry.champion(session, model)
            found = lineage.made(session, model)
            made_of = dataset_lineage.known(session, self._registry.artifacts, lineage.datasets_in(found))
        number = version or (champion.version if champion is not None else max((v.version for v in found), default=0))
        return lineage.around([*found, *made_of], lineage.version_id(model, number))

    def lineage_of(self, kind: str, value: str) -> Lineage:
        """Lineage of a ``dataset`` (a name, the newest, ``NAME@3``, or the hash of a table), ``run`` or ``commit``.

        Raises
        ------
        NotFoundError
            There is no such thing.
        ConfigurationError
            More than one begins so.
        """
        with self.readers() as session:
            thing = self._thing(session, kind, value)
            found = impact.uses_of(session, thing, only_live=False)
            versions = [one for model in sorted({use.model for use in found}) for one in lineage.made(session, model)]
            known = lineage.datasets_in(versions) | {one for one in (*thing.names, *thing.derived) if "@" in one}
            made_of = dataset_lineage.known(session, self._registry.artifacts, known)
        return lineage.around([*versions, *made_of], thing.id)

    def _thing(self, session: Session, kind: str, value: str) -> impact.Named:
        """What is asked about; a dataset with those that were derived from it. Raises as `lineage_of`."""
        if kind != "dataset":
            return impact.named_so(session, kind, value)
        name = self._dataset(session, value)
        try:
            thing = impact.named_so(session, kind, name or value)
        except NotFoundError:
            if name is None:
                raise
            thing = impact.Named(("dataset",), (name,))
        derived = dataset_lineage.derived(session, [one for one in thing.names if "@" in one])
        return thing._replace(derived=tuple(derived))

    @staticmethod
    def _dataset(session: Session, value: str) -> str | None:
        """``NAME@3`` of a dataset of this registry, by its name or the hash of its rows; None: it is none.

        Raises
        ------
        ConfigurationError
            Several hold rows with that hash.
        """
        try:
            row = catalog.find(session, value)
        except NotFoundError:
            rows = catalog.holding(session, value) if len(value) >= impact.LEAST_PREFIX else []
            if not rows or impact.knows(session, "dataset", value):
                return None
            if len(rows) > 1:
                names = ", ".join(f"{one.name}@{one.version}" for one in rows[:5])
                raise ConfigurationError(f"{value} may be {names}", where="--dataset", remedy="name one") from None
            row = rows[0]
        return f"{row.name}@{row.version}"

    def uses(self, kind: str, value: str, *, only_live: bool) -> list[Use]:
        """Versions that a dataset, commit, run or package went into.

        Raises
        ------
        NotFoundError
            No version was made from it.
        ConfigurationError
            It is named too shortly, or is no package.
        """
        with self.readers() as session:
            if kind == "package":
                return impact.package_uses(session, value, lru_cache(self._registry.packages), only_live=only_live)
            return self._uses(session, kind, value, only_live=only_live)

    def _uses(self, session: Session, kind: str, value: str, *, only_live: bool) -> list[Use]:
        thing = self._thing(session, kind, value)
        found = impact.uses_of(session, thing, only_live=only_live)
        if not found and not impact.uses_of(session, thing, only_live=False):
            raise NotFoundError(f"no version was made from {kind} {value}", where="lineage")
        return found

    def approve(
        self,
        model: str,
        version: int,
        *,
        by: Principal,
        actor: str,
        comment: str,
        artifact: str | None = None,
        consented: Collection[str] = (),
    ) -> None:
        """Approve; the file is read again before. Raises as `Registry.approve`; an altered file is audited."""
        intact = self._intact(model, version, by, actor)
        with self._registry.sessions.begin() as session:
            acting_for(session, by)
            self._registry.approve(
                *(session, model, version, actor, comment), artifact=artifact, consented=consented, intact=intact
            )

    def _intact(self, model: str, version: int, by: Principal, actor: str) -> str | None:
        """SHA-256 of the file of a version that waits, which was read before anything is locked."""
        with self.readers() as session:
            sha = waiting(session, model, version)
        if sha is not None:
            try:
                refuse_altered(self._registry.artifacts, sha, f"{model} version {version}")
            except ArtifactError as error:
                with self._registry.sessions.begin() as session:
                    acting_for(session, by)
                    tell_altered(session, self._registry.now(), model, version, actor, error)
                raise
        return sha

    def reject(self, model: str, version: int, *, by: Principal, actor: str, reason: str) -> None:
        """Reject. Raises `NotFoundError`, `TransitionError`, `ConflictError`."""
        with self._registry.sessions.begin() as session:
            acting_for(session, by)
            self._registry.reject(session, model, version, actor, reason)

    def rollback(
        self, model: str, to: int | None, *, by: Principal, actor: str, reason: str, expected: int | None = None
    ) -> int:
        """Bring an earlier champion back; its version. Raises `NotFoundError`, `TransitionError`, `ConflictError`."""
        with self._registry.sessions.begin() as session:
            acting_for(session, by)
            found = self._registry.rollback(session, model, to, actor=actor, reason=reason, expected=expected)
            return found.version

    def chosen(self, what: What, search: Search) -> list[Chosen]:
        """What a decision on many would be about, by model."""
        return chosen(self.readers, what, search)

    def decide_all(  # noqa: PLR0917
        self,
        what: What,
        found: list[Chosen],
        by: Principal,
        actor: str,
        reason: str,
        allowed: Callable[[str], bool],
        consented: Collection[str] = (),
    ) -> list[Outcome]:
        """Decide on what was chosen; what became of each. One that is refused keeps no other."""
        return list(decide_all(self._registry, what, found, by, actor, reason, allowed, consented))

    def request_approval(self, model: str, version: int, *, by: Principal, actor: str) -> str:
        """Ask for approval again; the stage. Raises `NotFoundError`, `TransitionError`, `ConflictError`."""
        with self._registry.sessions.begin() as session:
            acting_for(session, by)
            return approvals.ask_again(self._registry, session, model, version, actor).stage

    def archive(self, model: str, version: int, *, by: Principal, actor: str, reason: str) -> str:
        """Take out of use; the stage. Raises `NotFoundError`, `TransitionError`, `ConflictError`."""
        with self._registry.sessions.begin() as session:
            acting_for(session, by)
            return approvals.archive(self._registry, session, model, version, actor=actor, reason=reason).stage

    def flags(self, model: str | None = None) -> list[Flag]:
        """Flags in force, of a model or of all."""
        with self.readers() as session:
            return flags.in_force(session, None if model is None else [model])

    def live_flags(self) -> list[Flag]:
        """Flags of versions that are champion."""
        with self.readers() as session:
            return flags.live(session)

    def flag(self, model: str, version: int, *, by: Principal, actor: str, reason: str) -> list[Flag]:
        """Flag a version and what descends from it. Raises `NotFoundError`, `ConflictError`."""
        with self._registry.sessions.begin() as session:
            acting_for(session, by)
            return flags.flag(Change.of(session, model, self._registry.now()), version, actor, reason)

    def flag_made_from(self, kind: str, sha: str, *, by: Principal, actor: str, reason: str) -> list[Flag]:
        """Flag every version that a dataset, commit or run went into, and what descends from them; all or nothing.

        Raises
        ------
        NotFoundError, ConfigurationError
        """
        made: list[Flag] = []
        with self._registry.sessions.begin() as session:
            acting_for(session, by)
            for use in self._uses(session, kind, sha, only_live=False):
                change = Change.of(session, use.model, self._registry.now())
                if not any((f.version, f.source) == (use.version,) * 2 for f in flags.in_force(session, [use.model])):
                    made += flags.flag(change, use.version, actor, reason)
        return made

    def withdraw_flag(self, model: str, version: int, *, by: Principal, actor: str, reason: str) -> list[Flag]:
        """Withdraw a flag and what came of it. Raises `NotFoundError`, `ConflictError`."""
        with self._registry.sessions.begin() as session:
            acting_for(session, by)
            return flags.withdraw(Change.of(session, model, self._registry.now()), version, actor, reason)

    def reviews(self, *, done: bool = False) -> list[ReviewInfo]:
        """Roll-backs to look at; with `done` those that were looked at too."""
        with self.readers() as session:
            return reviews(session, done=done)

    def review(self, number: int, *, by: Principal, actor: str, comment: str) -> ReviewInfo:
        """Note that somebody looked at a roll-back. Raises `NotFoundError`, `ConflictError`."""
        with self._registry.sessions.begin() as session:
            acting_for(session, by)
            return review(session, number, actor, comment, now=self._registry.now())


def _facts(info: ModelInfo) -> ModelFacts:
    return ModelFacts(
        model=info.model,
        task=info.task,
        champion=info.champion,
        challenger=info.challenger,
        versions=info.versions,
        monitored=info.monitored,
        learning=info.learning,
        owner=info.owner,
        team=info.team,
        tags=info.tags,
    )
