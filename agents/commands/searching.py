"""`driftline models`, `versions` and `tag`: what is registered, searched and labelled."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from agents.commands.output import Json, add, document, note, say, table

if TYPE_CHECKING:
    from agents.registry.search import Search

Match = Annotated[str, typer.Option("--match", help="Models by pattern, as 'bus-*'.")]
Tags = Annotated[list[str] | None, typer.Option("--tag", help="KEY=VALUE, or KEY for any value; again: all of them.")]
Owner = Annotated[str, typer.Option("--owner", help="Models of this owner.")]
Team = Annotated[str, typer.Option("--team", help="Models of this team.")]
Alias = Annotated[str, typer.Option("--alias", help="champion or challenger: where somebody is it.")]
AsOf = Annotated[str, typer.Option("--as-of", help="As it stood at this time of the system's clock.")]
After = Annotated[str, typer.Option("--after", help="Go on after this model: `next` of the page before.")]
Limit = Annotated[int, typer.Option("--limit", min=0, help="How many at most; 0: all.")]


def models(
    *,
    match: Match = "*",
    tags: Tags = None,
    owner: Owner = "",
    team: Team = "",
    alias: Alias = "",
    as_of: AsOf = "",
    after: After = "",
    limit: Limit = 0,
    as_json: Json = False,
) -> None:
    """List the registered models, or search them by name, tag, owner, team and alias."""
    from agents.access.acting import acting
    from agents.access.teams import visible
    from agents.config import load_settings
    from agents.gateway.decisions import RegistryDecisions

    settings = load_settings()
    by = acting(settings, "viewer")
    registry = RegistryDecisions.of(settings)
    search = _search(match, tags, owner, team, alias, "", as_of, after, limit)
    with registry.readers() as session:
        found, more = registry.find_models(search, lambda names: visible(session, by, names))
    if as_json:
        document({"models": found, "next": more or None})
        return
    described = any(m.owner or m.team or m.tags for m in found)
    table(
        [
            *("model", "task", "champion", "challenger", "versions", "watched only"),
            *["owner", "team", "tags"] * described,
        ],
        [
            (
                *(m.model, m.task, m.champion, m.challenger, m.versions),
                ("learning" if m.learning else "yes") * m.monitored,
                *[m.owner, m.team, " ".join(f"{key}={value}" for key, value in m.tags.items())] * described,
            )
            for m in found
        ],
        empty="no model is registered, or none fits: `driftline register DIR --data FILE`",
    )
    if more:
        note(f"there are more: --after {more}")


def versions(
    model: Annotated[str, typer.Argument(help="Name of a registered model; without one: of all that fit.")] = "",
    *,
    match: Match = "*",
    tags: Tags = None,
    owner: Owner = "",
    team: Team = "",
    alias: Alias = "",
    stage: Annotated[str, typer.Option("--stage", help="Of this stage, as approval-requested.")] = "",
    as_of: AsOf = "",
    after: After = "",
    limit: Limit = 0,
    as_json: Json = False,
) -> None:
    """List a model's versions with their stage and the reason of the decision, or search those of all models.

    `--tag` means the versions' own tags, `--owner` and `--team` the models'.
    """
    from agents.access.acting import acting
    from agents.access.teams import visible
    from agents.config import load_settings
    from agents.gateway.decisions import RegistryDecisions
    from agents.registry.search import find_versions

    settings = load_settings()
    by = acting(settings, "viewer", model or None)
    search = _search(match, tags, owner, team, alias, stage, as_of, after, limit)
    registry = RegistryDecisions.of(settings)
    if model:
        registry.model(model)
    with registry.readers() as session:
        found, more = find_versions(session, search, lambda names: visible(session, by, names), model=model)
    if as_json:
        scope = {"model": model} if model else {"next": more or None}
        document({**scope, "as_of": search.as_of, "versions": found})
        return
    several, named, tagged = not model, any(v.external is not None for v in found), any(v.tags for v in found)
    table(
        [
            *(["model"] * several + ["version"] + ["elsewhere"] * named),
            *("stage", "champion", "data until", "parent", "by", *["tags"] * tagged, "reason"),
        ],
        [
            (
                *([v.model] * several + [v.version] + [v.external] * named),
                *(v.stage + ", flagged" * bool(v.flags), "yes" if v.champion else "", v.at.date(), v.parent, v.actor),
                *[" ".join(f"{key}={value}" for key, value in v.tags.items())] * tagged,
                "; ".join(map(str, v.flags)) or v.reason,
            )
            for v in found
        ],
        empty=(f"{model} has no version" if model else "no version fits") + (" then" if as_of else ""),
    )
    if more:
        note(f"there are more: --after {more}")


def tag(
    model: Annotated[str, typer.Argument(help="Name of a registered model.", show_default=False)],
    pairs: Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Tags to set.")] = None,
    *,
    version: Annotated[int, typer.Option("--version", min=0, help="Tags of this version; default: the model's.")] = 0,
    remove: Annotated[list[str] | None, typer.Option("--remove", help="Key of a tag to remove.")] = None,
    actor: Annotated[
        str, typer.Option("--actor", help="Who does it; default: whose key it is, else this account.")
    ] = "",
    as_json: Json = False,
) -> None:
    """Set and remove tags of a model or of a version; without any, list them. Every change is audited."""
    from agents.access.acting import acting
    from agents.access.logic import acting_name
    from agents.config import load_settings
    from agents.gateway.decisions import RegistryDecisions
    from agents.registry.tags import parsed

    settings = load_settings()
    given, gone = parsed(pairs or ()), remove or []
    changes = bool(given or gone)
    by = acting(settings, "producer" if changes else "viewer", model)
    registry = RegistryDecisions.of(settings)
    number = version or None
    if changes:
        now = registry.tag(model, number, given, gone, by, acting_name(by, actor))
    else:
        now = registry.tags(model, number)
    if as_json:
        document({"model": model, "version": number, "tags": now})
        return
    for key, value in now.items():
        say(f"{key}={value}")


def _search(  # noqa: PLR0917 - the options, as they came
    match: str,
    tags: list[str] | None,
    owner: str,
    team: str,
    alias: str,
    stage: str,
    as_of: str,
    after: str,
    limit: int,
) -> Search:
    """What the options look for. Raises `ConfigurationError`."""
    from agents.commands.lines import moment
    from agents.registry.search import Search
    from agents.registry.tags import sought_tags
    from schemas.codec import utc

    return Search(
        match=match,
        tags=sought_tags(tags or ()),
        owner=owner,
        team=team,
        alias=alias,
        stage=stage,
        as_of=utc(moment(as_of)) if as_of else None,
        after=after,
        limit=limit,
    )


def add_to(app: typer.Typer) -> None:
    """Add the commands."""
    add(app, "models", models, panel="Models")
    add(app, "versions", versions, panel="Models")
    add(app, "tag", tag, panel="Models")
