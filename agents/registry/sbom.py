"""The packages of a version as a CycloneDX 1.6 bill of materials, in JSON. Pure: the same lock gives the same bytes.

References
----------
https://cyclonedx.org/docs/1.6/json/ ; package URLs: https://github.com/package-url/purl-spec
"""

from __future__ import annotations

import uuid
from typing import Any

from agents.registry.views import VersionInfo
from agents.retraining.lock import Lock, Package

_NAMESPACE = uuid.UUID("6f1f7f0a-5a0e-5f0e-9d53-2c1f6f0f9a11")


def sbom(info: VersionInfo, lock: Lock) -> dict[str, Any]:
    """The bill of materials of a version: the model, the interpreter, and every package it was trained with."""
    model = f"model:{info.model}@{info.version}"
    python = f"python@{lock.python}"
    return {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{uuid.uuid5(_NAMESPACE, f'{info.model}/{info.version}/{info.artifact}')}",
        "version": 1,
        "metadata": {
            "timestamp": info.registered_at.strftime("%Y-%m-%dT%H:%M:%SZ"),
            "tools": {"components": [{"type": "application", "name": "driftline", "version": lock.driftline or "0"}]},
            "component": {
                "type": "machine-learning-model",
                "bom-ref": model,
                "name": info.model,
                "version": str(info.version),
                "hashes": [{"alg": "SHA-256", "content": info.artifact}],
            },
            "properties": [
                {"name": f"driftline:{name}", "value": getattr(lock, name)}
                for name in ("system", "machine", "libc", "abi")
            ],
        },
        "components": [
            {"type": "platform", "bom-ref": python, "name": lock.implementation, "version": lock.python},
            *map(_component, lock.packages),
        ],
        "dependencies": [
            {"ref": model, "dependsOn": [python, *(_purl(one) for one in lock.packages)]},
            *(
                {"ref": _purl(one), "dependsOn": [_purl(need) for need in lock.packages if need.name in one.requires]}
                for one in lock.packages
            ),
        ],
    }


def _component(one: Package) -> dict[str, Any]:
    found: dict[str, Any] = {
        "type": "library",
        "bom-ref": _purl(one),
        "name": one.name,
        "version": one.version,
        "purl": _purl(one),
    }
    if one.license:
        found["licenses"] = [{"license": {"name": one.license}}]
    if one.content:
        found["properties"] = [{"name": "driftline:installed-files-sha256", "value": one.content}]
    return found


def _purl(one: Package) -> str:
    return f"pkg:pypi/{one.name}@{one.version.replace('+', '%2B')}"
