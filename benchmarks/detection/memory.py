"""What contenders found on streams, kept: a run that was stopped goes on, and runs of parts add up to the whole."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.detection.contenders.base import Alarms, Contender, Scored, beyond
from benchmarks.detection.streams.base import Stream

_TOGETHER = 5
"""Streams that a contender is given at once: what is lost when the run is stopped."""


class Memory:
    """Answers by key, in one file of lines a contender below `folder`; without a folder, as long as the process lives.

    Parameters
    ----------
    folder : Path, optional
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder
        self._known: dict[str, dict[str, Any]] = {}
        self._digests: dict[int, tuple[Stream, str]] = {}

    def of(self, name: str) -> dict[str, Any]:
        """What is known of a contender."""
        if name not in self._known:
            known = self._known[name] = {}
            path = self._path(name)
            for line in path.read_text(encoding="utf-8").splitlines() if path is not None and path.exists() else ():
                try:
                    key, answer = json.loads(line)
                except ValueError:
                    continue  # empty, or being written when the run was stopped
                known[key] = answer
        return self._known[name]

    def keep(self, name: str, answers: Mapping[str, Any]) -> None:
        """Add answers of a contender."""
        self.of(name).update(answers)
        path = self._path(name)
        if path is None:
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8") as file:
            # The line break comes first: it also ends what a stopped run left half written.
            file.writelines(f"\n{json.dumps(pair)}" for pair in answers.items())

    def _path(self, name: str) -> Path | None:
        return None if self._folder is None else self._folder / f"{name}.jsonl"

    def digest(self, stream: Stream) -> str:
        """Digest of all rows of a stream and of where its reference ends; computed once."""
        if id(stream) not in self._digests:
            whole = hashlib.sha256(f"{len(stream.reference)}".encode())
            for rows in (*stream.reference, *stream.live):
                for column in (rows.score, rows.label, rows.temperature):
                    whole.update(np.ascontiguousarray(column).tobytes())
                whole.update("\0".join(map(str, rows.kind)).encode())
                whole.update(b"\1")
            # With the stream, so that no other can get its id.
            self._digests[id(stream)] = (stream, whole.hexdigest()[:24])
        return self._digests[id(stream)][1]


class Remembered:
    """A contender that is asked once: by its version, its code, the stream's rows and, where it counts, the setting.

    Parameters
    ----------
    contender : Contender
    memory : Memory
    """

    def __init__(self, contender: Contender, memory: Memory) -> None:
        self._contender = contender
        self._memory = memory
        self._tag = ""
        self.name, self.knob = contender.name, contender.knob
        self.default, self.shy, self.eager = contender.default, contender.shy, contender.eager
        self.costly = contender.costly

    def prepare(self, cache: Path) -> str:
        """As the contender's."""
        version = self._contender.prepare(cache)
        self._tag = f"{version} {code(self.code())}"
        return version

    def code(self) -> Sequence[Path]:
        """As the contender's."""
        return self._contender.code()

    def alarms(self, streams: Sequence[Stream], setting: float) -> list[Alarms]:
        """As the contender's."""
        contender = self._contender
        if isinstance(contender, Scored):
            scores = self._asked(streams, "scores", contender.scores)
            return [beyond(own, setting) for own in scores]
        return self._asked(streams, f"{setting:.9g}", lambda some: contender.alarms(some, setting))

    def about(self) -> Mapping[str, object]:
        """As the contender's, when it last answered."""
        known: Mapping[str, object] = self._memory.of(self._contender.name).get(f"{self._tag} about", {})
        return {**self._contender.about(), **known}

    def _asked(self, streams: Sequence[Stream], what: str, ask: Callable[[Sequence[Stream]], list[Any]]) -> list[Any]:
        name, known = self._contender.name, self._memory.of(self._contender.name)
        keys = [f"{self._tag} {what} {self._memory.digest(stream)}" for stream in streams]
        fresh = [at for at, key in enumerate(keys) if key not in known]
        for first in range(0, len(fresh), _TOGETHER):
            some = fresh[first : first + _TOGETHER]
            answers = ask([streams[at] for at in some])
            told = {keys[at]: answer for at, answer in zip(some, answers, strict=True)}
            self._memory.keep(name, {**told, f"{self._tag} about": dict(self._contender.about())})
        return [known[key] for key in keys]


def code(paths: Sequence[Path]) -> str:
    """Digest of the sources that answers depend on."""
    whole = hashlib.sha256()
    for path in paths:
        for source in sorted(path.rglob("*.py")) if path.is_dir() else [path]:
            whole.update(source.read_bytes())
    return whole.hexdigest()[:12]
