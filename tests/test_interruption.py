"""A job that is killed at any instant and started again ends as one that was never interrupted."""

import csv
import os
import random
import signal
import subprocess
import sys
import time

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.commands import PROJECT, TINY_JOB, assert_same_networks, run_in_process

JOB = ("--method", "aws", "--levels", "1", "--checkpoint-seconds", "0", "--start", "signs")
THOROUGH = os.environ.get("THOROUGH") == "1"  # minutes instead of seconds
KILLS = 20 if THOROUGH else 3


class Killed(BaseException):
    pass


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    return run_in_process(tmp_path_factory.mktemp("uninterrupted"), *JOB)


def assert_every_epoch_once(run):
    for path in run.rglob("metrics.csv"):
        with path.open() as file:
            epochs = [int(row["epoch"]) for row in csv.DictReader(file)]
        assert epochs == list(range(1, len(epochs) + 1))
    pruning = EventAccumulator(str(run / "tensorboard" / "pruning")).Reload()
    assert [event.step for event in pruning.Scalars("loss/train")] == [1, 2, 3]
    assert [event.step for event in pruning.Scalars("level/remaining_ratio")] == [0, 1]
    final = EventAccumulator(str(run / "tensorboard" / "final_level_01_signs_seed2")).Reload()
    assert [event.step for event in final.Scalars("loss/train")] == [1, 2]


def test_stopped_around_every_write(uninterrupted, tmp_path, monkeypatch):
    """Before and after the renaming of a file, for every file that the job writes (for every fourth by default)."""
    sync, calls, stop_at = os.fsync, 0, 0

    def stopping_fsync(descriptor):
        nonlocal calls
        calls += 1
        if calls == stop_at:
            raise Killed
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", stopping_fsync)
    run_in_process(tmp_path / "whole", *JOB)
    writes = calls
    assert writes > 30
    for instant in range(1, writes + 1, 1 if THOROUGH else 4):
        calls, stop_at = 0, instant
        with pytest.raises(Killed):
            run_in_process(tmp_path / str(instant), *JOB)
        stop_at = 0
        run = run_in_process(tmp_path / str(instant), *JOB)
        assert_same_networks(run, uninterrupted)
        assert_every_epoch_once(run)


def test_killed_at_random_instants(uninterrupted, tmp_path):
    """kill -9, from outside, whatever the program is doing."""
    command = [sys.executable, PROJECT / "main.py", *TINY_JOB, *JOB, "--runs-dir", tmp_path]
    started = time.monotonic()
    subprocess.run([*command, "--name", "timed"], check=True, capture_output=True)
    duration = time.monotonic() - started
    rng = random.Random(0)
    for _ in range(KILLS):
        program = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(rng.uniform(0.4, 1.0) * duration)  # importing torch is most of the first part
        program.send_signal(signal.SIGKILL)
        program.wait()
    subprocess.run(command, check=True, capture_output=True)
    run = tmp_path / uninterrupted.name
    assert_same_networks(run, uninterrupted)
    assert_every_epoch_once(run)
