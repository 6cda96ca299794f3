"""A run's folder: its settings, its results, and who works on which of its stages."""

import json
import sys
import threading
from dataclasses import asdict

import pytest

from tests.commands import BLUEPRINT, finish
from utils.errors import UserError
from utils.files import save, write_json
from utils.runs.progress import JobProgress
from utils.runs.records import NETWORK_FILE, RESULT_FILE, Record
from utils.runs.run import FinalTraining, Level, Run, StageInUse, claim_stage, open_run_folder, project_commit

SETTINGS = {"lr": 0.1, "alpha_range": (0.0, 1.0), "signed_mask": None, "seed": 1}
LEVELS = [Level(0), Level(1), Level(2)]
FINALS = [FinalTraining("signs", 2, 2, 2), FinalTraining("mask", 2, 2, 2)]
RESULT = {"kind": "final", "test_accuracy": 60.0, "test_error": 40.0, **asdict(FINALS[0])}


def make_run(folder, share=False):
    return Run(folder, SETTINGS, BLUEPRINT, {"device": "cpu", "precision": "fp32"}, share)


def test_the_same_settings_are_let_in_again_and_others_refused(tmp_path, monkeypatch):
    run = tmp_path / "run"
    for about, command in (({"commit": "a"}, ["main.py"]), ({"commit": "b"}, ["main.py", "--name", "a run"])):
        monkeypatch.setattr(sys, "argv", command)
        open_run_folder(run, SETTINGS, about)
    assert json.loads((run / "config.json").read_text())["about"] == {"commit": "a"}
    assert (run / "command.txt").read_text() == "python main.py\npython main.py --name 'a run'\n"
    # A folder of an earlier version does not mention what could not be chosen then.
    open_run_folder(run, SETTINGS | {"pruning_schedule": "constant", "decays_at": [0.5, 0.75]}, {})
    with pytest.raises(UserError, match=r"--pruning-schedule dense \(there: constant\)"):
        open_run_folder(run, SETTINGS | {"pruning_schedule": "dense"}, {})
    monkeypatch.setenv("PATH", "/nonexistent")
    assert project_commit() == "unknown"  # git is not needed


def test_results_are_one_row_a_finished_network(tmp_path):
    finish(tmp_path / "final" / "signs_seed2", **RESULT)
    finish(tmp_path / "level_00", kind="level", level=0, test_accuracy=50.0, survivors={"conv": 3})
    (tmp_path / "level_01").mkdir()
    write_json(tmp_path / "level_01" / RESULT_FILE, {"kind": "level"})  # its network is not there yet
    record = make_run(tmp_path).keep_results_table()
    assert list(record.results) == ["level_00", "final/signs_seed2"]
    assert [result["test_accuracy"] for result in record.finals] == [60.0]
    rows = (tmp_path / "results.csv").read_text().splitlines()
    assert rows[0].startswith("kind,level,test_accuracy,test_error,start,init_seed,order_seed")
    assert [row.split(",")[:3] for row in rows[1:]] == [["level", "0", "50.0"], ["final", "2", "60.0"]]


def test_a_lost_result_is_taken_from_its_network(tmp_path):
    """And so is a damaged one: what was finished is neither lost nor to be deleted."""
    stage = tmp_path / "final" / "signs_seed2"
    stage.mkdir(parents=True)
    save(stage / NETWORK_FILE, {"result": RESULT})
    for damaged in ("{", "[]", '{"kind": "final"}'):
        (stage / RESULT_FILE).write_text(damaged)
        assert Record(tmp_path).finals == [RESULT]
        assert json.loads((stage / RESULT_FILE).read_text()) == RESULT
    (stage / RESULT_FILE).unlink()
    assert Record(tmp_path).finals == [RESULT]


@pytest.fixture
def progress():
    return JobProgress({stage.stage: 10 for stage in (*LEVELS, *FINALS)}, images_per_epoch=100)


def make(run, stages, progress, **how) -> list[str]:
    """Finish every stage that is unfinished; their folders."""
    made = []
    for stage in run.unfinished(stages, progress, **how):
        finish(run.folder / stage.stage)
        made.append(stage.stage)
    return made


def test_a_stage_is_held_while_it_is_made(tmp_path, progress):
    in_use = pytest.raises(StageInUse, match="level_00 is being worked on by another process: stop it, or wait for it")
    for stage in make_run(tmp_path).unfinished(LEVELS[:1], progress):
        with in_use, claim_stage(tmp_path / stage.stage):
            pass
    with claim_stage(tmp_path / "level_00"):
        pass  # free again


def test_a_stage_in_use_is_an_error_unless_the_run_is_shared(tmp_path, progress, capsys):
    """Of a shared run, a final training is left to the other process alone, a level with those after it."""
    with claim_stage(tmp_path / "level_01"), claim_stage(tmp_path / FINALS[0].stage):
        for stages in (LEVELS, FINALS):
            with pytest.raises(StageInUse):
                make(make_run(tmp_path), stages, progress)
        shared, skipped = make_run(tmp_path, share=True), progress.skipped
        assert make(shared, LEVELS, progress) == []  # level 0 was made above
        assert progress.skipped - skipped == 3 * 10 * 100  # that, and two left to the other process
        assert make(shared, FINALS, progress) == [FINALS[1].stage]
        assert progress.skipped - skipped == 4 * 10 * 100
    shown = capsys.readouterr().out.splitlines()
    assert shown == [f"left to another process: {tmp_path / stage}" for stage in ("level_01", FINALS[0].stage)]


def test_one_process_alone_goes_through_the_levels(tmp_path, progress):
    first, second = make_run(tmp_path, share=True), make_run(tmp_path, share=True)
    for stage in first.unfinished(LEVELS, progress, alone=True):
        assert make(second, LEVELS[1:], progress, alone=True) == []  # though nobody holds the second level yet
        finish(tmp_path / stage.stage)
    assert [(tmp_path / level.stage / NETWORK_FILE).exists() for level in LEVELS] == [True] * 3


@pytest.mark.parametrize("finishes", [True, False])
def test_a_level_that_another_process_makes_is_waited_for(finishes, tmp_path, progress):
    """And is made here if the other one ends before it has finished it."""
    run, begun, go_on = make_run(tmp_path, share=True), threading.Event(), threading.Event()

    def other_process():
        with claim_stage(tmp_path / "level_00"):
            begun.set()
            go_on.wait()
            if finishes:
                finish(tmp_path / "level_00")

    other = threading.Thread(target=other_process)
    other.start()
    begun.wait()
    threading.Timer(0.2, go_on.set).start()
    assert make(run, LEVELS, progress, wait=True) == ["level_00", "level_01", "level_02"][finishes:]
    other.join()
