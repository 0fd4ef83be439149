"""The partition store: atomic batches that survive a crash, one owner at a time."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.errors import StateError
from streams.state.store import PartitionStore

KEYS = st.binary(min_size=0, max_size=4)
BATCHES = st.lists(
    st.tuples(
        st.dictionaries(KEYS, st.binary(max_size=8)), st.lists(KEYS), st.dictionaries(st.sampled_from("ab"), KEYS)
    ),
    max_size=6,
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "partition-3"


@given(batches=BATCHES)
@settings(max_examples=40, deadline=None)
def test_holds_what_a_dictionary_holds(
    tmp_path_factory: pytest.TempPathFactory,
    batches: list[tuple[dict[bytes, bytes], list[bytes], dict[str, bytes]]],
) -> None:
    path = tmp_path_factory.mktemp("state")
    store, data, meta = PartitionStore(path), dict[bytes, bytes](), dict[str, bytes]()
    for puts, deletes, named in batches:
        store.write(puts, deletes, named)
        for key in deletes:
            data.pop(key, None)
        data |= puts
        meta |= named
    for _ in range(2):
        assert list(store.items()) == sorted(data.items())
        assert {name: store.meta(name) for name in "ab"} == {name: meta.get(name) for name in "ab"}
        assert all(store.get(key) == value for key, value in data.items())
        store.close()
        store = PartitionStore(path)  # once more from the disk
    store.destroy()
    assert not path.exists()


def test_metadata_and_data_of_the_same_name_are_two_things(path: Path) -> None:
    store = PartitionStore(path)
    store.write({b"offsets": b"data"}, meta={"offsets": b"meta"})
    assert (store.get(b"offsets"), store.meta("offsets")) == (b"data", b"meta")
    assert list(store.items()) == [(b"offsets", b"data")]
    store.close()


def test_one_owner_at_a_time(path: Path) -> None:
    store = PartitionStore(path)
    with pytest.raises(StateError, match="cannot be opened"):
        PartitionStore(path)
    store.close()
    PartitionStore(path).close()


def test_refuses_to_work_when_closed_and_closes_twice(path: Path) -> None:
    store = PartitionStore(path)
    store.close()
    store.close()
    with pytest.raises(StateError, match="closed"):
        store.get(b"a")


@pytest.mark.parametrize("size", [100, 100_000])
def test_a_kill_leaves_an_earlier_moment_whole(path: Path, size: int) -> None:
    """What was flushed is there at least, and batches are there in their order, each of them whole."""
    program = f"""
import os
from pathlib import Path
from streams.state.store import PartitionStore
store = PartitionStore(Path({str(path)!r}))
for n in range(60):
    if n == 20:
        store.flush()
    store.write({{b"%d" % i: b"%d" % n + b" " * {size} for i in range(10)}}, meta={{"offset": b"%d" % n}})
os._exit(9)
"""
    done = subprocess.run([sys.executable, "-c", program], env=os.environ, check=False, timeout=60)
    assert done.returncode == 9
    store = PartitionStore(path)
    offset = store.meta("offset")
    assert offset is not None
    assert 19 <= int(offset) < 60
    # 60 MB do not fit into the write buffers: most of them were written by themselves.
    assert size < 1_000 or int(offset) > 40
    assert {value.split()[0] for _, value in store.items()} == {offset}
    assert len(list(store.items())) == 10
    store.close()


def test_close_leaves_nothing_to_lose(path: Path) -> None:
    store = PartitionStore(path)
    store.write({b"a": b"1"})
    store.close()
    again = PartitionStore(path)
    assert again.get(b"a") == b"1"
    again.destroy()
    assert not path.exists()
