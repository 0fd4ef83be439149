"""`driftline request-approval`, `archive` and `reviews`, and decisions on many at once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer

from agents.commands.output import Json, add, document, note, say, table

if TYPE_CHECKING:
    from collections.abc import Collection

    from agents.registry.batch import What

Model = Annotated[str, typer.Argument(help="Name of a registered model.", show_default=False)]
Version = Annotated[int, typer.Argument(help="Number of a version.", show_default=False)]
Actor = Annotated[str, typer.Option("--actor", help="Who decides; default: whose key it is, else this account.")]


Every = Annotated[bool, typer.Option("--all", help="Decide on many: of all models that fit.")]
Match = Annotated[str, typer.Option("--match", help="With --all: models by pattern, as 'bus-*'.")]
Tags = Annotated[
    list[str] | None, typer.Option("--tag", help="With --all: models by tag, KEY=VALUE; again: all of them.")
]
TypeNames = Annotated[
    list[str] | None,
    typer.Option("--allow-type", help="Agree that its file may hold this type beside the defaults; again: more."),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="With --all: say what would be decided on, and do nothing.")]


class Many(NamedTuple):
    """The options that speak of many."""

    every: bool
    match: str
    tags: list[str] | None
    dry_run: bool = False
    confirm: int | None = None

    def wanted(self, command: str, model: str, version: int | None) -> bool:
        """Whether many are meant.

        Raises
        ------
        ConfigurationError
            Neither one nor many are named, or both.
        """
        from schemas.errors import ConfigurationError

        one = bool(model) and version != 0
        more = self.match != "*" or self.tags or self.dry_run or self.confirm is not None
        if (self.every and (model or version)) or (not self.every and (more or not one)):
            raise ConfigurationError(
                f"name a model{' and a version' if version is not None else ''}, or many with --all",
                where=f"driftline {command}",
                remedy=f"driftline {command} MODEL{' VERSION' if version is not None else ''}, or "
                f"driftline {command} --all --match 'bus-*' or --tag KEY=VALUE",
            )
        return self.every


def decide_many(
    what: What, many: Many, consented: Collection[str] = (), *, actor: str, reason: str, as_json: bool
) -> None:
    """Decide on all that fits; exit code 1 where something of it was refused. Roll-backs only where confirmed."""
    from agents.access.acting import acting
    from agents.access.logic import acting_name
    from agents.access.teams import team_of, visible
    from agents.config import load_settings
    from agents.gateway.decisions import RegistryDecisions
    from agents.registry.batch import confirmed, listed
    from agents.registry.search import Search
    from agents.registry.tags import sought_tags

    settings = load_settings()
    by = acting(settings, "approver")
    decisions = RegistryDecisions.of(settings)

    def allowed(model: str) -> bool:
        if not by.asks_teams:
            return by.may("approver", model)
        with decisions.readers() as session:
            return by.may("approver", model, team_of(session, model))

    found = decisions.chosen(what, Search(match=many.match, tags=sought_tags(many.tags or ())))
    if what == "rollback" or many.dry_run:
        with decisions.readers() as session:
            seen = visible(session, by, {one.model for one in found})
        found = [one for one in found if one.model in seen]
    columns, nothing = ["model", "version", "became", "why not"], "nothing fits"
    if many.dry_run or (what == "rollback" and many.confirm is None):
        would = listed(found, what)
        possible = sum(one.problem is None for one in would)
        if as_json:
            document({"would": would, "possible": possible})
            return
        asked = any(o.new_types for o in would)
        table(
            [*columns[:2], "is", "why not", *["types to agree to"] * asked],
            [(o.model, o.version, o.stage, o.problem, *[" ".join(o.new_types)] * asked) for o in would],
            empty=nothing,
        )
        note("nothing was done" + (f"; --confirm {possible} does it" if what == "rollback" and possible else ""))
        return
    if many.confirm is not None:
        found = confirmed(found, many.confirm)
    name = acting_name(by, actor)
    done = decisions.decide_all(what, found, by=by, actor=name, reason=reason, allowed=allowed, consented=consented)
    refused = [outcome for outcome in done if outcome.problem is not None]
    if as_json:
        told = {"approve": "approved", "reject": "rejected", "rollback": "rolled_back"}[what]
        document({told: len(done) - len(refused), "refused": len(refused), "versions": done})
    else:
        table(columns, [(o.model, o.version, o.stage, o.problem) for o in done], empty=nothing)
    if refused:
        raise typer.Exit(1)


def request_approval(model: Model, version: Version, *, actor: Actor = "", as_json: Json = False) -> None:
    """Ask people for approval of a version again, where the first question lapsed."""
    from agents.access.acting import acting
    from agents.access.logic import acting_name
    from agents.config import load_settings
    from agents.gateway.decisions import RegistryDecisions

    settings = load_settings()
    by = acting(settings, "producer", model)
    stage = RegistryDecisions.of(settings).request_approval(model, version, by=by, actor=acting_name(by, actor))
    _told(model, version, stage, as_json=as_json)


def archive(
    model: Model,
    version: Version,
    *,
    reason: Annotated[str, typer.Option("--reason", help="Kept in the audit.")] = "out of use",
    actor: Actor = "",
    as_json: Json = False,
) -> None:
    """Take a version that is not in use out of use for good: it cannot be promoted or brought back."""
    from agents.access.acting import acting
    from agents.access.logic import acting_name
    from agents.config import load_settings
    from agents.gateway.decisions import RegistryDecisions

    settings = load_settings()
    by = acting(settings, "approver", model)
    stage = RegistryDecisions.of(settings).archive(model, version, by=by, actor=acting_name(by, actor), reason=reason)
    _told(model, version, stage, as_json=as_json)


def reviews(
    *,
    done: Annotated[int | None, typer.Option("--done", help="Mark this one as looked at.")] = None,
    comment: Annotated[str, typer.Option("--comment", help="With --done: what was found; kept in the audit.")] = "",
    every: Annotated[bool, typer.Option("--all", help="Those that were looked at too.")] = False,
    actor: Actor = "",
    as_json: Json = False,
) -> None:
    """List roll-backs that one person made and nobody has looked at since, or mark one as looked at."""
    from agents.access.acting import acting
    from agents.access.logic import acting_name
    from agents.access.teams import visible
    from agents.config import load_settings
    from agents.gateway.decisions import RegistryDecisions
    from schemas.errors import ConfigurationError

    settings = load_settings()
    by = acting(settings, "viewer")
    decisions = RegistryDecisions.of(settings)
    found = decisions.reviews(done=every or done is not None)
    if done is not None:
        if not comment:
            raise ConfigurationError("say what was found", where="--comment", remedy="add --comment TEXT")
        for one in found:
            if one.id == done:
                by = acting(settings, "approver", one.model)
        found = [decisions.review(done, by=by, actor=acting_name(by, actor), comment=comment)]
    else:
        with decisions.readers() as session:
            seen = visible(session, by, {one.model for one in found})
        found = [one for one in found if one.model in seen]
    if as_json:
        document({"reviews": found})
        return
    table(
        ["id", "model", "from", "to", "at", "by", "reason", "looked at by", "comment"],
        [
            (*(r.id, r.model, r.previous, r.version, f"{r.at:%Y-%m-%d %H:%M}"),
             *(r.actor, r.reason, r.reviewed_by, r.comment))
            for r in found
        ],
        empty="no roll-back waits for a review",
    )  # fmt: skip


def _told(model: str, version: int, stage: str, *, as_json: bool) -> None:
    if as_json:
        document({"model": model, "version": version, "stage": stage})
    else:
        say(f"{model} version {version}: {stage}")


def add_to(app: typer.Typer) -> None:
    """Add the commands."""
    add(app, "request-approval", request_approval, panel="Models")
    add(app, "archive", archive, panel="Models")
    add(app, "reviews", reviews, panel="Models")
