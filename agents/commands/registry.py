"""`driftline register`, `approve`, `reject` and `rollback`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from agents.commands.deciding import DryRun, Every, Many, Match, Tags, TypeNames, decide_many
from agents.commands.output import Json, add, document, say

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from agents.access.logic import Principal
    from agents.config import Settings
    from agents.gateway.decisions import RegistryDecisions
    from streams.kafka.config import KafkaConfig

AnyModel = Annotated[str, typer.Argument(help="Name of a registered model.", show_default=False)]
AnyVersion = Annotated[int, typer.Argument(help="Number of a version.", show_default=False)]
Actor = Annotated[str, typer.Option("--actor", help="Who decides; default: whose key it is, else this account.")]


def register(
    directory: Annotated[Path, typer.Argument(help="Project: driftline.toml and pipeline.py.", show_default=False)],
    *,
    data: Annotated[Path | None, typer.Option("--data", help="Training table: Parquet or CSV.")] = None,
    dataset: Annotated[
        str, typer.Option("--dataset", help="Instead: a dataset, NAME (the newest) or NAME@VERSION.")
    ] = "",
    artifact: Annotated[
        Path | None,
        typer.Option("--artifact", help="A skops or ONNX file trained elsewhere; --data: rows it has not seen."),
    ] = None,
    seasons: Annotated[
        Path | None,
        typer.Option("--seasons", help="Table of a whole year to learn the seasons from, where --data is shorter."),
    ] = None,
    monitor_only: Annotated[
        bool, typer.Option("--monitor-only", help="The model is trained and served elsewhere; only watch its topics.")
    ] = False,
    reference: Annotated[
        Path | None,
        typer.Option("--reference", help="With --monitor-only: past predictions (Parquet or CSV) to compare with."),
    ] = None,
    reference_window: Annotated[
        str, typer.Option("--reference-window", help="With --monitor-only: learn the reference for so long, as 14d.")
    ] = "",
    version: Annotated[
        str, typer.Option("--version", help="With --reference: the one version (as called elsewhere) it is of.")
    ] = "",
    every: Annotated[
        bool, typer.Option("--all", help="DIR holds projects: register each; --data is then a folder of tables.")
    ] = False,
    members: Annotated[
        list[str] | None, typer.Option("--member", help="Of a project for many models: only this value of `per`.")
    ] = None,
    match: Annotated[str, typer.Option("--match", help="Of many models: those whose names match, as 'bus-1*'.")] = "*",
    only_new: Annotated[bool, typer.Option("--only-new", help="Of many models: those not registered yet.")] = False,
    jobs: Annotated[int, typer.Option("--jobs", min=1, help="Of many models: train so many at a time.")] = 1,
    actor: Actor = "",
    as_json: Json = False,
) -> None:
    """Train a project's first (or next) version and register it; with approval mode "auto" it is promoted.

    With --monitor-only nothing is trained: the model's versions appear with its first predictions. A specification with
    `per` stands for many models, one for each value of that column. Works while the system is down: what has to be told
    is told when the registry agent runs.
    """
    from agents.access.acting import acting
    from agents.access.logic import acting_name
    from agents.bootstrap import kafka_config
    from agents.commands.registering import Many, given_table, register_many
    from agents.config import load_settings
    from agents.retraining.register import register_project
    from schemas import specification
    from schemas.errors import BrokerUnreachableError

    settings = load_settings()
    try:
        kafka = kafka_config(settings)
    except BrokerUnreachableError:
        kafka = None
    many = Many(every, tuple(members or ()), match, only_new, jobs)
    if many.wanted(directory):
        by = acting(settings, "producer")  # on each model: `register_many`
        given = given_table(settings, data, dataset, folders=every or monitor_only)
        register_many(
            settings,
            kafka,
            directory,
            many,
            data=given,
            seasons=seasons,
            monitor_only=monitor_only,
            reference=reference,
            window=reference_window,
            version=version,
            actor=acting_name(by, actor),
            by=by,
            as_json=as_json,
        )
        return
    spec = specification.load(directory)
    by = acting(settings, "producer", spec.name, team=spec.model.team)
    if monitor_only or reference is not None or reference_window or version:
        _watch(
            settings,
            kafka,
            directory,
            {
                "--data": data or dataset or None,
                "--seasons": seasons,
                "--reference": reference,
                "--reference-window": reference_window,
                "--version": version,
            },
            monitor_only=monitor_only,
            by=by,
            actor=acting_name(by, actor),
            as_json=as_json,
        )
        return
    name = acting_name(by, actor)
    given = given_table(settings, data, dataset, folders=False)
    if artifact is not None:
        from agents.retraining.given import register_given

        done = register_given(settings, kafka, directory, artifact, data, actor=name, by=by)
    else:
        done = register_project(settings, kafka, directory, given, actor=name, seasons=seasons, by=by)
    if as_json:
        document(done)
        return
    say(f"{done['model']} version {done['version']}: {done['decision']}")
    if done.get("reason"):
        say(str(done["reason"]))


def _watch(
    settings: Settings,
    kafka: KafkaConfig | None,
    directory: Path,
    options: Mapping[str, Any],
    *,
    monitor_only: bool,
    by: Principal,
    actor: str,
    as_json: bool,
) -> None:
    from agents.retraining.elsewhere import register_watched
    from schemas.errors import ConfigurationError

    where = "driftline register"
    if not monitor_only:
        given = ", ".join(name for name, value in options.items() if value and name not in {"--data", "--seasons"})
        raise ConfigurationError(f"{given} belongs to --monitor-only", where=where, remedy="add --monitor-only")
    if options["--data"] is not None:
        raise ConfigurationError(
            "--data is a training table, and nothing is trained with --monitor-only",
            where=where,
            remedy="give past predictions with --reference FILE",
        )
    if options["--seasons"] is not None:
        raise ConfigurationError(
            "--seasons goes with --data",
            where=where,
            remedy="a --reference FILE of a whole year tells the seasons by itself",
        )
    done = register_watched(
        settings,
        kafka,
        directory,
        options["--reference"],
        window=options["--reference-window"] or None,
        external=options["--version"] or None,
        actor=actor,
        by=by,
    )
    if as_json:
        document(done)
        return
    say(f"{done['model']} is watched: {done['reason']}")
    for number in done["versions"]:
        say(f"version {number} is compared with it from now on")


def approve(
    model: AnyModel = "",
    version: AnyVersion = 0,
    *,
    every: Every = False,
    match: Match = "*",
    tags: Tags = None,
    dry_run: DryRun = False,
    artifact: Annotated[
        str, typer.Option("--artifact", help="SHA-256 of what you looked at: refused where the version holds another.")
    ] = "",
    allow_types: TypeNames = None,
    actor: Actor = "",
    comment: Annotated[str, typer.Option("--comment", help="Kept in the audit.")] = "",
    as_json: Json = False,
) -> None:
    """Approve a version that waits for it; the last approval needed promotes it, and serving switches."""
    from agents.access.acting import acting
    from agents.access.logic import acting_name
    from agents.config import load_settings
    from agents.gateway.decisions import RegistryDecisions

    many = Many(every, match, tags, dry_run)
    if many.wanted("approve", model, version):
        decide_many("approve", many, allow_types or (), actor=actor, reason=comment, as_json=as_json)
        return
    settings = load_settings()
    by = acting(settings, "approver", model)
    registry = RegistryDecisions.of(settings)
    name = acting_name(by, actor)
    registry.approve(
        *(model, version),
        by=by,
        actor=name,
        comment=comment,
        artifact=artifact or None,
        consented=allow_types or (),
    )
    _tell(registry, model, version, as_json=as_json)


def reject(
    model: AnyModel = "",
    version: AnyVersion = 0,
    *,
    every: Every = False,
    match: Match = "*",
    tags: Tags = None,
    dry_run: DryRun = False,
    reason: Annotated[str, typer.Option("--reason", help="Kept in the audit.")] = "rejected by a person",
    actor: Actor = "",
    as_json: Json = False,
) -> None:
    """Reject a version that waits for approval; the champion goes on."""
    from agents.access.acting import acting
    from agents.access.logic import acting_name
    from agents.config import load_settings
    from agents.gateway.decisions import RegistryDecisions

    many = Many(every, match, tags, dry_run)
    if many.wanted("reject", model, version):
        decide_many("reject", many, actor=actor, reason=reason, as_json=as_json)
        return
    settings = load_settings()
    by = acting(settings, "approver", model)
    registry = RegistryDecisions.of(settings)
    registry.reject(model, version, by=by, actor=acting_name(by, actor), reason=reason)
    _tell(registry, model, version, as_json=as_json)


def rollback(
    model: AnyModel = "",
    *,
    to: Annotated[int | None, typer.Option("--to", help="Version to bring back; default: the one before.")] = None,
    every: Every = False,
    match: Match = "*",
    tags: Tags = None,
    confirm: Annotated[
        int | None, typer.Option("--confirm", help="With --all: do it, to as many models as were listed without this.")
    ] = None,
    reason: Annotated[str, typer.Option("--reason", help="Kept in the audit.")] = "rolled back by a person",
    actor: Actor = "",
    as_json: Json = False,
) -> None:
    """Bring an earlier champion back; serving switches between two batches.

    With --all nothing is done until the number of models that were listed is confirmed.
    """
    from agents.access.acting import acting
    from agents.access.logic import acting_name
    from agents.config import load_settings
    from agents.gateway.decisions import RegistryDecisions

    many = Many(every, match, tags, confirm=confirm)
    if many.wanted("rollback", model, to if every else None):
        decide_many("rollback", many, actor=actor, reason=reason, as_json=as_json)
        return
    settings = load_settings()
    by = acting(settings, "approver", model)
    registry = RegistryDecisions.of(settings)
    version = registry.rollback(model, to, by=by, actor=acting_name(by, actor), reason=reason)
    _tell(registry, model, version, as_json=as_json)


def _tell(registry: RegistryDecisions, model: str, version: int, *, as_json: bool) -> None:
    """What became of a version: of the decision that was just taken."""
    found = registry.info(model, version)
    if as_json:
        document({"model": model, "version": version, "stage": found.stage, "champion": found.champion})
    else:
        say(f"{model} version {version}: {'champion' if found.champion else found.stage}")


def add_to(app: typer.Typer) -> None:
    """Add the commands."""
    for name, function in (
        ("register", register),
        ("approve", approve),
        ("reject", reject),
        ("rollback", rollback),
    ):
        add(app, name, function, panel="Models")
