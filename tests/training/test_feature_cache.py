"""States on disk: written once, shared between processes, whole or not there, read row by row."""

import errno
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modeling_hmgrl.training import feature_cache as state_cache
from modeling_hmgrl.training.feature_cache import StateCache

WIDTH = 8


def states_of(key, rows=3, width=WIDTH):
    """The same array for a key at any time, in any process."""
    seed = int.from_bytes(key.encode(), "big") % 2**32
    return np.random.default_rng(seed).standard_normal((rows, width)).astype(np.float16)


def names(count, start=0):
    return [f"item{number}" for number in range(start, start + count)]


class Encoder:
    """Counts what it encodes."""

    def __init__(self, make=states_of):
        self.make, self.batches = make, []

    def __call__(self, keys):
        self.batches.append(list(keys))
        return [self.make(key) for key in keys]

    @property
    def keys(self):
        return [key for batch in self.batches for key in batch]


def fill(cache, keys, encode=None, batch_size=4):
    encode = encode or Encoder()
    cache.fill(keys, encode, batch_size, "Encoding", show_progress=False)
    return encode


def read(cache, key):
    out = np.full((cache.rows(key), cache.width), np.nan, dtype=np.float16)
    cache.read_into(key, out)
    return out


def shards(folder):
    return sorted(folder.glob("*.bin"))


@pytest.fixture
def small_shards(monkeypatch):
    """Files of two items each."""
    monkeypatch.setattr(state_cache, "SHARD_BYTES", 2 * states_of("").nbytes)


@settings(max_examples=40, deadline=None)
@given(
    counts=st.lists(st.integers(1, 9), min_size=1, max_size=12),
    width=st.integers(1, 7),
    shard=st.integers(1, 200),
    batch=st.integers(1, 5),
)
def test_what_is_read_is_what_was_written_to_the_bit(counts, width, shard, batch):
    items = {f"k{i}": states_of(f"k{i}", rows, width) for i, rows in enumerate(counts)}
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(state_cache, "SHARD_BYTES", shard)
        writer = StateCache(folder)
        fill(writer, items, Encoder(items.__getitem__), batch)
        for cache in (writer, StateCache(folder)):
            assert len(cache) == len(items)
            assert cache.width == width
            for key, states in items.items():
                assert read(cache, key).tobytes() == states.tobytes()
        total = sum(states.nbytes for states in items.values())
        assert len(shards(Path(folder))) <= -(-total // shard)
        if shard == 1:
            assert len(shards(Path(folder))) == len(items)


def test_single_precision_is_kept_as_half(tmp_path):
    wanted = np.linspace(-3, 3, 24, dtype=np.float32).reshape(3, 8)
    cache = StateCache(tmp_path)
    fill(cache, ["a"], lambda keys: [wanted[:, ::1]])
    fill(cache, ["b"], lambda keys: [np.asfortranarray(wanted)])  # in another order of memory
    for key in "ab":
        assert np.array_equal(read(cache, key), wanted.astype(np.float16))


def test_each_item_is_encoded_once_and_only_what_is_missing(tmp_path, small_shards):
    cache = StateCache(tmp_path)
    assert cache.width is None
    first = fill(cache, ["b", "a", "b", "c", "a"], batch_size=2)
    assert first.batches == [["b", "a"], ["c"]]
    assert fill(cache, ["c", "a"]).batches == []
    assert fill(cache, ["d", "c", "e", "b"]).batches == [["d", "e"]]
    assert len(cache) == 5
    assert "e" in cache
    assert "f" not in cache
    assert np.array_equal(read(cache, "d"), states_of("d"))


def test_an_object_sees_what_another_wrote(tmp_path):
    one, two = StateCache(tmp_path / "c"), StateCache(tmp_path / "c")
    fill(one, names(5))
    assert len(two) == 0
    assert fill(two, names(7)).keys == names(2, 5)
    assert "item6" not in one
    one.refresh()
    assert np.array_equal(read(one, "item6"), states_of("item6"))


def test_an_encoder_that_fails_leaves_whole_files_only(tmp_path, small_shards):
    def fails(keys):
        if "item4" in keys:
            raise RuntimeError("out of memory")
        return [states_of(key) for key in keys]

    cache = StateCache(tmp_path)
    with pytest.raises(RuntimeError, match="out of memory"):
        fill(cache, names(8), fails, batch_size=1)
    assert not list(tmp_path.glob("*.partial"))
    with pytest.raises(ValueError, match="shorter"):  # fewer arrays than keys
        fill(cache, names(2, 20), lambda keys: [states_of("x")])
    assert fill(cache, names(8), batch_size=1).keys == names(4, 4)
    assert all(np.array_equal(read(cache, key), states_of(key)) for key in names(8))


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_an_interruption_keeps_what_was_encoded(tmp_path, error):
    def interrupted(keys):
        if "item6" in keys:
            raise error
        return [states_of(key) for key in keys]

    with pytest.raises(error):
        fill(StateCache(tmp_path), names(9), interrupted, batch_size=2)
    assert not list(tmp_path.glob("*.partial"))
    cache = StateCache(tmp_path)
    assert [key for key in names(9) if key in cache] == names(6)
    assert fill(cache, names(9)).keys == names(3, 6)
    assert all(np.array_equal(read(cache, key), states_of(key)) for key in names(9))


def test_files_are_complete_after_a_limited_time(tmp_path, monkeypatch):
    """A killed process loses what it has encoded since the last file."""
    monkeypatch.setattr(state_cache, "SHARD_SECONDS", 30.0)
    now, found = [0.0], []
    monkeypatch.setattr(state_cache.time, "monotonic", lambda: now[0])

    def slow(keys):
        found.append(len(StateCache(tmp_path)))
        now[0] += 10.0
        return [states_of(key) for key in keys]

    fill(StateCache(tmp_path), names(9), slow, batch_size=1)
    assert found == [0, 0, 0, 0, 4, 4, 4, 4, 8]
    assert len(shards(tmp_path)) == 3


SCRIPT = """
import os, signal, sys, time
from pathlib import Path
sys.path[:0] = {tests!r}
from test_feature_cache import names, states_of
from modeling_hmgrl.training import feature_cache as state_cache
state_cache.SHARD_BYTES = 2 * states_of("").nbytes
folder, mode, number = Path(sys.argv[1]), sys.argv[2], sys.argv[3]

def encode(keys):
    with (folder / "encoded").open("a") as file:
        file.write("".join(key + "\\n" for key in keys))
    if mode == "die" and "item5" in keys:
        assert list((folder / "cache").glob("*.partial"))
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(0.05)
    return [states_of(key) for key in keys]

cache = state_cache.StateCache(folder / "cache")
if mode == "race":
    (folder / ("ready" + number)).touch()
    while len(list(folder.glob("ready*"))) < 2:
        time.sleep(0.005)
cache.fill(names(12), encode, 1, "", False)
for key in names(12):
    out = states_of(key) * 0
    cache.read_into(key, out)
    assert (out == states_of(key)).all()
"""


def start(folder, mode, number=0):
    script = SCRIPT.format(
        tests=[str(Path(__file__).parent), str(Path(__file__).parents[1] / "helpers")]
    )
    command = [sys.executable, "-c", script, str(folder), mode, str(number)]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True)


@pytest.mark.slow
def test_two_processes_encode_each_item_once_in_all(tmp_path):
    processes = [start(tmp_path, "race", number) for number in range(2)]
    for process in processes:
        _, error = process.communicate(timeout=300)
        assert process.returncode == 0, error
    assert sorted((tmp_path / "encoded").read_text().split()) == sorted(names(12))


@pytest.mark.slow
def test_a_killed_process_leaves_whole_files_and_its_work_goes_on(tmp_path, small_shards):
    process = start(tmp_path, "die")
    _, error = process.communicate(timeout=300)
    assert process.returncode == -signal.SIGKILL, error
    assert list((tmp_path / "cache").glob("*.partial"))
    cache = StateCache(tmp_path / "cache")
    assert [key for key in names(12) if key in cache] == names(4)
    assert np.array_equal(read(cache, "item3"), states_of("item3"))
    assert fill(cache, names(12)).keys == names(8, 4)  # the lock of the dead does not hold
    assert not list((tmp_path / "cache").glob("*.partial"))
    assert all(np.array_equal(read(cache, key), states_of(key)) for key in names(12))


def cut(path):
    os.truncate(path, path.stat().st_size - 1)


@pytest.mark.parametrize(
    "damage",
    [
        lambda data, index: cut(data),
        lambda data, index: data.unlink(),
        lambda data, index: index.unlink(),
        lambda data, index: cut(index),
        lambda data, index: index.write_bytes(b""),  # what a power cut leaves of a new file
    ],
    ids=["data cut", "data gone", "index gone", "index cut", "index empty"],
)
def test_what_the_disk_lost_is_encoded_again(tmp_path, small_shards, damage):
    fill(StateCache(tmp_path), names(6))
    damaged = shards(tmp_path)[1]
    lost = json.loads(damaged.with_suffix(".json").read_text())["keys"]
    damage(damaged, damaged.with_suffix(".json"))
    cache = StateCache(tmp_path)
    assert sorted(key for key in names(6) if key not in cache) == sorted(lost)
    # The same keys in one file: it has the damaged one's name.
    assert fill(cache, names(6)).keys == lost
    for again in (cache, StateCache(tmp_path)):
        assert all(np.array_equal(read(again, key), states_of(key)) for key in names(6))


def test_a_file_cut_off_after_it_was_opened_is_an_error(tmp_path):
    cache = StateCache(tmp_path)
    fill(cache, ["a"])
    cut(shards(tmp_path)[0])
    with pytest.raises(OSError, match=r"\.bin: ended 1 bytes early; delete it"):
        read(cache, "a")


def has_free(monkeypatch, *free):
    left = list(free)

    def usage(folder):
        return SimpleNamespace(free=left.pop(0) if len(left) > 1 else left[0])

    monkeypatch.setattr(state_cache.shutil, "disk_usage", usage)


def test_a_full_disk_is_foreseen(tmp_path, monkeypatch):
    has_free(monkeypatch, 2_500_000_000)
    folder = tmp_path / "cache"
    cache = StateCache(folder)
    encode = Encoder(lambda key: np.ones((500, 1000)))  # a megabyte
    with pytest.raises(OSError, match=r"need 5\.0 GB more, and 2\.5 GB are free") as caught:
        fill(cache, names(5001), encode, batch_size=1)
    assert caught.value.errno == errno.ENOSPC
    assert caught.value.filename == str(folder)
    assert len(encode.batches) == 1
    assert {path.name for path in folder.iterdir()} <= {"lock"}
    has_free(monkeypatch, 5_100_000_000, 0)  # what was left goes to something else
    with pytest.raises(OSError, match=r"0\.0 GB are free"):
        fill(cache, names(5001), encode, batch_size=1)
    assert len(encode.batches) == 3
    assert len(cache) == 0
    has_free(monkeypatch, 0)
    fill(cache, ["fits"], encode)  # it is written: no more is needed
    assert "fits" in cache


def test_a_disk_that_fills_up_leaves_nothing_partial(tmp_path):
    cache = StateCache(tmp_path)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, hard))  # writing past it is refused
    try:
        with pytest.raises(OSError, match="large") as caught:
            fill(cache, names(40), lambda keys: [np.ones((3, 1000)) for _ in keys])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert caught.value.errno == errno.EFBIG
    assert {path.name for path in tmp_path.iterdir()} <= {"lock"}
    fill(cache, names(40), lambda keys: [np.ones((3, 1000)) for _ in keys])
    assert len(cache) == 40


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("in the way")
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(OSError, match=r"file'|below'") as caught:
            StateCache(folder)
        assert caught.value.filename


MEMORY = """
import sys
import numpy as np
from modeling_hmgrl.training.feature_cache import StateCache

def resident():
    pages = int(open("/proc/self/statm").read().split()[1])
    import resource
    return pages * resource.getpagesize()

cache = StateCache(sys.argv[1])
before, most, total = resident(), 0, 0
for number in range(len(cache)):
    key = f"item{number}"
    out = np.empty((cache.rows(key), cache.width), dtype=np.float16)
    cache.read_into(key, out)
    assert out[0, 0] == number % 100 and out[-1, -1] == number % 100
    total += out.nbytes
    most = max(most, resident())
print(total, most - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="no /proc to measure with")
def test_reading_a_large_cache_takes_no_memory(tmp_path):
    def encode(keys):
        return [np.full((1000, 768), int(key[4:]) % 100, np.float16) for key in keys]

    fill(StateCache(tmp_path), names(200), encode)
    assert len(shards(tmp_path)) == 3
    command = [sys.executable, "-c", MEMORY, str(tmp_path)]
    out = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300).stdout
    total, grown = map(int, out.split())
    assert total > 300e6
    assert grown < 60e6
