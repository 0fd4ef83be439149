"""Commands of admins: who acts, and sessions that say so in the audit."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from agents.access.logic import Principal
    from agents.database.engine import Sessions


def admin(*, recover: bool = False) -> tuple[Sessions, Principal]:
    """Sessions, and the admin who acts.

    Parameters
    ----------
    recover : bool
        All admins' keys are lost: this account acts.

    Raises
    ------
    UnauthenticatedError, ForbiddenError
    """
    from agents.access.acting import account, acting
    from agents.access.logic import local_principal
    from agents.config import load_settings
    from agents.database.engine import session_factory
    from agents.database.migrate import migrated

    settings = load_settings()
    by = local_principal(account()) if recover else acting(settings, "admin", "*")
    engine = migrated(settings.database)
    return session_factory(engine, acts_for=by), by
