"""Taking a dead worker out of its consumer group, so that its successor need not wait for its session to end.

The broker hands a member's partitions on when the member leaves or has been silent for ``session.timeout.ms``. A worker
that was killed cannot leave; but whoever follows it under its transactional id has fenced it for good and may leave in
its name. librdkafka has no call for that, so the request goes out through aiokafka.
"""

from __future__ import annotations

import asyncio
import logging

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from schemas.errors import UnsafeSettingError
from streams.kafka.config import KafkaConfig
from streams.kafka.security import security

log = logging.getLogger(__name__)

_TIMEOUT_S = 5.0


def remove_former(config: KafkaConfig, group: str, client_id: str) -> int:
    """Remove the members of `group` (without prefix) that call themselves `client_id`; how many there were.

    Notes
    -----
    Only for a `client_id` whose owner cannot commit any more: its transactional id was taken over. A member that lives
    all the same joins again and ends at its next commit.

    A shortcut, never a condition: where it fails (refused, no answer in 5 s, a security mechanism that only librdkafka
    speaks) the log says so, and the broker removes the members when their sessions end. Needs what consuming needs:
    READ on the group.
    """
    try:
        former = _members(config, group, client_id)
        if not former:
            return 0
        return asyncio.run(asyncio.wait_for(_remove(config, config.group(group), client_id, former), _TIMEOUT_S))
    except (KafkaException, RuntimeError, OSError, TimeoutError, UnsafeSettingError) as error:
        # aiokafka's errors are RuntimeErrors.
        log.info("group %s: a former worker's session may have to end first: %r", group, error)
        return 0


def _members(config: KafkaConfig, group: str, client_id: str) -> list[str]:
    """Ids of the group's members of that name; none on a broker on which no group was ever at work."""
    # The old request on purpose: those that ask for a group's coordinator crashed the library on young brokers.
    found = AdminClient(config.common()).list_groups(config.group(group), timeout=_TIMEOUT_S)
    return [str(member.id) for described in found for member in described.members if member.client_id == client_id]


async def _remove(config: KafkaConfig, group: str, client_id: str, former: list[str]) -> int:
    # Loaded only where there is somebody to remove: it takes as long as the rest of a worker's start together.
    from aiokafka.client import AIOKafkaClient
    from aiokafka.errors import for_code
    from aiokafka.protocol.group import LeaveGroupRequest

    access = security(config.properties)
    client = AIOKafkaClient(
        bootstrap_servers=config.bootstrap_servers,
        client_id=client_id,
        security_protocol=access.protocol,
        ssl_context=access.context,
        sasl_mechanism=access.mechanism or "PLAIN",
        sasl_plain_username=access.username,
        sasl_plain_password=access.password,
    )
    try:
        await client.bootstrap()
        coordinator = await client.coordinator_lookup(0, group)
        for member_id in former:
            answer = await client.send(coordinator, LeaveGroupRequest(group, member_id))
            if answer.error_code:
                raise for_code(answer.error_code)()
            log.info("group %s: the former member %s was removed", group, member_id)
        return len(former)
    finally:
        await client.close()
