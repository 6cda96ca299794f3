"""A job that is killed at any instant and started again ends as one that was never interrupted."""

import os
import random
import signal
import subprocess
import sys
import time

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.commands import (
    PROJECT,
    THOROUGH,
    TINY_JOB,
    assert_exactly_sparse,
    assert_same_networks,
    read_csv,
    run_in_process,
)
from utils.training.stage import UNFINISHED_FILE

# Much of which an interrupted training must find its place in: moments, counts of steps, a ramp, a schedule.
JOB = (
    "--method aws --levels 1 --train-images-per-class 4 --checkpoint-seconds 0 --start signs --optimizer adamw "
    "--lr 0.001 --weight-decay 0.05 --clip-norm 1 --label-smoothing 0.1 --micro-batch-size 16 --final-schedule cosine "
    "--level-ramp-epochs 2 --final-ramp-epochs 1"
).split()
KILLS = 20 if THOROUGH else 2


class Killed(BaseException):
    pass


class Writes:
    """Counts the writes to files, before and after each renaming, and ends the program at one of them."""

    def __init__(self, last: int | None = None):
        self.sync, self.count, self.last = os.fsync, 0, last

    def fsync(self, descriptor: int) -> None:
        self.count += 1
        if self.count == self.last:
            raise Killed
        self.sync(descriptor)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """The run, and its number of writes."""
    writes = Writes()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", writes.fsync)
        run = run_in_process(tmp_path_factory.mktemp("uninterrupted"), *JOB)
    return run, writes.count


def assert_every_epoch_once(run):
    for path in run.rglob("metrics.csv"):
        epochs = [int(row["epoch"]) for row in read_csv(path)]
        assert epochs == list(range(1, len(epochs) + 1))
    pruning = EventAccumulator(str(run / "tensorboard" / "pruning")).Reload()
    steps = sorted(event.step for event in pruning.Scalars("loss/train"))  # files of one second are read in any order
    assert steps == [1, 2, 3]
    assert sorted(event.step for event in pruning.Scalars("level/remaining_ratio")) == [0, 1]
    final = EventAccumulator(str(run / "tensorboard" / "final_level_01_signs_seed2")).Reload()
    assert sorted(event.step for event in final.Scalars("loss/train")) == [1, 2]


@pytest.mark.parametrize("every", [15, pytest.param(1 if THOROUGH else 6, marks=pytest.mark.slow)])
def test_stopped_around_every_write(every, uninterrupted, tmp_path, capsys):
    """Of every file that the job writes, or of some of them. No stage starts again that had been saved."""
    expected, writes = uninterrupted
    assert writes > 30
    for instant in range(every // 2 + 1, writes + 1, every):
        with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
            patch.setattr(os, "fsync", Writes(last=instant).fsync)
            run_in_process(tmp_path / str(instant), *JOB)
        run = run_in_process(tmp_path / str(instant), *JOB)
        assert_same_networks(run, expected)
        assert_every_epoch_once(run)
    assert "starts again" not in capsys.readouterr().out
    assert_exactly_sparse(expected)


@pytest.mark.slow
def test_a_killed_worker_is_taken_over_from_its_last_save(uninterrupted, tmp_path):
    """By another one that waits for its level."""
    command = [sys.executable, PROJECT / "main.py", *TINY_JOB, *JOB, "--runs-dir", tmp_path, "--share"]
    level = tmp_path / uninterrupted[0].name / "level_01"
    save, metrics = level / UNFINISHED_FILE, level / "metrics.csv"
    first = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    while not (metrics.exists() and save.stat().st_mtime_ns > metrics.stat().st_mtime_ns):  # one after the first epoch
        assert first.poll() is None
        time.sleep(0.001)
    first.send_signal(signal.SIGSTOP)  # it holds the level
    second = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert "stages are finished" in second.stdout.readline()
    time.sleep(0.5)
    assert second.poll() is None
    first.kill()
    first.wait()
    shown = second.communicate()[0]
    assert second.returncode == 0
    assert "level 1/1, epoch 2/2" in shown and "level 1/1, epoch 1/2" not in shown
    assert_same_networks(level.parent, uninterrupted[0])


@pytest.mark.slow
def test_killed_at_random_instants(uninterrupted, tmp_path):
    """kill -9, from outside, whatever the program is doing."""
    command = [sys.executable, PROJECT / "main.py", *TINY_JOB, *JOB, "--runs-dir", tmp_path]
    rng = random.Random(0)
    for _ in range(KILLS):
        program = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        program.stdout.readline()  # importing torch took most of the time until now
        time.sleep(rng.uniform(0.0, 1.0))
        program.send_signal(signal.SIGKILL)
        program.communicate()
    subprocess.run(command, check=True, capture_output=True)
    run = tmp_path / uninterrupted[0].name
    assert_same_networks(run, uninterrupted[0])
    assert_every_epoch_once(run)
