"""Files are written whole or not at all, and read as data alone."""

import os
import zipfile
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch

from tests.commands import BLUEPRINT, files_limited_to, save_fresh_network
from utils.errors import exit_status
from utils.files import FileError, load, naming_damage, read_json, save, write, write_csv, write_json
from utils.method.network import load_network, plain_state


@pytest.fixture
def network_file(tmp_path):
    path = tmp_path / "level_01" / "network.pt"
    path.parent.mkdir()
    save_fresh_network(path, result={"test_error": 5.0})
    return path


def test_a_network_file_says_what_it_is(network_file):
    blueprint, content = load_network(network_file)
    assert blueprint == BLUEPRINT
    assert content["result"] == {"test_error": 5.0}
    assert zipfile.ZipFile(network_file).comment.startswith(b"sha256 ")  # an ordinary archive, with a digest
    plain = torch.load(network_file, weights_only=True, mmap=True)["model"]
    network = blueprint.build(torch.device("cpu"), plain)
    network.load_state_dict(plain, strict=True)
    # What is saved of it is contiguous, and a copy.
    weight, state = network.get_parameter("blocks.0.conv1.weight"), plain_state(network)
    assert not weight.is_contiguous()  # channels-last
    assert all(tensor.is_contiguous() for tensor in state.values())
    with torch.no_grad():
        weight.zero_()
    assert state["blocks.0.conv1.weight"].any()


def test_a_file_that_is_no_network_of_ours(tmp_path):
    save(tmp_path / "other.pt", {"model": {}, "arch": "resnet20"})
    with pytest.raises(FileError, match="no network of this program: it has no channels, classes"):
        load_network(tmp_path / "other.pt")
    torch.save([1, 2], tmp_path / "list.pt")
    (tmp_path / "empty.pt").touch()
    (tmp_path / "text.pt").write_text("hello")
    for name in ("list.pt", "empty.pt", "text.pt"):
        with pytest.raises(FileError, match=f"{name} is .*no file of this program"):
            load_network(tmp_path / name)


def test_code_in_a_file_is_not_run(tmp_path):
    class Harmful:
        def __reduce__(self):
            return (tmp_path / "harm").mkdir, ()

    torch.save({"model": Harmful()}, tmp_path / "network.pt")
    with pytest.raises(FileError, match="torch cannot read it as data alone") as caught:
        load(tmp_path / "network.pt")
    assert not (tmp_path / "harm").exists()
    assert "weights_only" not in str(caught.value)  # torch's advice, to run it


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory")])
def test_a_lack_of_memory_is_no_damaged_file(error, network_file, monkeypatch, capsys):
    monkeypatch.setattr(torch, "load", Mock(side_effect=error))
    assert exit_status("main.py", lambda: load(network_file)) == 2
    assert capsys.readouterr().err.startswith("main.py: error: the memory is full: run less at once")


def test_damage_is_named_unless_memory_is_lacking():
    """A damaged size may be more than Python can allocate; torch's own words are certain."""
    for error, raised in ((MemoryError, FileError), (torch.OutOfMemoryError, torch.OutOfMemoryError)):
        with pytest.raises(raised), naming_damage(Path("a.npz"), "is damaged"):
            raise error


def test_an_interrupted_write_and_a_full_disk_leave_the_old_file(network_file, monkeypatch):
    before = network_file.read_bytes()
    with files_limited_to(10_000), pytest.raises(OSError, match="File too large"):
        save(network_file, {"model": torch.zeros(100_000)})
    monkeypatch.setattr(os, "fsync", Mock(side_effect=KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        write(network_file, b"new")
    assert network_file.read_bytes() == before
    assert os.listdir(network_file.parent) == ["network.pt"]


def test_json_gives_back_what_was_written(tmp_path):
    path = tmp_path / "result.json"
    write_json(path, {"formula": "A(θ_init)", "level": None, "decays_at": [0.5, 0.75]})
    assert read_json(path) == {"formula": "A(θ_init)", "level": None, "decays_at": [0.5, 0.75]}
    for damaged in ("{", "[1]", ""):
        path.write_text(damaged)
        with pytest.raises(FileError, match=r"result\.json is damaged.*delete that file and run the same command"):
            read_json(path)


def test_rows_of_an_earlier_version_may_lack_columns(tmp_path):
    write_csv(tmp_path / "rows.csv", [{"a": 1}, {"a": 2, "b": 3}])
    assert (tmp_path / "rows.csv").read_text() == "a,b\n1,\n2,3\n"
