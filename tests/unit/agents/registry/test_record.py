"""The papers of a version: record, model card, bill of materials."""

from __future__ import annotations

import json
import subprocess
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest
import yaml

from agents.artifacts import ArtifactStore
from agents.config import load_settings
from agents.database.engine import make_engine, session_factory
from agents.registry import flags, record
from agents.registry.card import bars
from agents.registry.change import Change
from agents.registry.service import Registry
from agents.registry.tables import VersionRow
from agents.retraining.packing import unpack
from agents.retraining.register import register_project
from schemas.errors import NotFoundError
from tests.unit.agents.retraining.projects import SPEC, write_project
from tests.unit.agents.retraining.tables import toy_table

TAGGED = SPEC.replace(
    'task = "binary"',
    'task = "binary"\nallowed_types = ["own_models.Own"]\nowner = "ann"\nteam = "coins"\n'
    'tags = { tier = "a|b: \\"c\\"" }\ndescription = "Heads?"',
)


def git(folder: Path, *arguments: str) -> None:
    subprocess.run(["git", "-c", "user.name=a", "-c", "user.email=a@b", *arguments], cwd=folder, check=True)


def test_the_papers_of_a_version(tmp_path: Path) -> None:
    settings = load_settings(home=tmp_path / "home", artifacts_url="", database_url="", archive_url="")
    table = tmp_path / "table.parquet"
    toy_table(20).to_parquet(table, index=False)
    project = write_project(tmp_path / "p", spec=TAGGED)
    git(project, "init", "-q")
    git(project, "add", ".")
    git(project, "commit", "-qm", "first")
    (project / "pipeline.py").write_text((project / "pipeline.py").read_text() + "\n# not committed\n")
    (project / "new.txt").write_text("not even known to git\n")
    done = register_project(settings, None, project, table, actor="ada")
    assert done["decision"] == "awaiting-approval"
    assert "its file may hold own_models.Own: somebody has to agree to that" in done["reason"]
    sessions = session_factory(make_engine(settings.database))
    registry = Registry(sessions, ArtifactStore.of(settings))
    with sessions.begin() as session:
        flags.flag(Change.of(session, "toy", registry.now()), 1, "bea", "labels leaked")
    with sessions() as session:
        found = record.record(registry, session, "toy", 1)
        papers = record.files(registry, session, "toy", 1)

    assert [event["action"] for event in found.history] == [
        *("VersionRegistered", "VersionValidated", "ApprovalRequested", "VersionFlagged"),
    ]
    assert found.version.code["commit"].endswith("-dirty")
    diff = papers["dirty.diff"].decode()
    assert "+# not committed" in diff
    assert "+not even known to git" in diff
    unpack(papers["code.tar"], tmp_path / "out")
    assert (tmp_path / "out" / "new.txt").exists()

    _, front, body = papers["README.md"].decode().split("---\n", 2)
    about = yaml.safe_load(front)
    assert about["pipeline_tag"] == "tabular-classification"
    assert about["library_name"] == "sklearn"
    assert 'tier=a|b: "c"' in about["tags"]
    (results,) = about["model-index"][0]["results"]
    measured = {one["type"]: one["value"] for one in results["metrics"]}
    assert measured == found.version.report["metrics"]["candidate"]
    assert "Heads?" in body
    assert "| Team | coins |" in body
    assert "| May hold | `own_models.Own` |" in body
    assert "| Flagged | is flagged faulty: labels leaked (bea) |" in body
    assert "By `region`:" in body
    for name in ("plots/importances.svg", "plots/scores.svg"):
        assert f"]({name})" in body
        ET.fromstring(papers[name])

    bill = json.loads(papers["sbom.cdx.json"])
    assert (bill["bomFormat"], bill["specVersion"]) == ("CycloneDX", "1.6")
    assert found.lock is not None
    references = {one["bom-ref"] for one in bill["components"]}
    assert len(references) == len(bill["components"]) == len(found.lock.packages) + 1
    assert f"pkg:pypi/scikit-learn@{found.version.environment['scikit-learn']}" in references
    needed = {ref for one in bill["dependencies"] for ref in one["dependsOn"]}
    assert needed <= references
    sklearn = next(one for one in bill["dependencies"] if one["ref"].startswith("pkg:pypi/scikit-learn@"))
    assert any(ref.startswith("pkg:pypi/numpy@") for ref in sklearn["dependsOn"])
    assert schema_problem(bill) is None
    for spoilt in ({"specVersion": "1.6", "bomFormat": "Another"}, {"components": [{"name": "no type"}]}, {"more": 1}):
        assert schema_problem({**bill, **spoilt}) is not None
    with sessions() as session:
        assert record.bill(registry, session, "toy", 1) == bill

    with sessions.begin() as session:
        row = session.query(VersionRow).one()
        row.environment = {name: value for name, value in row.environment.items() if name != "lock"}
    with sessions() as session:
        assert "sbom.cdx.json" not in record.files(registry, session, "toy", 1)
        with pytest.raises(NotFoundError, match="records no lock"):
            record.bill(registry, session, "toy", 1)


def schema_problem(bill: dict[str, Any]) -> object:
    """What CycloneDX's own JSON schema, as cyclonedx-python-lib carries it, says of a document; None: nothing."""
    # Its checks of formats compile forty grammars when they load: in every process that collects the tests.
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    return JsonStrictValidator(SchemaVersion.V1_6).validate_str(json.dumps(bill))


def test_a_plot_of_strange_names_is_well_formed() -> None:
    root = ET.fromstring(bars("<&>", [('a"<b>', -1.0), ("c", 0.0)]))
    assert 'a"<b>' in [element.text for element in root.iter("{http://www.w3.org/2000/svg}text")]
    assert ET.fromstring(bars("none", [])) is not None
