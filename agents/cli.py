"""The command `driftline`: wires the commands together and nothing else.

Modules of `agents.commands` import at their top only what `--help` needs; what a command works with is imported when
the command runs, so that starting one agent does not load the libraries of all the others.
"""

from __future__ import annotations

from typing import Annotated

import typer

from agents.commands import (
    agent,
    archiving,
    audit,
    backtest,
    bench,
    datasets,
    deciding,
    demo,
    erase,
    flagging,
    history,
    keys,
    lineage,
    moving,
    principals,
    project,
    provenance,
    rebuild,
    record,
    registry,
    report,
    searching,
    signing,
    status,
    system,
    topics,
    traffic,
    training,
)
from agents.commands.output import Commands

app = typer.Typer(
    cls=Commands,
    name="driftline",
    help="Watches models in production on Kafka: joins predictions with labels, measures quality and drift, "
    "retrains, approves and swaps.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import PackageNotFoundError, version

        try:
            typer.echo(f"driftline {version('driftline')}")
        except PackageNotFoundError:
            typer.echo("driftline (not installed as a distribution)")
        raise typer.Exit


@app.callback()
def _root(
    show: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Root of the commands; settings come from the environment and `.env` (`driftline config show`)."""


MODULES = (
    *(demo, bench, system, status, report, topics, agent, project),
    *(registry, searching, audit, signing),
    *(provenance, record, flagging, rebuild, lineage, moving),
    *(training, backtest, traffic, history, datasets, archiving),
    *(keys, principals, deciding, erase),
)
for module in MODULES:
    module.add_to(app)


def main() -> None:
    """Entry point of the command `driftline`."""
    app()


if __name__ == "__main__":
    main()
