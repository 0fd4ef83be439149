"""`driftline up`, `down` and `doctor`: start the system, stop it, check what it stands on."""

from __future__ import annotations

from typing import Annotated, Any, NoReturn

import typer

from agents.commands.output import Json, add, document, note, say


def up(
    detach: Annotated[bool, typer.Option("--detach", "-d", help="Leave it running and return.")] = False,
    as_json: Json = False,
) -> None:
    """Start Kafka (unless KAFKA_BOOTSTRAP_SERVERS names yours), the database, all agents and the page.

    Stays in the foreground until Ctrl-C, and stops everything in order then. With `--detach` it returns as soon as
    everything is ready; `driftline down` stops it.
    """
    import signal

    from agents.config import load_settings
    from agents.gateway.address import page_address
    from agents.supervisor import Supervisor

    def interrupt(number: int, _: object) -> NoReturn:
        raise KeyboardInterrupt

    # A service manager's SIGTERM means the same as Ctrl-C: stop in order, then return.
    signal.signal(signal.SIGTERM, interrupt)
    settings = load_settings()
    settings.check_safety()
    supervisor = Supervisor(settings)
    note("starting (the first time, the broker's jars are fetched) …")
    supervisor.start()
    status = supervisor.status()
    facts: dict[str, Any] = {
        "home": settings.home.resolve(),
        "page": page_address(settings),
        "broker": status.bootstrap_servers if status else "",
        "agents": supervisor.pids(),
        "logs": settings.home.resolve() / "logs",
    }
    if as_json:
        document(facts)
    else:
        say(f"page    {facts['page']}\nbroker  {facts['broker']}\nlogs    {facts['logs']}")
    if detach:
        supervisor.detach()
        note("stop it with `driftline down`")
        return
    note("Ctrl-C stops it")
    try:
        supervisor.wait()
    except KeyboardInterrupt:
        note("stopping …")
        supervisor.stop()


def down(as_json: Json = False) -> None:
    """Stop everything that `driftline up` started, in order; what is stored stays."""
    from agents.config import load_settings
    from agents.supervisor import Supervisor

    settings = load_settings()
    stopped = Supervisor(settings).stop()
    if as_json:
        document({"home": settings.home.resolve(), "stopped": stopped})
    else:
        say("stopped" if stopped else f"nothing runs in {settings.home.resolve()}")


def doctor(as_json: Json = False) -> None:
    """Check broker, topics, retention, database, artifacts, disk and versions; say what to do about what is wrong.

    Changes nothing. Exit code 0 only where nothing failed.
    """
    from agents.config import load_settings
    from agents.doctor import examine, healthy

    findings = examine(load_settings())
    if as_json:
        document({"healthy": healthy(findings), "checks": findings})
    else:
        for finding in findings:
            say(f"{finding.status:8} {finding.check:14} {finding.detail}")
            if finding.remedy:
                say(f"{'':23} → {finding.remedy}")
    if not healthy(findings):
        raise typer.Exit(1)


def add_to(app: typer.Typer) -> None:
    """Add the commands."""
    add(app, "up", up, panel="System")
    add(app, "down", down, panel="System")
    add(app, "doctor", doctor, panel="System")
