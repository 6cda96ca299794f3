"""Nothing lost, nothing mixed, nothing let in: what is damaged or wrong is one line, and never another result."""

import io
import re
import struct
import zipfile

import numpy as np
import pytest
import torch

from tests.commands import PROJECT
from utils.files import FileError, load, save
from utils.method.network import Blueprint, load_network
from utils.method.signed_mask import extract_signed_mask, load_signed_mask, save_signed_mask

BLUEPRINT = Blueprint("resnet20", "digits", 10, 1)
PRUNED = "blocks.0.conv1.weight"
FOLDER_ATTRIBUTE = 0x10


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The bytes of a network, half of one of whose layers is pruned."""
    path = tmp_path_factory.mktemp("whole") / "network.pt"
    state, masks = BLUEPRINT.initialize(0), BLUEPRINT.dense_masks()
    masks[PRUNED][::2] = False
    state[PRUNED] *= masks[PRUNED]
    norms = {name: state[name] for name in BLUEPRINT.norms}
    BLUEPRINT.save_network(path, state, masks, norms, settings={"data": "digits"}, result={"test_error": 5.0})
    return path.read_bytes()


@pytest.fixture
def path(tmp_path, whole):
    path = tmp_path / "network.pt"
    path.write_bytes(whole)
    return path


def as_earlier_versions_wrote(whole: bytes) -> bytes:
    """Without the digest."""
    content, buffer = torch.load(io.BytesIO(whole), weights_only=True), io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def positions_of_attributes(archive: bytes) -> list[int]:
    """Where the index of a zip archive has the attributes of its entries."""
    position = zipfile.ZipFile(io.BytesIO(archive)).start_dir
    found = []
    while archive[position : position + 4] == b"PK\x01\x02":
        found.append(position + 38)
        position += 46 + sum(struct.unpack_from("<3H", archive, position + 28))
    return found


@pytest.mark.parametrize("seal", [True, False], ids=["sealed", "as earlier versions wrote"])
def test_no_entry_is_taken_for_a_folder(seal, path, whole):
    """Torch would leave the entry's tensor uninitialized, without a word."""
    archive = whole if seal else as_earlier_versions_wrote(whole)
    positions = positions_of_attributes(archive)
    assert len(positions) > 100
    for position in positions[::10]:
        damaged = bytearray(archive)
        damaged[position] ^= FOLDER_ATTRIBUTE
        path.write_bytes(damaged)
        with pytest.raises(FileError, match=r"network\.pt is damaged or no file of this program \(its index is not"):
            load_network(path)


def test_networks_of_earlier_versions_are_read(path, whole):
    path.write_bytes(as_earlier_versions_wrote(whole))
    assert load_network(path)[1]["result"] == {"test_error": 5.0}


def test_a_sealed_network_is_an_ordinary_archive(path):
    for options in ({}, {"mmap": True}):
        assert torch.load(path, weights_only=True, **options)["arch"] == "resnet20"
    assert zipfile.ZipFile(path).comment.startswith(b"sha256 ")


def changed_tensor(part: str, name: str, value: float | bool):
    def change(content: dict) -> None:
        content[part][name].view(-1)[0] = value

    return change


def replaced(part: str, value: object):
    return lambda content: content.update({part: value})


WRONG_NETWORKS = {
    "NaN": (changed_tensor("model", "conv1.weight", float("nan")), r"conv1\.weight in its model is not finite"),
    "infinite statistics": (changed_tensor("model", "bn1.running_var", float("inf")), "running_var .* not finite"),
    "no mask": (lambda content: content["masks"].pop(PRUNED), "masks have not the names"),
    "revived weight": (changed_tensor("model", PRUNED, 1.0), f"{PRUNED} is not 0 where its mask prunes"),
    "mask of numbers": (
        lambda content: content["masks"].update({PRUNED: content["masks"][PRUNED].float()}),
        f"the mask of {PRUNED} is not bool",
    ),
    "no tensor": (lambda content: content["model"].pop("fc.bias"), "model has not the names"),
    "another shape": (lambda content: content["model"].update({"fc.bias": torch.zeros(9)}), r"fc\.bias .* \(10,\)"),
    "another type": (
        lambda content: content["model"].update({"fc.bias": torch.zeros(10, dtype=torch.float64)}),
        r"fc\.bias in its model is not torch\.float32",
    ),
    "expanded": (
        lambda content: content["model"].update({"fc.bias": torch.zeros(1).expand(10)}),
        r"fc\.bias in its model is not",
    ),
    "sparse": (
        lambda content: content["model"].update({"fc.bias": torch.zeros(10).to_sparse()}),
        "",
    ),
    "no masks": (replaced("masks", None), "no network of this program"),
    "no settings": (replaced("settings", None), "settings or its result are no dict"),
    "a list of results": (replaced("result", [1]), "settings or its result are no dict"),
    "a list of names": (replaced("arch", ["resnet20"]), "no network of this program"),
    "another network": (replaced("arch", "vgg11_bn"), "model has not the names"),
    "other classes": (replaced("classes", 9), r"\(9, 64\)"),
    "no classes": (replaced("classes", "ten"), "no network of this program"),
}


@pytest.mark.parametrize("wrong", WRONG_NETWORKS)
def test_a_network_whose_parts_do_not_fit_is_refused(wrong, path, whole):
    change, reason = WRONG_NETWORKS[wrong]
    content = torch.load(path, weights_only=True)
    change(content)
    save(path, content)
    with pytest.raises(FileError, match=rf"network\.pt is .*{reason}") as caught:
        load_network(path)
    assert "\n" not in str(caught.value)


# ---------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def mask_path(tmp_path):
    path = tmp_path / "signed_mask.npz"
    signs = extract_signed_mask(BLUEPRINT.initialize(0), BLUEPRINT.dense_masks(), BLUEPRINT.signed)
    save_signed_mask(path, signs, "resnet20", "digits")
    return path


def read_by_the_readme(path):
    readme = (PROJECT / "README.md").read_text(encoding="utf-8")
    namespace = {}
    exec(re.search(r"```python\n(import numpy as np\n.*?)```", readme, re.DOTALL).group(1), namespace)
    return namespace["read_signed_mask"](path)


WRONG_PLANES = {
    "short": lambda arrays: arrays.update({"conv1.weight.survives": arrays["conv1.weight.survives"][:-1]}),
    "empty": lambda arrays: arrays.update({"conv1.weight.negative": arrays["conv1.weight.negative"][:0]}),
    "of two dimensions": lambda arrays: arrays.update(
        {"conv1.weight.survives": arrays["conv1.weight.survives"].reshape(2, -1)}
    ),
    "of another type": lambda arrays: arrays.update(
        {"conv1.weight.survives": arrays["conv1.weight.survives"].astype(np.int16)}
    ),
    "of a huge tensor": lambda arrays: arrays.update({"conv1.weight.shape": np.array([3_000_000_000])}),
}


@pytest.mark.parametrize("wrong", WRONG_PLANES)
@pytest.mark.parametrize("read", [load_signed_mask, read_by_the_readme])
def test_bit_planes_that_do_not_fit_are_refused(wrong, read, mask_path):
    with np.load(mask_path) as file:
        arrays = dict(file)
    WRONG_PLANES[wrong](arrays)
    np.savez_compressed(mask_path, **arrays)
    with pytest.raises((FileError, ValueError), match=r"survives|negative|a bit plane"):
        read(mask_path)


def test_a_mask_is_not_unpacked_before_its_shapes_fit_the_network(mask_path):
    """Its planes would fit the 24 billion weights that it declares, and take 3 GB."""
    plane, rest = b"\0" * 1000, {}
    with zipfile.ZipFile(mask_path) as archive:
        rest = {entry.filename: archive.read(entry) for entry in archive.infolist()}
    rest["conv1.weight.shape.npy"] = npy(np.array([24_000_000_000]))
    with zipfile.ZipFile(mask_path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in rest.items():
            archive.writestr(name, content)
    assert plane is not None
    with pytest.raises(FileError, match=r"belongs to another network: conv1\.weight is \(24000000000,\) in the file"):
        load_signed_mask(mask_path, BLUEPRINT)


def npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def test_the_advice_of_torch_to_run_code_is_not_passed_on(tmp_path):
    class Harmful:
        def __reduce__(self):
            return print, ("harm",)

    torch.save({"model": Harmful()}, tmp_path / "network.pt")
    with pytest.raises(FileError, match="torch cannot read it as data alone") as caught:
        load(tmp_path / "network.pt")
    assert "weights_only" not in str(caught.value)
