"""What monitoring knows of the registry: plans of every registered version, as of any epoch."""

from __future__ import annotations

import logging
import threading
import time
from bisect import bisect_right, insort
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from itertools import accumulate
from typing import Any, Final

from agents.access.signatures import CommandSigner
from agents.artifacts import ArtifactStore
from agents.subjects.keys import SubjectKeys
from agents.subjects.opening import Opened, opened_records
from agents.subjects.sealing import Rule
from agents.subjects.sending import refused
from schemas.codec import cloudevent_headers, decode, derived_id, encode, utc
from schemas.errors import BrokerError, StateError
from schemas.events import ModelState, ObserveVersion, VersionState
from schemas.reference import ReferenceStatistics
from schemas.specification import Specification, parse
from schemas.topics import MOST_EXTERNAL_VERSIONS, REGISTRY_COMMANDS, REGISTRY_STATE
from streams.detectors import EQUIPMENT
from streams.estimate.estimates import DESK
from streams.join.batch import VersionsMovedError
from streams.kafka.config import KafkaConfig
from streams.kafka.producer import EventProducer
from streams.kafka.reader import Tail
from streams.kafka.records import Record
from streams.panes import PanePlan
from streams.windows import Frame

DEFAULT_LABEL_HORIZON_MS = 7 * 86_400_000
"""How long labels wait for predictions while no model is registered."""
MOST_FILLED: Final = 256
"""Plans that are kept whole: compiling, closing a window and odd records need more than a `LightPlan` keeps."""
MOST_SPECIFICATIONS: Final = 256
"""Specifications that stay parsed."""
NUMBER_WAIT_S: Final = 120.0
"""Longest that a batch waits for the number of a version that has just appeared; the group waits for 300 s."""
_LOOK_S: Final = 0.05
_log = logging.getLogger("driftline.monitoring")


class LightPlan(PanePlan):
    """A plan that keeps the little that is asked for all the time, and gives the rest back.

    Parameters
    ----------
    load : callable
        Brings specification and reference statistics, every time they are asked for.
    filled : FilledPlans
        The plans that are whole at the moment.

    Notes
    -----
    A whole plan of twenty features with its reference takes 150 kB, and there may be tens of thousands of versions. The
    native core keeps its own compact copy; what is left for Python are closings, provisional windows and odd records.
    Attributes that were given back come again when they are asked for. Safe to share between threads: what comes again
    equals what was there.
    """

    def __init__(self, load: Callable[[], tuple[Specification, ReferenceStatistics]], filled: FilledPlans) -> None:
        self._load = load
        self._filled = filled
        spec, reference = load()
        super().__init__(spec, reference)
        self.frame = filled.frames.setdefault(frame := Frame.of(self), frame)
        filled.add(self)

    def __getattr__(self, name: str) -> Any:
        """What was given back."""
        if name not in _GIVEN_BACK:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        whole = vars(PanePlan(*self._load()))
        vars(self).update(whole)
        self._filled.add(self)
        return whole[name]

    def give_back(self) -> None:
        """Keep what is small."""
        for name in (*_GIVEN_BACK, EQUIPMENT, DESK):
            vars(self).pop(name, None)


_GIVEN_BACK: Final = frozenset(
    {
        *("spec", "reference", "classes", "class_index", "class_by_value", "score_edges", "label_edges", "slots"),
        *("features", "_at", "_edges", "_categorical", "_numeric", "_in_segments"),
    }
)


class FilledPlans:
    """The plans that are whole, a bounded number; the one that was filled first is the first to give back.

    Parameters
    ----------
    most : int

    Attributes
    ----------
    frames : dict
        One of each; many plans share it.
    """

    def __init__(self, most: int) -> None:
        self.frames: dict[Frame, Frame] = {}
        self._most = most
        self._plans: deque[LightPlan] = deque()
        self._lock = threading.Lock()

    def add(self, plan: LightPlan) -> None:
        """A plan has been filled."""
        with self._lock:
            self._plans.append(plan)
            if len(self._plans) > self._most:
                self._plans.popleft().give_back()


class RegistryView:
    """Follows `registry-state`; compiles a version's plan when it is first asked for.

    Parameters
    ----------
    kafka : KafkaConfig
    artifacts : ArtifactStore
        Holds specifications and reference statistics.
    timeout_s : float
        Longest to wait for the topic's end.
    stop : threading.Event, optional
        Ends waiting for the number of a version.
    signer : CommandSigner, optional
        Signs what the registry is asked; without it the registry refuses to be asked.
    keys : SubjectKeys, optional
        Opens what was sealed under the keys of people; without it those features count as missing.

    Notes
    -----
    Versions are immutable and never taken away, so what is known stays known. Safe to share between threads.
    """

    def __init__(
        self,
        kafka: KafkaConfig,
        artifacts: ArtifactStore,
        *,
        timeout_s: float = 30.0,
        stop: threading.Event | None = None,
        signer: CommandSigner | None = None,
        keys: SubjectKeys | None = None,
    ) -> None:
        self._kafka = kafka
        self._keys = keys
        self._private = False
        self._rules: dict[str, tuple[int, Rule | None]] = {}
        self._signer = signer
        self._artifacts = artifacts
        self._timeout_s = timeout_s
        self._stop = stop or threading.Event()
        self._models: dict[str, bool] = {}
        self._numbers: dict[tuple[str, str], list[tuple[int, int]]] = {}
        self._names: dict[str, int] = {}
        self._moved_epoch = 0
        self._lock = threading.RLock()
        self._versions: dict[tuple[str, int], VersionState] = {}
        self._specs: OrderedDict[str, Specification] = OrderedDict()
        self._plans: dict[tuple[str, int], PanePlan] = {}
        self._by_content: dict[tuple[str, str], PanePlan] = {}
        self._filled = FilledPlans(MOST_FILLED)
        self._horizons: list[tuple[int, int]] = []
        self._longest: list[int] = []
        self._needed_ms = 0
        self._epoch = 0
        self._tail = Tail(kafka, [REGISTRY_STATE], from_beginning=True)
        self.refresh()

    # ------------------------------------------------------------------------------------------ following

    def refresh(self) -> None:
        """Read `registry-state` to its end as of now.

        Raises
        ------
        BrokerError
            The end was not reached in time.
        ArtifactError
            A specification is missing or altered.
        """
        with self._lock:
            self._take(self._tail.read_to_end(self._timeout_s))

    def close(self) -> None:
        """Let go of the connection."""
        with self._lock:
            self._tail.close()

    def _take(self, records: list[Record]) -> None:
        for record in records:
            if record.value is None:
                continue
            state = decode(record.value, ModelState)
            self._models[state.model] = state.monitored
            for version in state.versions:
                if (state.model, version.version) not in self._versions:
                    self._versions[state.model, version.version] = version
                    self._name(state.model, version)
                    spec = self._specification(version.specification)
                    insort(self._horizons, (version.registered_epoch, spec.revision_horizon_ms))
                    self._private = self._private or spec.data.subject is not None
                    self._rule(state.model, version.version, spec)
                    self._needed_ms = max(self._needed_ms, spec.max_label_delay_ms + spec.revision_horizon_ms)
            self._epoch = max(self._epoch, state.epoch)
        self._longest = list(accumulate((horizon for _, horizon in self._horizons), max))

    def _rule(self, model: str, version: int, spec: Specification) -> None:
        """The newest version says what is personal."""
        rule = Rule.of(spec)
        known = self._rules.get(model)
        if (rule is not None or known is not None) and (known is None or version > known[0]):
            self._rules[model] = (version, rule)

    def _name(self, model: str, version: VersionState) -> None:
        if version.external is None:
            return
        known = self._numbers.get((model, version.external))
        if known is None:
            known = self._numbers[model, version.external] = []
            self._names[model] = self._names.get(model, 0) + 1
        else:
            self._moved_epoch = max(self._moved_epoch, version.registered_epoch)
        insort(known, (version.registered_epoch, version.version))

    def _specification(self, sha: str) -> Specification:
        found = self._specs.get(sha)
        if found is None:
            found = self._specs[sha] = parse(self._artifacts.get(sha).decode(), file=f"specification {sha[:12]}")
            if len(self._specs) > MOST_SPECIFICATIONS:
                self._specs.popitem(last=False)
        return found

    # -------------------------------------------------------------------------------------------- asking

    @property
    def epoch(self) -> int:
        """Newest epoch seen."""
        return self._epoch

    @property
    def private(self) -> bool:
        """Whether a specification names a subject, and what is sealed can be opened."""
        return self._private and self._keys is not None

    def opened(
        self, records: Sequence[Record], originals: dict[int, Record], told: list[Opened] | None = None
    ) -> Sequence[Record]:
        """Predictions of one partition with what is sealed in them opened; see `agents.subjects.opening`.

        Raises
        ------
        DatabaseUnavailableError
        """
        return opened_records(self._keys, records, originals, told) if self._private and self._keys else records

    def hidden(self, record: Record) -> tuple[Record, bool]:
        """A prediction that was refused as it may be passed on, and whether its bytes have to be withheld.

        Raises
        ------
        DatabaseUnavailableError
        """
        if self._keys is None or not self._private:
            return record, False
        return refused(
            record, {model: rule for model, (_, rule) in self._rules.items() if rule}, self._models, self._keys
        )

    def erasures(self) -> int:
        """As `SubjectKeys.erasures`, where `private` holds. Raises `DatabaseUnavailableError`."""
        assert self._keys is not None
        return self._keys.erasures()

    def gone(self, keys: Iterable[bytes]) -> set[bytes]:
        """Those of some keys whose subjects were erased, where `private` holds. Raises `DatabaseUnavailableError`."""
        assert self._keys is not None
        return {id for id, key in self._keys.of_ids(keys).items() if key is None}

    @property
    def needed_retention_ms(self) -> int:
        """Longest max_label_delay + revision_horizon of any version."""
        return self._needed_ms

    def newest_versions(self) -> dict[str, int]:
        """The newest version of every registered model."""
        with self._lock:
            newest: dict[str, int] = {}
            for model, version in self._versions:
                newest[model] = max(version, newest.get(model, 0))
            return newest

    def spec(self, model: str, version: int) -> Specification | None:
        """Specification of a version; None: not registered as far as seen."""
        with self._lock:
            state = self._versions.get((model, version))
            return None if state is None else self._specification(state.specification)

    def plan(self, model: str, version: int) -> PanePlan | None:
        """Plan of a version; None: not registered as far as seen.

        Raises
        ------
        ArtifactError
            Its specification or reference is missing or altered.
        """
        key = (model, version)
        plan = self._plans.get(key)
        if plan is not None:
            return plan
        with self._lock:
            state = self._versions.get(key)
            if state is None:
                return None
            content = (state.specification, state.reference)
            plan = self._by_content.get(content)
            if plan is None:
                plan = self._by_content[content] = LightPlan(partial(self._contents, *content), self._filled)
            self._plans[key] = plan
            return plan

    def _contents(self, specification: str, reference: str) -> tuple[Specification, ReferenceStatistics]:
        with self._lock:
            return self._specification(specification), decode(self._artifacts.get(reference), ReferenceStatistics)

    def plan_or_refresh(self, model: str, version: int) -> PanePlan | None:
        """As `plan`, looking again before it says None."""
        plan = self.plan(model, version)
        if plan is None:
            self.refresh()
            plan = self.plan(model, version)
        return plan

    def label_horizon_ms(self, epoch: int) -> int:
        """Longest revision_horizon of the versions registered up to `epoch`."""
        with self._lock:
            until = bisect_right(self._horizons, epoch, key=lambda item: item[0])
            return self._longest[until - 1] if until else DEFAULT_LABEL_HORIZON_MS

    def watched(self, model: str) -> bool | None:
        """Whether a model is served elsewhere; None: not registered as far as seen."""
        return self._models.get(model)

    @property
    def moved_epoch(self) -> int:
        """Newest epoch at which a name that had a number got another."""
        return self._moved_epoch

    def numbers(self, model: str, external: str, epoch: int) -> list[int]:
        """Numbers of a watched model's version at `epoch`, the newest last."""
        with self._lock:
            return [number for since, number in self._numbers.get((model, external), ()) if since <= epoch]

    def await_number(self, model: str, external: str, event_time_ms: int) -> bool:
        """Have the registry give a version its number, and wait for it; false where it gives out no more.

        Raises
        ------
        StateError
            The registry agent has not answered in time. Nothing is lost: the batch comes again.
        BrokerError
            The worker is to stop.

        Notes
        -----
        Called while a batch is computed: no transaction is open then, and the group's heartbeats go on.
        """
        deadline = time.monotonic() + NUMBER_WAIT_S
        asked = False
        while not self.numbers(model, external, self._epoch):
            if self._names.get(model, 0) >= MOST_EXTERNAL_VERSIONS:
                return False
            if not asked:
                asked = True
                self._ask_number(model, external, event_time_ms)
            if self._stop.wait(_LOOK_S):
                raise BrokerError(f"stopped while version {external!r} of {model} waited for its number")
            if time.monotonic() > deadline:
                raise StateError(
                    f"the registry has given version {external!r} no number within {NUMBER_WAIT_S:g} s",
                    where=f"model {model}",
                    remedy="is the registry agent running? See `driftline status`; monitoring tries again by itself",
                )
            self.refresh()
        return True

    def _ask_number(self, model: str, external: str, event_time_ms: int) -> None:
        _log.info("version %r of %s is new: asking the registry for its number", external, model)
        command = ObserveVersion(
            # Every worker that sees it says the same; one of another start says it anew, should it have been lost.
            command_id=derived_id("observe", model, external, self._epoch),
            model=model,
            actor="monitoring",
            external=external,
            at=utc(event_time_ms),
        )
        headers = cloudevent_headers(
            command, event_id=command.command_id, source="/driftline/monitoring", at=command.at
        )
        value = encode(command)
        if self._signer is not None:
            headers += self._signer.headers(model.encode(), value)
        with EventProducer(self._kafka) as producer:
            producer.send(REGISTRY_COMMANDS, value, model.encode(), headers)

    def registered_by(self, model: str, version: int, epoch: int) -> bool:
        """Whether a version was registered at `epoch`."""
        state = self._versions.get((model, version))
        return state is not None and state.registered_epoch <= epoch

    def as_of(self, epoch: int) -> EpochView:
        """The registry as it was at `epoch`; nothing later is known to it."""
        return EpochView(self, epoch)

    def for_batch(self) -> Callable[[], BatchView]:
        """Makes the views of one batch, one a partition: together they look again once if a version is unknown."""
        return partial(BatchView, self, Once(self.refresh))


class EpochView:
    """The registry as of one epoch (`streams.join.partition.PlanView`)."""

    def __init__(self, registry: RegistryView, epoch: int) -> None:
        self._registry = registry
        self.epoch = epoch
        self.label_horizon_ms = registry.label_horizon_ms(epoch)

    def plan(self, model: str, version: int) -> PanePlan | None:
        """Plan of a version that was registered by then."""
        if not self._registry.registered_by(model, version, self.epoch):
            return None
        return self._registry.plan(model, version)

    def watched(self, model: str) -> bool:
        """Whether the model is served elsewhere; that never changes, so it needs no epoch."""
        return bool(self._registry.watched(model))

    def numbers(self, model: str, version: int | str, event_time_ms: int) -> Sequence[int]:
        """Numbers that the version had by then, the newest last."""
        del event_time_ms
        return self._registry.numbers(model, str(version), self.epoch)


class Once:
    """Calls `do` the first time; whoever comes meanwhile waits until it is done.

    Parameters
    ----------
    do : callable
    """

    def __init__(self, do: Callable[[], None]) -> None:
        self._do = do
        self._lock = threading.Lock()
        self._done = False

    def __call__(self) -> None:
        """Be sure that it was called."""
        with self._lock:
            if not self._done:
                self._do()
                self._done = True


class BatchView:
    """The registry during one batch of one partition (`streams.join.partition.PlanView`).

    Parameters
    ----------
    registry : RegistryView
    look_again : callable
        Brings the registry up to date, at most once a batch.

    Notes
    -----
    The epoch is pinned. It moves on only where a version is unknown at it and the topic, read to its end, knows it;
    what was decided before stays right, because everything decided before was known. That holds for one partition,
    whose journal says the epoch: partitions that are joined at the same time have views of their own.
    """

    def __init__(self, registry: RegistryView, look_again: Callable[[], None]) -> None:
        self._registry = registry
        self._look_again = look_again
        self._refreshed = False
        self._at = registry.as_of(registry.epoch)
        self._find: Callable[[str, int], PanePlan | None] = self._at.plan

    @property
    def epoch(self) -> int:
        """Epoch of what was decided so far."""
        return self._at.epoch

    @property
    def label_horizon_ms(self) -> int:
        """Longest revision_horizon as of the epoch."""
        return self._at.label_horizon_ms

    def plan(self, model: str, version: int) -> PanePlan | None:
        """Plan of a version, looking again once a batch."""
        plan = self._find(model, version)
        if plan is None and not self._refreshed:
            self._follow()
            plan = self._find(model, version)
        return plan

    def watched(self, model: str) -> bool:
        """Whether the model is served elsewhere, looking again once a batch where it is not known."""
        found = self._registry.watched(model)
        if found is None and not self._refreshed:
            self._follow()
            found = self._registry.watched(model)
        return bool(found)

    def numbers(self, model: str, version: int | str, event_time_ms: int) -> Sequence[int]:
        """Numbers of a watched model's version, the newest last; one that has none is given one first."""
        found = self._at.numbers(model, version, event_time_ms)
        if not found and self._registry.await_number(model, str(version), event_time_ms):
            # Other models may have been registered meanwhile, and their predictions have been skipped in this batch.
            raise VersionsMovedError
        return found

    def number(self, model: str, version: int | str) -> int | None:
        """Number of a version as predictions name it; None where it has none as of the epoch."""
        if self._registry.watched(model):
            return next(reversed(self._registry.numbers(model, str(version), self.epoch)), None)
        return (
            version if isinstance(version, int) and self._registry.registered_by(model, version, self.epoch) else None
        )

    def _follow(self) -> None:
        """Move on to what is registered now."""
        before = self._at.epoch
        self._refreshed = True
        self._look_again()
        if self._registry.moved_epoch > before:
            # Some predictions of this batch were counted under the numbers of before.
            raise VersionsMovedError
        self._at = self._registry.as_of(self._registry.epoch)
        self._find = self._at.plan
