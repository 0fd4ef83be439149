"""The registry: models, versions, decisions. Every change is compare-and-set, audited and published, or not at all.

Methods take the caller's session: what they write commits with it. They check the stage they found under the
installation's ledger lock (`agents.registry.ledger`), so that of many who decide at once one is first and the others
get a `ConflictError`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import bindparam, func, select
from sqlalchemy.orm import Session

from agents.artifacts import ArtifactStore
from agents.database.engine import Sessions
from agents.registry import flags
from agents.registry.change import Change, begin_model, refuse_answer, refuse_other_task, refuse_watched
from agents.registry.consent import allowance, new_types, refuse_unnamed
from agents.registry.intact import refuse_altered
from agents.registry.ledger import Ledger
from agents.registry.logic import check_step
from agents.registry.questions import Questions
from agents.registry.reviews import flag_for_review
from agents.registry.tables import ApprovalRow, ModelRow, SpecificationRow, VersionRow
from agents.registry.tags import change_tags, checked, in_force, of_specification
from agents.registry.views import VersionInfo, version_info
from schemas.errors import ConflictError, NotFoundError, TransitionError
from schemas.events import (
    Decision,
    ModelRolledBack,
    ProbationEnded,
    SubmitCandidate,
    VersionApproved,
    VersionRegistered,
    VersionRejected,
    VersionValidated,
)
from schemas.specification import Specification, parse

POLICY = "policy:auto"
"""The actor of what approval mode ``auto`` does."""

# Written once: to write them takes longer than to execute them.
_SPECIFICATIONS: Any = SpecificationRow.__table__
_SPECIFICATION = select(_SPECIFICATIONS.c.sha).where(_SPECIFICATIONS.c.sha == bindparam("id"))
_VERSIONS: Any = VersionRow.__table__
_NEWEST = select(func.max(_VERSIONS.c.version)).where(_VERSIONS.c.model == bindparam("model"))


def _now() -> datetime:
    return datetime.now(UTC)


class Registry(Questions):
    """The registry of one installation.

    Parameters
    ----------
    sessions : Sessions
        Kept for callers that want a session of their own.
    artifacts : ArtifactStore
        Specifications are put there too, for whoever reads `registry-state`.
    clock : callable
        The system's clock, aware.
    """

    def __init__(self, sessions: Sessions, artifacts: ArtifactStore, *, clock: Callable[[], datetime] = _now) -> None:
        self.sessions = sessions
        self.artifacts = artifacts
        self._clock = clock

    # ------------------------------------------------------------------------------------- registration

    def register_model(self, session: Session, spec_text: str, actor: str, *, at: datetime | None = None) -> str:
        """Register a model, or give a registered one a new specification; returns its name.

        Raises
        ------
        SpecificationError
        ConflictError
            The model is registered with another task.
        """
        spec = parse(spec_text)
        sha = self.put_specification(spec_text)
        ledger = Ledger(session, self._clock())
        self.add_specification(session, sha, spec_text)
        row = session.get(ModelRow, spec.name)
        new = row is None
        if row is None:
            row = ModelRow(
                name=spec.name,
                task=spec.task,
                specification=sha,
                champion=None,
                challenger=None,
                shadow=None,
                epoch=ledger.next_epoch,
                actor=actor,
                registered_at=ledger.now,
            )
            begin_model(session, ledger, row, at)
        else:
            refuse_watched(row, "registered with a pipeline")
            refuse_other_task(row, spec)
        self.take_specification(Change(session, ledger, row), sha, spec, actor, at, new=new)
        return spec.name

    def register_version(
        self,
        session: Session,
        model: str,
        *,
        artifact: str,
        reference: str,
        specification_text: str,
        code: Mapping[str, Any],
        dataset: Mapping[str, Any],
        environment: Mapping[str, Any],
        parameters: Mapping[str, Any],
        seed: int,
        parent: int | None,
        run_id: str | None,
        report: Mapping[str, Any],
        actor: str,
        at: datetime,
    ) -> int:
        """Register a version; returns its number. It is decided on by `submit`.

        Parameters
        ----------
        artifact, reference : str
            SHA-256 of what was put into the artifact store as ``model`` and ``reference``.
        at : datetime
            Event time of the knowledge it was trained with.

        Raises
        ------
        SpecificationError
        NotFoundError
            The model is not registered, or artifact or reference is not in the store.
        """
        spec = parse(specification_text)
        if spec.name != model:
            raise ConflictError(f"the specification is of {spec.name!r}", where=f"model {model}")
        for sha in (artifact, reference):
            if not self.artifacts.exists(sha):
                raise NotFoundError(f"artifact {sha} is not in the store", where=self.artifacts.url)
        specification = self.put_specification(specification_text)
        change = Change.of(session, model, self._clock())
        refuse_watched(change.row, "given a trained version")
        self.add_specification(session, specification, specification_text)
        newest = session.connection().scalar(_NEWEST, {"model": model}) or 0
        version = VersionRow(
            model=model,
            version=newest + 1,
            artifact=artifact,
            reference=reference,
            specification=specification,
            code=dict(code),
            dataset=dict(dataset),
            environment=dict(environment),
            parameters=dict(parameters),
            seed=seed,
            parent=parent,
            run_id=run_id,
            report=dict(report),
            actor=actor,
            at=at,
            registered_at=change.ledger.now,
            registered_epoch=change.ledger.next_epoch,
            stage="registered",
            decision=None,
            reason="",
            promoted_at=None,
            previous=None,
            allowed_types=sorted(set(spec.model.allowed_types)),
        )
        told = {"artifact": artifact, "parent": parent, "record": change.add(version, self.packages)}
        change.emit(VersionRegistered, actor, at, version=version.version, **told)
        flags.inherit(change, version)
        change.publish_state()
        return version.version

    # ---------------------------------------------------------------------------------------- decisions

    def submit(self, session: Session, command: SubmitCandidate) -> Decision:
        """Decide on a candidate by the gate's verdict and the version's approval mode.

        Returns
        -------
        Decision
            ``initial`` or ``promoted`` (auto), ``awaiting-approval`` (manual; or the version is flagged faulty and
            people have to clear it; or its file may hold types that nobody has agreed to), ``rejected`` (the gate said
            no).

        Raises
        ------
        NotFoundError
        ConflictError
            It was submitted before.
        ArtifactError
            It would be promoted, and what the store holds is not what was registered.
        """
        change = Change.of(session, command.model, self._clock())
        version = change.version(command.version)
        number, at, actor, reason = version.version, command.at, command.actor, command.reason
        decision: Decision
        if not command.passed:
            decision = "rejected"
            change.step(version, "rejected", decision=decision, reason=reason)
            change.emit(VersionRejected, actor, at, version=number, reason=reason)
            change.publish_state()
            return decision
        if new := new_types(session, change.row, version):
            reason = f"{reason}; its file may hold {', '.join(new)}: somebody has to agree to that"
        spec = parse(self.specification_text(session, version.specification))
        by_policy = spec.approval.mode == "auto" and not new and not flags.is_flagged(session, command.model, number)
        if by_policy and version.stage == "registered":
            refuse_altered(self.artifacts, version.artifact, f"{command.model} version {number}")
        change.step(version, "validated", reason=reason)
        change.emit(VersionValidated, actor, at, version=number, artifact=version.artifact)
        if by_policy:
            change.step(version, "approved")
            change.emit(VersionApproved, POLICY, at, version=number, comment=reason, **allowance(version))
            decision = change.promote(version, POLICY, at, probation=spec.probation_ms > 0)
        else:
            decision = "awaiting-approval"
            change.request_approval(version, actor, at, spec.approval)
        change.publish_state()
        return decision

    def approve(
        self,
        session: Session,
        model: str,
        version: int,
        actor: str,
        comment: str = "",
        *,
        artifact: str | None = None,
        consented: Collection[str] = (),
        intact: str | None = None,
    ) -> VersionInfo:
        """Approve a version that asks for it; the last approval needed promotes it.

        Parameters
        ----------
        artifact : str, optional
            SHA-256 of the bytes that the approver looked at.
        consented : collection of str, optional
            Types beside the defaults that its file may hold, as far as the approver agrees to them. Those of the
            champion need not be named.
        intact : str, optional
            SHA-256 of bytes that the caller has just read and found unaltered, before the lock was taken; others are
            read here.

        Raises
        ------
        ArtifactError
            What the store holds is not what was registered.
        NotFoundError
        TransitionError
            The version does not ask for approval (yet).
        ConflictError
            It was decided already, this person approved already or (four eyes) asked for it, the question has lapsed,
            `artifact` is not what the version holds, or its file may hold types that are not in `consented`.
        """
        change = Change.of(session, model, self._clock())
        refuse_watched(change.row, "approved")
        found = change.version(version)
        where = f"{model} version {version}"
        check_step(model, version, found.stage, "approved")
        flags.refuse_flagged(change, version)
        if artifact is not None and artifact != found.artifact:
            raise ConflictError(f"holds artifact {found.artifact}, approved was {artifact}", where=where)
        if session.get(ApprovalRow, (model, version, actor)) is not None:
            raise ConflictError(f"{actor} has approved it already", where=where, remedy="another person has to")
        spec = parse(self.specification_text(session, found.specification))
        request = change.open_request(version)
        if request is None:
            raise ConflictError("nobody asks for approval any more", where=where)
        refuse_answer(request, actor, change.ledger.now)
        new = new_types(session, change.row, found)
        refuse_unnamed(where, new, consented, f"`driftline approve {model} {version}` with")
        if intact != found.artifact:
            refuse_altered(self.artifacts, found.artifact, where)
        session.add(
            ApprovalRow(
                model=model,
                version=version,
                actor=actor,
                artifact=found.artifact,
                comment=comment,
                at=change.ledger.now,
                request=request.id,
                requester=request.requester,
                four_eyes=request.four_eyes,
            )
        )
        session.flush()
        mine = (ApprovalRow.model == model, ApprovalRow.version == version)
        given = session.scalar(select(func.count()).select_from(ApprovalRow).where(*mine)) or 0
        told: Mapping[str, Any] = {**allowance(found), **({"consented": new} if new else {})}
        enough = given >= (request.approvers or spec.approval.approvers)
        if enough:
            change.close_request(request)
            change.step(found, "approved")
        change.emit(VersionApproved, actor, None, version=version, comment=comment, **told)
        if enough:
            change.promote(found, actor, None, probation=spec.probation_ms > 0)
        change.publish_state()
        return version_info(found, champion=change.row.champion == version)

    def reject(self, session: Session, model: str, version: int, actor: str, reason: str) -> VersionInfo:
        """Reject a version that asks for approval.

        Raises
        ------
        NotFoundError, TransitionError, ConflictError
        """
        change = Change.of(session, model, self._clock())
        refuse_watched(change.row, "rejected")
        found = change.version(version)
        change.step(found, "rejected", decision="rejected", reason=reason)
        change.close_request(change.open_request(version))
        if change.row.challenger == version:
            change.row.challenger = None
        change.emit(VersionRejected, actor, None, version=version, reason=reason)
        change.publish_state()
        return version_info(found, champion=False)

    def rollback(
        self,
        session: Session,
        model: str,
        to: int | None = None,
        *,
        actor: str,
        reason: str,
        expected: int | None = None,
        at: datetime | None = None,
    ) -> VersionInfo:
        """Bring an earlier champion back; returns it. A probation that runs is over.

        One person is enough; what a person does alone is to be reviewed afterwards (`agents.registry.reviews`).

        Parameters
        ----------
        to : int, optional
            Default: the champion before the present one, of those that are not flagged.
        expected : int, optional
            The champion that the caller means to replace; somebody else may have been faster.
        at : datetime, optional
            Event time of the knowledge that asks for it; default: the system's clock.

        Raises
        ------
        NotFoundError
        TransitionError
            There is nothing to go back to, or `to` never was champion.
        ConflictError
            The champion is not `expected`, or is `to` already; or `to` is flagged faulty.
        """
        change = Change.of(session, model, self._clock())
        refuse_watched(change.row, "rolled back")
        champion = change.row.champion
        where = f"model {model}"
        if champion is None:
            raise TransitionError("has no champion", where=where, remedy="promote a version first")
        if expected is not None and expected != champion:
            raise ConflictError(f"champion is version {champion}, not {expected}", where=where)
        present = change.version(champion)
        goal = to if to is not None else flags.sound_before(session, model, present)
        if goal is None:
            raise TransitionError(
                f"version {champion} has no predecessor" + (" that is not flagged" if present.previous else ""),
                where=where,
                remedy="name a version with --to",
            )
        found = change.version(goal)
        flags.refuse_flagged(change, goal)
        change.step(found, "promoted", promoted_at=change.ledger.now)
        change.step(present, "rolled-back", decision="rolled-back", reason=reason)
        change.row.champion = found.version
        change.row.shadow = None
        spec = parse(self.specification_text(session, present.specification))
        flag_for_review(change, found.version, champion, actor, reason, four_eyes=spec.approval.four_eyes)
        change.emit(
            ModelRolledBack,
            actor,
            at,
            version=found.version,
            previous=champion,
            artifact=found.artifact,
            reason=reason,
            **allowance(found),
        )
        flags.champion_changed(change)
        change.publish_state()
        return version_info(found, champion=True)

    def end_probation(
        self, session: Session, model: str, version: int, *, actor: str, reason: str, at: datetime | None = None
    ) -> VersionInfo:
        """The champion stays: the version before it need not answer in shadow any more; returns the champion.

        Raises
        ------
        NotFoundError
        ConflictError
            The champion is not `version`, or is on no probation.
        """
        change = Change.of(session, model, self._clock())
        found, shadow = change.version(version), change.row.shadow
        where = f"model {model}"
        if change.row.champion != version:
            raise ConflictError(f"champion is version {change.row.champion}, not {version}", where=where)
        if shadow is None:
            raise ConflictError(f"version {version} is on no probation", where=where)
        change.row.shadow = None
        change.emit(ProbationEnded, actor, at, version=version, previous=shadow, reason=reason)
        change.publish_state()
        return version_info(found, champion=True)

    # --------------------------------------------------------------------------------------------- tags

    def tag(  # noqa: PLR0917
        self,
        session: Session,
        model: str,
        version: int | None,
        tags: Mapping[str, str],
        removed: Iterable[str],
        actor: str,
    ) -> dict[str, str]:
        """Set and remove tags of a version, or of the model where `version` is None; the tags as they are now.

        Raises
        ------
        NotFoundError
        ConfigurationError
            One is no tag, or there would be too many.
        """
        change = Change.of(session, model, self._clock())
        if version is not None:
            change.version(version)
        kept = [key for key in removed if not key.startswith("@")]
        change_tags(change, version or 0, checked(tags), kept, actor, None)
        return in_force(session, model, version or 0)

    # ------------------------------------------------------------------------------------------- inside

    def now(self) -> datetime:
        """The system's clock."""
        return self._clock()

    def put_specification(self, text: str) -> str:
        """Store a specification for whoever reads `registry-state`; returns its SHA-256."""
        return self.artifacts.put(text.encode(), "specification")

    def add_specification(self, session: Session, sha: str, text: str) -> None:
        """Keep a specification in the database too."""
        connection = session.connection()
        if connection.scalar(_SPECIFICATION, {"id": sha}) is None:
            connection.execute(_SPECIFICATIONS.insert(), {"sha": sha, "text": text})

    def take_specification(
        self, change: Change, sha: str, spec: Specification, actor: str, at: datetime | None, *, new: bool
    ) -> None:
        """Give a model a specification, and the tags it names; those that only the one before named are removed."""
        row = change.row
        if row.specification == sha and not new:
            return
        wanted, before = of_specification(spec), {}
        if not new:
            before = of_specification(parse(self.specification_text(change.session, row.specification)))
            row.specification = sha
        # What a person changed since stays, unless the specification says something new.
        news = {key: value for key, value in wanted.items() if before.get(key) != value}
        now = in_force(change.session, row.name) if before else {}
        gone = [key for key, value in before.items() if key not in wanted and now.get(key) == value]
        if change_tags(change, 0, news, gone, actor, at):
            change.publish_state()

    def packages(self, lock: str) -> dict[str, str]:
        """Packages of a stored lock: version by name. Raises `ArtifactError`."""
        from agents.retraining.lock import read

        return {one.name: one.version for one in read(self.artifacts, lock).packages}
