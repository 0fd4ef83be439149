"""`driftline init` and `driftline config show`: the project folder and the settings."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from agents.commands.output import Command, Json, add, document, say, table

if TYPE_CHECKING:
    from agents.config import Settings

SECRETS = frozenset({"webhook_secret", "notify_urls", "alertmanager_urls", "api_key", "subject_key"})


def init(
    directory: Annotated[Path, typer.Argument(help="Folder to write; made where it does not exist.")],
    *,
    monitor_only: Annotated[
        bool, typer.Option("--monitor-only", help="A model that is trained and served elsewhere: only watched.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Write a sample project that works: driftline.toml, pipeline.py, a small generated table, requests and labels.

    The model is called as the folder. With --monitor-only: driftline.toml, past predictions, predictions and labels of
    a model that lives elsewhere.
    """
    from agents.commands.sample import model_name, write_sample

    files = write_sample(directory, monitor_only=monitor_only)
    if as_json:
        document({"directory": directory, "model": model_name(directory), "files": [file.name for file in files]})
        return
    say(f"wrote {directory}/: " + ", ".join(file.name for file in files))
    say("next:")
    say("  driftline up --detach")
    if monitor_only:
        say(f"  driftline register {directory} --monitor-only --reference {directory / 'past.csv'}")
        say(f"  driftline produce predictions {directory / 'predictions.jsonl'}")
    else:
        say(f"  driftline register {directory} --data {directory / 'training.csv'}")
        say(f"  driftline produce requests {directory / 'requests.jsonl'} --wait 60")
    say(f"  driftline produce ground-truth {directory / 'labels.jsonl'}")
    say("  driftline status")


def config_show(
    directory: Annotated[
        Path | None, typer.Argument(help="Project whose specification to print too; default: here, if here is one.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Print the settings in force with where they come from, and a project's specification with all its defaults."""
    import msgspec

    from agents.config import load_settings
    from schemas import specification

    settings = load_settings()
    spec: dict[str, Any] | None = None
    folder = directory or Path()
    if directory is not None or (folder / specification.FILE_NAME).is_file():
        loaded = specification.load(folder)
        spec = msgspec.to_builtins(loaded)
        spec["data"]["revision_horizon"] = loaded.data.revision_horizon or loaded.data.max_label_delay
    values = shown_settings(settings)
    kafka = {name: _hidden(name, value) for name, value in settings.kafka_properties.items()}
    if as_json:
        document({"settings": {v["name"]: v["value"] for v in values}, "kafka": kafka, "specification": spec})
        return
    table(
        ["setting", "value", "from", "meaning"],
        [(v["variable"], _text(v["value"]), v["from"], v["meaning"]) for v in values]
        + [("KAFKA_" + k.upper().replace(".", "_"), v, "environment", "librdkafka: " + k) for k, v in kafka.items()],
    )
    if spec is not None:
        say("")
        say(f"# {folder / specification.FILE_NAME} with its defaults")
        for section, content in spec.items():
            say(f"[{section}]")
            for key, value in content.items():
                if value is not None:
                    say(f"{key} = {_toml(value)}")


def shown_settings(settings: Settings) -> list[dict[str, Any]]:
    """Every setting: name, variable, value in force (secrets hidden), where it comes from, what it means."""
    computed = {"database_url": settings.database, "artifacts_url": settings.artifacts, "archive_url": settings.archive}
    shown = []
    for name, field in type(settings).model_fields.items():
        value = computed.get(name, getattr(settings, name))
        if name in SECRETS and value:
            value = "(hidden)"
        elif name == "database_url":
            value = _without_password(value)
        shown.append(
            {
                "name": name,
                "variable": field.validation_alias or f"DRIFTLINE_{name.upper()}",
                "value": value,
                "from": "environment" if name in settings.model_fields_set else "default",
                "meaning": field.description or "",
            }
        )
    return shown


def _without_password(url: str) -> str:
    scheme, separator, rest = url.partition("://")
    credentials, at, host = rest.rpartition("@")
    return f"{scheme}{separator}{credentials.partition(':')[0]}:(hidden)@{host}" if at else url


def _hidden(name: str, value: str) -> str:
    secret = any(word in name for word in ("password", "secret", "key.pem", "token", "jaas", "oauthbearer.config"))
    return "(hidden)" if secret else value


def _text(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "–"
    return "–" if value in (None, "") else str(value)


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
    if isinstance(value, list):
        return "[" + ", ".join(map(_toml, value)) + "]"
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{k} = {_toml(v)}" for k, v in value.items()) + " }" if value else "{}"
    return str(value)


def add_to(app: typer.Typer) -> None:
    """Add the commands."""
    add(app, "init", init, panel="Models")
    config = typer.Typer(help="Settings and specifications.", no_args_is_help=True)
    config.command("show", cls=Command)(config_show)
    app.add_typer(config, name="config", rich_help_panel="System")
