"""The registry's benchmark on PostgreSQL."""

from __future__ import annotations

from benchmarks import registry
from tests.support.databases import EmbeddedPostgres


def test_the_questions_of_the_benchmark_are_answered_by_postgresql(postgres: EmbeddedPostgres) -> None:
    document = registry.run(
        models=100, versions=200, questions=1, registrations=1, swaps_each=0, database=postgres.fresh()
    )
    assert document["settings"]["database"] == "postgresql"
    assert document["settings"]["database_mib"] > 1
    assert {*registry.QUESTIONS, registry.REGISTER, "audit verify"} < {row["name"] for row in document["rows"]}
