"""Outcomes that wait for their acknowledgement, in memory and on disk."""

import os
import signal
import subprocess
import sys

import msgspec
import pytest

from workerctx.errors import InvalidConfig
from workerctx.queue import CompleteLease, FailLease, JobError, ReleaseLease, SnoozeLease, ThrottleLease
from workerctx.remote import UnackedResults
from workerctx.remote.journal import Journal, Owed

EVERY_KIND = [
    CompleteLease("a", b'{"text":"line\\nbreak","n":[1,null]}'),
    FailLease("b", JobError("ValueError", "no", "trace\nback", {"x": 1})),
    FailLease("c", JobError("Abort", "no"), retryable=False),
    FailLease("d", JobError("RetryAfter", "later"), delay=5.0),
    ReleaseLease("e"),
    SnoozeLease("f", 2.5),
    ThrottleLease("g", 1.5, "api"),
]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "journals" / "worker.journal"


@pytest.fixture
def unacked(path):
    return UnackedResults.open(path)


def reopened(unacked, path):
    unacked.close()
    return UnackedResults.open(path)


def test_only_an_acknowledgement_forgets():
    """R4: what was recorded stays until it is acknowledged, in its order; unknown acknowledgements are ignored."""
    unacked = UnackedResults()
    unacked.record(EVERY_KIND)
    assert [finish.lease_id for finish in unacked.acknowledge(["c", "nobody's"])] == ["c"]
    assert unacked.acknowledge(["c"]) == []
    assert unacked.snapshot() == [finish for finish in EVERY_KIND if finish.lease_id != "c"]
    assert (len(unacked), unacked.get("c"), unacked.get("e")) == (6, None, ReleaseLease("e"))


def test_a_second_outcome_of_a_lease_replaces_the_first():
    """R4: a lease has one outcome, the newest."""
    unacked = UnackedResults()
    unacked.record([CompleteLease("a"), ReleaseLease("b"), FailLease("a", JobError("E", "refused"))])
    assert unacked.snapshot() == [ReleaseLease("b"), FailLease("a", JobError("E", "refused"))]


def test_too_much_that_is_owed_is_noticed():
    """R4: outcomes are never thrown away; when they grow too large, the worker is to take no more jobs."""
    unacked = UnackedResults(most=5000)
    assert not unacked.is_full
    unacked.record([CompleteLease("a", b'"' + b"x" * 6000 + b'"')])
    assert unacked.is_full
    unacked.record([CompleteLease("a")])
    assert not unacked.is_full
    unacked.record([FailLease(str(number), JobError("E", "m" * 100, "t" * 500)) for number in range(8)])
    assert unacked.is_full
    unacked.acknowledge(map(str, range(8)))
    assert not unacked.is_full


def test_a_journal_brings_every_kind_back(unacked, path):
    """R4: outcomes survive their process, each as it was; acknowledged ones do not come back."""
    unacked.record(EVERY_KIND)
    unacked.acknowledge(["a", "e"])
    unacked = reopened(unacked, path)
    assert unacked.snapshot() == [finish for finish in EVERY_KIND if finish.lease_id not in "ae"]
    unacked.acknowledge(["b", "c", "d", "f", "g"])
    assert path.stat().st_size == 0
    assert len(reopened(unacked, path)) == 0


def test_the_journal_can_be_read_by_people(unacked, path):
    """Q16: a line of the journal is JSON, results inside it included, and nobody else may read it."""
    unacked.record([CompleteLease("lease", b'{"width":128}')])
    assert path.read_bytes() == b'{"lease":"lease","outcome":"complete","outputs":{"width":128}}\n'
    assert path.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("written", [b'{\n "a": [1, 2]\n}', b'\r\n{"a":\r[1,2]}\n', b'{"a" :\t[ 1,2 ]}\n\n'])
def test_results_that_were_written_over_several_lines_are_kept(written, unacked, path, caplog):
    """R4: a result that a handler has written itself, line breaks included, is one line of the journal like others."""
    unacked.record([CompleteLease("a", written), CompleteLease("b", b'"line\\nbreak"')])
    unacked = reopened(unacked, path)
    assert not caplog.text
    first, second = unacked.snapshot()
    assert msgspec.json.decode(first.outputs_json) == {"a": [1, 2]}
    assert second == CompleteLease("b", b'"line\\nbreak"')
    assert path.read_bytes().count(b"\n") == 2


def test_a_result_that_is_no_json_costs_no_other(unacked, path, caplog):
    """R8: what a handler has written wrongly, over several lines, is one line that cannot be read."""
    unacked.record([CompleteLease("a", b'{\n"a":\n'), ReleaseLease("b")])
    assert reopened(unacked, path).snapshot() == [ReleaseLease("b")]
    assert caplog.text.count("cannot be read") == 1


def test_the_journal_knows_whose_outcomes_these_are(unacked, path):
    """R4, Q19: the next worker learns the jobs, for the gateway to look up, and the namespace they belong to."""
    unacked.namespace = "acme"
    unacked.record([ReleaseLease("a"), ReleaseLease("b")], "job of {}".format)
    unacked = reopened(unacked, path)
    assert (unacked.namespace, unacked.job_of("a"), unacked.job_of("nobody's")) == ("acme", "job of a", "")
    unacked.acknowledge(["a", "b"])
    assert reopened(unacked, path).namespace is None


@pytest.mark.parametrize("torn", [b'{"lease":"z","outcome":"comp', b'{"lease":"z"', b"\x00\xff"])
def test_a_torn_end_is_cut_off(torn, unacked, path, caplog):
    """R4: what a crash left half written is no outcome, harms no other, and does not run into the next line."""
    unacked.record(EVERY_KIND)
    unacked.close()
    with path.open("ab") as file:
        file.write(torn)
    unacked = UnackedResults.open(path)
    assert "torn" in caplog.text
    assert unacked.snapshot() == EVERY_KIND
    unacked.record([ReleaseLease("z")])
    assert len(reopened(unacked, path)) == len(EVERY_KIND) + 1


def test_a_damaged_line_is_said_and_left_out(unacked, path, caplog):
    """R4: a line that cannot be read is logged, and the others are told."""
    unacked.record(EVERY_KIND[:1])
    unacked.close()
    with path.open("ab") as file:
        file.write(b'what?\n{"lease":"new","outcome":"invented later"}\n')
    unacked = UnackedResults.open(path)
    assert "line 2" in caplog.text
    assert unacked.snapshot() == EVERY_KIND[:1]


def test_a_journal_has_one_owner(unacked, path):
    """R4: two workers never share a journal; the second is refused, and may have it later."""
    with pytest.raises(InvalidConfig, match="another worker"):
        UnackedResults.open(path)
    unacked.close()
    unacked.close()
    UnackedResults.open(path).close()


def test_a_journal_that_cannot_be_is_refused(tmp_path):
    """R4: a path that cannot hold a journal is an error before anything connects."""
    (tmp_path / "file").touch()
    with pytest.raises(InvalidConfig, match="cannot be used"):
        UnackedResults.open(tmp_path / "file" / "journal")


def test_several_workers_share_a_folder(tmp_path):
    """R4: given a folder, each worker takes a journal of its own in it, the first that nobody has."""
    first, second = UnackedResults.open(tmp_path), UnackedResults.open(tmp_path)
    first.record([ReleaseLease("a")])
    second.record([ReleaseLease("b")])
    assert sorted(path.name for path in tmp_path.glob("*.journal")) == ["0.journal", "1.journal"]
    first.close()
    third = UnackedResults.open(tmp_path)
    assert third.snapshot() == [ReleaseLease("a")]
    second.close()
    assert UnackedResults.open(tmp_path).snapshot() == [ReleaseLease("b")]


def test_a_disk_that_is_full_loses_nothing_in_memory(unacked, path, caplog, monkeypatch):
    """R4: outcomes that cannot be written are logged and still told; once there is room they are written, too."""
    unacked.record(EVERY_KIND[:1])
    real = os.write

    def half(file, data):
        real(file, bytes(data)[: len(data) // 2])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", half)
    unacked.record(EVERY_KIND[1:3])
    unacked.record(EVERY_KIND[3:4])
    monkeypatch.setattr(os, "write", real)
    assert caplog.text.count("No space left") == 1
    assert len(unacked) == 4
    unacked.record(EVERY_KIND[4:5])
    assert sorted(each.name for each in path.parent.iterdir()) == [path.name, f"{path.name}.lock"]
    assert reopened(unacked, path).snapshot() == EVERY_KIND[:5]


def test_a_journal_does_not_grow_for_ever(path, monkeypatch):
    """R4: what is over and done with is dropped now and then, and what is owed stays."""
    monkeypatch.setattr("workerctx.remote.journal._LARGEST", 10_000)
    unacked = UnackedResults.open(path, fsync=True)
    unacked.record([ReleaseLease("first")])
    for number in range(500):
        unacked.record([CompleteLease(str(number))])
        unacked.acknowledge([str(number)])
    assert path.stat().st_size < 12_000
    assert reopened(unacked, path).snapshot() == [ReleaseLease("first")]


def test_a_closed_journal_writes_nothing(path):
    """R4: the file is the next owner's once it is closed."""
    journal, left = Journal.open(path)
    assert not left
    journal.record([Owed(ReleaseLease("a"))])
    journal.close()
    with pytest.raises(OSError, match="descriptor"):
        journal.record([Owed(ReleaseLease("b"))])


def test_a_killed_process_leaves_its_outcomes(path):
    """R4: SIGKILL in the middle of recording loses nothing that was recorded, and frees the journal."""
    script = (
        "import sys\n"
        "from workerctx.queue import CompleteLease\n"
        "from workerctx.remote import UnackedResults\n"
        "unacked, number = UnackedResults.open(sys.argv[1]), 0\n"
        "while True:\n"
        "    number += 1\n"
        "    unacked.record([CompleteLease(str(number), b'\"' + b'x' * 500 + b'\"')])\n"
        "    print(number, flush=True)\n"
    )
    with subprocess.Popen([sys.executable, "-c", script, str(path)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for _ in range(200):
            process.stdout.readline()
        process.send_signal(signal.SIGKILL)
        said = [200, *map(int, process.stdout.read().split())]
    found = [int(finish.lease_id) for finish in UnackedResults.open(path).snapshot()]
    assert found == list(range(1, len(found) + 1))
    assert len(found) >= said[-1]
