"""Every error that Driftline raises on purpose.

::

    DriftlineError
    ├── ConfigurationError        a setting, a specification or a project is wrong: mend it and start again
    │   ├── SpecificationError    driftline.toml: names file, key and accepted values
    │   ├── ProjectError          pipeline.py: names file and line
    │   └── UnsafeSettingError    a setting that would weaken security was not asked for explicitly
    ├── DecodeError               bytes on a topic are not what the topic carries: dead letter
    ├── BrokerError               the broker did not do what was asked
    │   ├── BrokerUnreachableError
    │   ├── TopicError            a topic is missing or has the wrong shape (partitions, retention)
    │   ├── FencedError           another worker took over: this one must end
    │   └── RetentionPassedError  records that live state needs are gone
    ├── StateError                local state cannot be used (foreign, ahead of the log, other partition count)
    ├── RegistryError
    │   ├── NotFoundError         no such model, version, run …
    │   ├── ConflictError         a compare-and-set lost: somebody else was first
    │   ├── TransitionError       the state machine does not allow this step
    │   └── DatabaseUnavailableError
    ├── AccessError               who asks may not
    │   ├── UnauthenticatedError  no key, or not a valid one
    │   ├── ForbiddenError        the key is valid, the right is missing: says which one
    │   └── ThrottledError        too many failed attempts: says how long to wait
    ├── ArtifactError             an artifact is missing, altered, unsigned or unsafe
    └── TrainingError             a pipeline step failed or returned something unusable
"""

from __future__ import annotations


class DriftlineError(Exception):
    """Root of the tree.

    Parameters
    ----------
    what : str
        What went wrong, in one sentence.
    where : str, optional
        File and line, topic and offset, or setting.
    remedy : str, optional
        What the reader can do about it.
    """

    exit_code = 1

    def __init__(self, what: str, *, where: str = "", remedy: str = "") -> None:
        self.what = what
        self.where = where
        self.remedy = remedy
        super().__init__(what)

    def __str__(self) -> str:
        text = f"{self.where}: {self.what}" if self.where else self.what
        return f"{text}\n  → {self.remedy}" if self.remedy else text


class ConfigurationError(DriftlineError):
    """A setting, a specification or a project is wrong."""

    exit_code = 2


class SpecificationError(ConfigurationError):
    """`driftline.toml` is wrong; `where` names file and key."""


class ProjectError(ConfigurationError):
    """`pipeline.py` is wrong; `where` names file and line."""


class UnsafeSettingError(ConfigurationError):
    """A setting would weaken security without being asked for explicitly."""


class DecodeError(DriftlineError):
    """Bytes on a topic are not what the topic carries.

    Parameters
    ----------
    what : str
        The reason as it will stand in the dead letter.
    reason : str
        Short machine-readable reason: ``malformed-json``, ``schema``, ``not-finite``, ``oversize``,
        ``unknown-schema-version`` …
    """

    def __init__(self, what: str, *, reason: str = "schema", where: str = "", remedy: str = "") -> None:
        super().__init__(what, where=where, remedy=remedy)
        self.reason = reason


class BrokerError(DriftlineError):
    """The broker did not do what was asked."""

    exit_code = 3


class BrokerUnreachableError(BrokerError):
    """No broker answers at the address tried."""


class TopicError(BrokerError):
    """A topic is missing or has the wrong shape."""


class FencedError(BrokerError):
    """Another worker holds this one's transactional id or partitions; this process must end."""


class RetentionPassedError(BrokerError):
    """Records that live state still needs were deleted by retention."""


class StateError(DriftlineError):
    """Local state cannot be used."""


class RegistryError(DriftlineError):
    """The registry refused."""


class NotFoundError(RegistryError):
    """No such model, version, run or incident."""


class ConflictError(RegistryError):
    """A compare-and-set lost: the record changed since it was read."""


class TransitionError(RegistryError):
    """The state machine does not allow this step."""


class DatabaseUnavailableError(RegistryError):
    """The registry's database does not answer."""


class AccessError(DriftlineError):
    """Who asks may not."""

    exit_code = 4


class UnauthenticatedError(AccessError):
    """No key, or not a valid one."""


class ForbiddenError(AccessError):
    """The key is valid, the right is missing; the message says which one."""


class ThrottledError(AccessError):
    """Too many failed attempts.

    Parameters
    ----------
    what : str
    wait_s : float
        Seconds until the next attempt is looked at.
    """

    def __init__(self, what: str, *, wait_s: float, where: str = "", remedy: str = "") -> None:
        super().__init__(what, where=where, remedy=remedy)
        self.wait_s = wait_s


class ArtifactError(DriftlineError):
    """An artifact is missing, altered, unsigned or unsafe."""


class TrainingError(DriftlineError):
    """A pipeline step failed or returned something unusable."""
