import numpy as np
import pytest
import torch

from tests.commands import assert_equal_states
from utils.errors import UserError
from utils.files import FileError
from utils.method import signed_mask as method
from utils.method.network import Blueprint
from utils.method.pruning import prune_by_magnitude
from utils.method.signed_mask import extract_signed_mask, load_signed_mask, save_signed_mask

STATE = {"conv": torch.tensor([[1.0, -2.0], [-3.0, 0.0]]), "bias": torch.tensor([-0.5, 0.5]), "norm": torch.ones(2)}
MASKS = {"conv": torch.tensor([[False, True], [True, True]])}
SIGNED_MASK = {
    "conv": torch.tensor([[0, -1], [-1, 1]], dtype=torch.int8),
    "bias": torch.tensor([-1, 1], dtype=torch.int8),
}


def assert_same(ours, expected):
    assert list(ours) == list(expected)
    for name in expected:
        assert ours[name].dtype == expected[name].dtype
        assert torch.equal(ours[name], expected[name])


def test_extracting_imposing_and_counting_flips_by_hand():
    """A surviving weight of exactly 0 survives: mask and sign are separate facts."""
    assert_same(extract_signed_mask(STATE, MASKS, ["conv", "bias"]), SIGNED_MASK)
    assert torch.equal(method.masks_of(SIGNED_MASK, ["conv"])["conv"], MASKS["conv"])
    conv = torch.tensor([[-7.0, 8.0], [-9.0, -4.0]])
    imposed = method.impose_signed_mask(STATE | {"conv": conv, "bias": torch.tensor([2.0, -3.0])}, SIGNED_MASK)
    assert imposed["conv"].tolist() == [[0.0, -8.0], [-9.0, 4.0]]
    assert imposed["bias"].tolist() == [-2.0, 3.0]
    assert imposed["norm"].tolist() == [1.0, 1.0]
    reference = {"conv": torch.tensor([[-1.0, 2.0], [-3.0, 0.0]])}
    assert method.count_sign_flips(STATE, reference, MASKS) == 1  # the pruned one has flipped too and does not count


@pytest.fixture
def path(tmp_path):
    """A file of SIGNED_MASK."""
    save_signed_mask(tmp_path / "signed_mask.npz", SIGNED_MASK, arch="toy", dataset="digits")
    return tmp_path / "signed_mask.npz"


def test_a_file_gives_back_what_was_saved(path):
    file, first = load_signed_mask(path), path.read_bytes()
    assert_same(file.signed_mask, SIGNED_MASK)
    assert (file.arch, file.dataset) == ("toy", "digits")
    save_signed_mask(path, SIGNED_MASK, arch="toy", dataset="digits")
    assert path.read_bytes() == first


def test_a_file_takes_about_its_information(tmp_path):
    """With 0.134 remaining, as at level 9: 0.57 bits for survival and 0.134 for the sign of each prunable weight, and
    1 bit for every other parameter."""
    blueprint = Blueprint("mobilenetv2", "cifar10", 10, 3)
    state, masks = blueprint.initialize(0), blueprint.dense_masks()
    masks = prune_by_magnitude(state, masks, 0.866)
    signed_mask = extract_signed_mask(state, masks, blueprint.signed)
    prunable = blueprint.count(blueprint.prunable)
    information = (0.704 * prunable + blueprint.count(blueprint.signed) - prunable) / 8
    path = tmp_path / "signed_mask.npz"
    save_signed_mask(path, signed_mask, "mobilenetv2", "cifar10")
    assert path.stat().st_size < 1.25 * information
    assert_same(load_signed_mask(path).signed_mask, signed_mask)


def test_damaged_files_and_arrays_of_objects_are_refused(path):
    whole = path.read_bytes()
    np.savez(path, format=np.array([{"a": 1}], dtype=object))
    pickled = path.read_bytes()
    with path.open("wb") as file:
        np.save(file, np.zeros(3))
    single = path.read_bytes()
    for damaged in (b"", b"nonsense", whole[: len(whole) // 2], whole[:200] + b"?" + whole[201:], pickled, single):
        path.write_bytes(damaged)
        with pytest.raises(FileError, match=r"signed_mask\.npz is damaged or no signed-mask file"):
            load_signed_mask(path)


def test_the_mask_of_another_network_is_refused_by_tensor(tmp_path):
    blueprint = Blueprint("resnet20", "digits", 10, 1)
    shapes = blueprint.shapes(blueprint.signed)
    signed_mask = {name: torch.ones(shape, dtype=torch.int8) for name, shape in shapes.items()}
    path = tmp_path / "signed_mask.npz"
    save_signed_mask(path, signed_mask, "resnet20", "digits")
    assert_equal_states(load_signed_mask(path, blueprint).signed_mask, signed_mask)
    del signed_mask["fc.weight"]
    signed_mask["fc.bias"] = signed_mask["fc.bias"][:9]
    difference = r"fc.weight is absent in the file and \(10, 64\) in the network; fc.bias is \(9,\) in the file"
    save_signed_mask(path, signed_mask, "resnet20", "digits")
    with pytest.raises(UserError, match=difference):
        load_signed_mask(path, blueprint)


@pytest.mark.parametrize(("share", "flipped"), [(0.0, 0), (0.3, 3), (0.5, 5), (1.0, 10)])
def test_a_share_of_all_survivors_is_flipped(share, flipped):
    signs = {"a": torch.tensor([1, -1, 0, 1, 1, -1], dtype=torch.int8), "b": torch.tensor([[1, 0], [-1, 1]] * 2)}
    signs["b"] = signs["b"].to(torch.int8)  # 5 and 6 survivors less one
    signs["b"][0, 0] = 0
    changed = method.flip_signs(signs, share, seed=2)
    assert sum(int((changed[name] == -sign)[sign != 0].sum()) for name, sign in signs.items()) == flipped
    assert all(torch.equal(changed[name] == 0, sign == 0) for name, sign in signs.items())
    assert all(torch.equal(sign, method.flip_signs(signs, share, 2)[name]) for name, sign in changed.items())


def test_signs_from_elsewhere_keep_the_own_zeros():
    """Where the source is pruned, the sign is that of the new initialization."""
    own, source = torch.tensor([1, 1, 0, -1]), torch.tensor([-1, 0, 1, 0])
    borrowed = method.borrow_signs({"a": own}, {"a": source}, {"a": torch.tensor([3.0, -2.0, -1.0, 5.0])})
    assert borrowed["a"].tolist() == [-1, -1, 0, 1]


def test_a_sign_is_lost_where_a_parameter_starts_at_zero():
    signs = {"bias": torch.tensor([-1, 1, 0], dtype=torch.int8)}
    assert method.count_lost_signs({"bias": torch.tensor([0.0, 2.0, 0.0])}, signs) == 1
