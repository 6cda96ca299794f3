import json

import pytest

from utils.checkpoint import save
from utils.run_folder import (
    NETWORK_FILE,
    RESULT_FILE,
    RunFolderError,
    claim_stage,
    open_run_folder,
    read_results,
    write_csv,
    write_json,
    write_results_table,
)

SETTINGS = {"lr": 0.1, "alpha_range": (0.0, 1.0), "signed_mask": None}


def finish(stage, **result):
    stage.mkdir(parents=True)
    write_json(stage / RESULT_FILE, result)
    (stage / NETWORK_FILE).write_bytes(b"")


def test_the_same_settings_are_let_in_again(tmp_path):
    run = tmp_path / "run"
    open_run_folder(run, SETTINGS, {"commit": "a"}, "python main.py")
    open_run_folder(run, SETTINGS, {"commit": "b"}, "python main.py --levels 3")
    assert json.loads((run / "config.json").read_text())["about"] == {"commit": "a"}
    assert (run / "command.txt").read_text() == "python main.py\npython main.py --levels 3\n"


def test_other_settings_are_refused_by_name(tmp_path):
    open_run_folder(tmp_path, SETTINGS, {}, "")
    with pytest.raises(RunFolderError, match=r"other settings: --lr 0.2 \(there: 0.1\), --alpha-range .*--name"):
        open_run_folder(tmp_path, SETTINGS | {"lr": 0.2, "alpha_range": (0.5, 1.0)}, {}, "")


def test_a_lost_result_is_taken_from_its_network(tmp_path):
    """And so is a damaged one: what was finished is neither lost nor to be deleted."""
    stage = tmp_path / "final" / "signs_seed2"
    stage.mkdir(parents=True)
    save(stage / NETWORK_FILE, {"result": {"kind": "final", "test_accuracy": 60.0}})
    for damage in (lambda: None, lambda: (stage / RESULT_FILE).write_text("{"), (stage / RESULT_FILE).unlink):
        damage()
        assert read_results(tmp_path) == [{"kind": "final", "test_accuracy": 60.0}]
        assert json.loads((stage / RESULT_FILE).read_text())["kind"] == "final"


def test_a_damaged_configuration_is_named(tmp_path):
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(RunFolderError, match=r"config\.json is damaged"):
        open_run_folder(tmp_path, SETTINGS, {}, "")


def test_a_stage_is_held_by_one_process(tmp_path):
    with (
        claim_stage(tmp_path / "level_01"),
        pytest.raises(RunFolderError, match="level_01 is being worked on by another"),
        claim_stage(tmp_path / "level_01"),
    ):
        pass
    with claim_stage(tmp_path / "level_01"):
        pass  # free again


def test_results_are_one_row_a_finished_network(tmp_path):
    finish(tmp_path / "level_00", kind="level", test_accuracy=50.0, survivors={"conv": 3})
    finish(tmp_path / "final" / "signs_seed2", kind="final", test_accuracy=60.0)
    (tmp_path / "level_01").mkdir()
    write_json(tmp_path / "level_01" / RESULT_FILE, {"kind": "level"})  # its network is not there yet
    assert [result["test_accuracy"] for result in read_results(tmp_path)] == [50.0, 60.0]
    write_results_table(tmp_path)
    assert (tmp_path / "results.csv").read_text() == "kind,test_accuracy\nlevel,50.0\nfinal,60.0\n"


def test_rows_of_an_earlier_version_may_lack_columns(tmp_path):
    write_csv(tmp_path / "rows.csv", [{"a": 1}, {"a": 2, "b": 3}])
    assert (tmp_path / "rows.csv").read_text() == "a,b\n1,\n2,3\n"
