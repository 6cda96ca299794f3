import os
import resource
from contextlib import contextmanager

import pytest
import torch

from utils.blueprint import Blueprint, load_network
from utils.checkpoint import CheckpointError, load, plain_state, save, write_atomically

BLUEPRINT = Blueprint("resnet20", "digits", 10, 1)


@pytest.fixture
def network_file(tmp_path):
    path = tmp_path / "level_01" / "network.pt"
    path.parent.mkdir()
    state = BLUEPRINT.initialize(0)
    BLUEPRINT.save_network(path, state, BLUEPRINT.dense_masks(), {}, settings={}, result={"test_error": 5.0})
    return path


@contextmanager
def files_limited_to(size: int):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_network_file_says_what_it_is(network_file):
    blueprint, content = load_network(network_file)
    assert blueprint == BLUEPRINT
    assert content["result"] == {"test_error": 5.0}
    plain = torch.load(network_file, weights_only=True)["model"]
    blueprint.build(plain, content["masks"], torch.device("cpu")).load_state_dict(plain, strict=True)


@pytest.mark.parametrize("damage", ["cut", "empty", "bit", "text", "list"])
def test_damage_is_named(network_file, damage):
    whole = network_file.read_bytes()
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 4  # a weight: torch alone would load it
    {
        "cut": lambda: network_file.write_bytes(whole[:-5000]),
        "empty": lambda: network_file.write_bytes(b""),
        "bit": lambda: network_file.write_bytes(flipped),
        "text": lambda: network_file.write_text("hello"),
        "list": lambda: torch.save([1, 2], network_file),
    }[damage]()
    with pytest.raises(CheckpointError, match=r"level_01/network\.pt is "):
        load_network(network_file)


def test_a_file_that_is_no_network_of_ours(tmp_path):
    save(tmp_path / "other.pt", {"model": {}, "arch": "resnet20"})
    with pytest.raises(CheckpointError, match="no network of this program: it has no channels, classes"):
        load_network(tmp_path / "other.pt")


def test_code_in_a_file_is_not_run(tmp_path):
    class Harmful:
        def __reduce__(self):
            return os.system, ("echo harm",)

    torch.save({"model": Harmful()}, tmp_path / "network.pt")
    with pytest.raises(CheckpointError):
        load(tmp_path / "network.pt")


def test_a_full_disk_leaves_the_old_file(network_file):
    before = network_file.read_bytes()
    with files_limited_to(10_000), pytest.raises(OSError, match="File too large"):
        save(network_file, {"model": torch.zeros(100_000)})
    assert network_file.read_bytes() == before
    assert os.listdir(network_file.parent) == ["network.pt"]


def test_an_interrupted_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "file"
    write_atomically(path, b"old")

    def interrupted(descriptor):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"


def test_saved_states_are_contiguous_copies():
    network = BLUEPRINT.build(BLUEPRINT.initialize(0), BLUEPRINT.dense_masks(), torch.device("cpu"))
    weight = network.get_parameter("blocks.0.conv1.weight")
    assert not weight.is_contiguous()  # channels-last
    state = plain_state(network)
    assert all(tensor.is_contiguous() for tensor in state.values())
    with torch.no_grad():
        weight.zero_()
    assert state["blocks.0.conv1.weight"].any()
