import os

import pytest
import torch

from tests.commands import files_limited_to
from utils.files import FileError, load, read_json, save, write, write_csv, write_json
from utils.method.network import Blueprint, load_network, plain_state

BLUEPRINT = Blueprint("resnet20", "digits", 10, 1)


@pytest.fixture
def network_file(tmp_path):
    path = tmp_path / "level_01" / "network.pt"
    path.parent.mkdir()
    state = BLUEPRINT.initialize(0)
    norms = {name: state[name] for name in BLUEPRINT.norms}
    BLUEPRINT.save_network(path, state, BLUEPRINT.dense_masks(), norms, settings={}, result={"test_error": 5.0})
    return path


def test_a_network_file_says_what_it_is(network_file):
    blueprint, content = load_network(network_file)
    assert blueprint == BLUEPRINT
    assert content["result"] == {"test_error": 5.0}
    plain = torch.load(network_file, weights_only=True)["model"]
    blueprint.build(plain, content["masks"], torch.device("cpu")).load_state_dict(plain, strict=True)


@pytest.mark.parametrize("damage", ["cut", "beheaded", "empty", "bit", "text", "list"])
def test_damage_is_named(network_file, damage):
    whole = network_file.read_bytes()
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 4  # a weight: torch alone would load it
    {
        "cut": lambda: network_file.write_bytes(whole[:-5000]),
        "beheaded": lambda: network_file.write_bytes(whole[5000:]),  # an OSError that names no file
        "empty": lambda: network_file.write_bytes(b""),
        "bit": lambda: network_file.write_bytes(flipped),
        "text": lambda: network_file.write_text("hello"),
        "list": lambda: torch.save([1, 2], network_file),
    }[damage]()
    with pytest.raises(FileError, match=r"level_01/network\.pt is "):
        load_network(network_file)


def test_a_file_that_is_no_network_of_ours(tmp_path):
    save(tmp_path / "other.pt", {"model": {}, "arch": "resnet20"})
    with pytest.raises(FileError, match="no network of this program: it has no channels, classes"):
        load_network(tmp_path / "other.pt")


def test_code_in_a_file_is_not_run(tmp_path):
    class Harmful:
        def __reduce__(self):
            return (tmp_path / "harm").mkdir, ()

    torch.save({"model": Harmful()}, tmp_path / "network.pt")
    with pytest.raises(FileError):
        load(tmp_path / "network.pt")
    assert not (tmp_path / "harm").exists()


def test_a_full_disk_leaves_the_old_file(network_file):
    before = network_file.read_bytes()
    with files_limited_to(10_000), pytest.raises(OSError, match="File too large"):
        save(network_file, {"model": torch.zeros(100_000)})
    assert network_file.read_bytes() == before
    assert os.listdir(network_file.parent) == ["network.pt"]


def test_an_interrupted_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "file"
    write(path, b"old")

    def interrupted(descriptor):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write(path, b"new")
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file"]


def test_saved_states_are_contiguous_copies():
    network = BLUEPRINT.build(BLUEPRINT.initialize(0), BLUEPRINT.dense_masks(), torch.device("cpu"))
    weight = network.get_parameter("blocks.0.conv1.weight")
    assert not weight.is_contiguous()  # channels-last
    state = plain_state(network)
    assert all(tensor.is_contiguous() for tensor in state.values())
    with torch.no_grad():
        weight.zero_()
    assert state["blocks.0.conv1.weight"].any()


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
