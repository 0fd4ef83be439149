"""What must be there before any agent runs: topics and tables. ``python -m agents.prepare`` does it once, by itself."""

from __future__ import annotations

import logging
import sys

from agents.config import Settings, load_settings
from agents.runtime import configure_log
from schemas.errors import DriftlineError

_log = logging.getLogger("driftline.prepare")


def migrate(settings: Settings) -> None:
    """Bring the database to this version's tables.

    Raises
    ------
    DatabaseUnavailableError
    """
    from agents.database.engine import make_engine
    from agents.database.migrate import upgrade

    engine = make_engine(settings.database)
    try:
        upgrade(engine)
    finally:
        engine.dispose()


def create_topics(settings: Settings) -> str:
    """Create the topics that are missing; returns the broker's address.

    Raises
    ------
    BrokerUnreachableError, TopicError
    """
    from agents.bootstrap import kafka_config
    from streams.kafka.admin import check_broker, ensure_topics

    kafka = kafka_config(settings)
    check_broker(kafka)
    created = ensure_topics(kafka, settings.partitions)
    _log.info("%s: %d topics created", kafka.bootstrap_servers, len(created))
    return kafka.bootstrap_servers


def main() -> int:
    """Prepare database and broker; the exit code."""
    settings = load_settings()
    configure_log(settings)
    try:
        migrate(settings)
        create_topics(settings)
    except DriftlineError as error:
        _log.error("%s", error)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
