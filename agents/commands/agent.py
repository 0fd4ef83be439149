"""`driftline agent NAME`: run one agent in this process."""

from __future__ import annotations

from typing import Annotated

import typer

from agents.commands.output import add


def run(
    name: Annotated[str, typer.Argument(help="serving, monitoring, archiving, alerting …", show_default=False)],
) -> None:
    """Run one agent in the foreground; SIGTERM and Ctrl-C end it in order.

    Any number of processes may run the same agent: Kafka's consumer groups spread the partitions. Give each its own
    DRIFTLINE_SLOT.
    """
    from agents.bootstrap import run_agent
    from agents.config import load_settings

    run_agent(name, load_settings())


def add_to(app: typer.Typer) -> None:
    """Add the command."""
    add(app, "agent", run, panel="System")
