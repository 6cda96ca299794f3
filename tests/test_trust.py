"""Nothing lost, nothing mixed, nothing let in: what is damaged or wrong is one line, and never another result."""

import io
import json
import re
import shutil
import struct
import sys
import zipfile

import numpy as np
import pytest
import torch

from tests.commands import PROJECT, assert_one_line_error, assert_same_networks, command, run_in_process
from utils.errors import UserError
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
    with zipfile.ZipFile(mask_path) as archive:
        rest = {entry.filename: archive.read(entry) for entry in archive.infolist()}
    rest["conv1.weight.shape.npy"] = npy(np.array([24_000_000_000]))
    with zipfile.ZipFile(mask_path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in rest.items():
            archive.writestr(name, content)
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


# ---------------------------------------------------------------------------------------------------------------------

JOB = "--method wr --warmup-epochs 2 --rewind-epoch 1 --level-epochs 1 --final-epochs 1 --start signs".split()


@pytest.fixture(scope="module")
def finished_run(tmp_path_factory):
    return run_in_process(tmp_path_factory.mktemp("runs"), *JOB)


@pytest.fixture
def run(finished_run, tmp_path):
    """A copy of a finished run, to be damaged."""
    return shutil.copytree(finished_run, tmp_path / finished_run.name)


def again(run, *flags):
    run_in_process(run.parent, *JOB, *flags)


@pytest.mark.parametrize("damage", ["lost", "deleted as its message says"])
def test_the_settings_of_a_run_are_those_of_its_networks(damage, run):
    config = run / "config.json"
    settings = json.loads(config.read_text())["settings"]
    if damage == "lost":
        config.unlink()
    else:
        config.write_text("{")
        with pytest.raises(FileError, match=r"config\.json is damaged: delete that file and run the same"):
            again(run)
        config.unlink()
    with pytest.raises(UserError, match=r"was made with other settings: --lr 0\.05 \(there: 0\.1\)"):
        again(run, "--lr", "0.05")
    assert not config.exists()
    again(run)
    assert json.loads(config.read_text())["settings"] == settings


def test_settings_that_are_lost_with_training_in_progress(run):
    for path in (*run.rglob("network.pt"), run / "config.json"):
        path.unlink()
    (run / "level_00" / "unfinished.pt").touch()
    with pytest.raises(FileError, match=r"config\.json is missing, with training in progress: delete .*--name"):
        again(run)


@pytest.mark.parametrize("settings", [None, [], {}])
def test_a_configuration_without_settings(settings, run):
    (run / "config.json").write_text(json.dumps({"settings": settings} if settings != {} else {}))
    with pytest.raises(FileError, match=r"config\.json holds no settings: delete that file"):
        again(run)


def test_a_signed_mask_is_made_again_from_its_network(run, finished_run):
    masks = sorted(run.glob("level_*/signed_mask.npz"))
    masks[0].unlink()
    masks[1].write_bytes(masks[1].read_bytes()[:-1000])
    flip(masks[2], 1000)
    again(run)
    for mask in masks:
        assert mask.read_bytes() == (finished_run / mask.relative_to(run)).read_bytes()


def flip(path, position):
    damaged = bytearray(path.read_bytes())
    damaged[position] ^= 1
    path.write_bytes(damaged)


NETWORKS = ("initialization/network.pt", "level_00/rewinding_point.pt", "level_02/network.pt", "network.pt of final")


@pytest.mark.parametrize("cut", ["end", "middle", "beginning"])
@pytest.mark.parametrize("network", NETWORKS)
def test_a_cut_network_is_named_before_anything_is_trained(network, cut, run):
    path = run / network if "final" not in network else next(run.glob("final/*/network.pt"))
    whole = path.read_bytes()
    start = {"end": len(whole) - 4096, "middle": 500_000, "beginning": 0}[cut]
    path.write_bytes(whole[:start] + whole[start + 4096 :])
    with pytest.raises(FileError, match=rf"{path.name} is damaged: delete the folder {path.parent} and run the same"):
        again(run, "--final-seeds", "7")
    assert len(list(run.glob("final/*"))) == 1


def test_a_level_of_another_network_run_or_number_is_refused(run, tmp_path):
    shutil.rmtree(run / "level_02")
    (run / "level_01" / "network.pt").rename(tmp_path / "level_01.pt")
    other_run = run_in_process(tmp_path / "other", *JOB, "--levels", "1", "--seed", "2", "--start")
    other_arch = Blueprint("vgg11_bn", "digits", 10, 1)
    state = other_arch.initialize(0)
    norms = {name: state[name] for name in other_arch.norms}
    content = torch.load(tmp_path / "level_01.pt", weights_only=True)
    about = {"settings": content["settings"], "result": None}
    other_arch.save_network(tmp_path / "vgg.pt", state, other_arch.dense_masks(), norms, **about)
    for source, reason in (
        (tmp_path / "vgg.pt", "it has Blueprint.*vgg11_bn"),
        (other_run / "level_01" / "network.pt", r"it has --seed 1 \(there: 2\)"),
        (run / "level_00" / "network.pt", "it has level 0"),
    ):
        shutil.copy(source, run / "level_01" / "network.pt")
        with pytest.raises(FileError, match=rf"level_01/network\.pt belongs elsewhere, {reason}.*: delete the folder"):
            again(run)


def test_a_lost_rewinding_point_is_named(run):
    shutil.rmtree(run / "level_02")
    (run / "level_00" / "rewinding_point.pt").unlink()
    with pytest.raises(FileError, match=r"rewinding_point\.pt is missing: delete the folder .*level_00"):
        again(run)


WRONG_UNFINISHED = {
    "momenta": None,
    "model": [],
    "rows": [{"epoch": 1}],
}


@pytest.mark.parametrize("part", WRONG_UNFINISHED)
def test_a_wrong_unfinished_stage_starts_again(part, run, finished_run, capsys):
    shutil.rmtree(run / "level_02")
    (run / "level_02").mkdir()
    whole = {"model": load(run / "level_01" / "network.pt")["model"], "momenta": [], "rows": []}
    save(run / "level_02" / "unfinished.pt", whole | {part: WRONG_UNFINISHED[part]})
    again(run)
    assert "unfinished.pt belongs to another stage or program" in capsys.readouterr().out
    assert_same_networks(run, finished_run)


# ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("numbers", ["08 2", "abc", "1 x", "-1", "1.5", "PATH[$(touch harm)]", "*"])
@pytest.mark.parametrize("name", ["--seeds", "--levels", "--barrier-levels", "PER_GPU", "SEEDS"])
def test_a_list_of_a_script_is_of_whole_numbers(name, numbers, tmp_path):
    figure = [PROJECT / "script/paper/figure3.sh", "--dry-run", name, numbers]
    script, environment = {
        "PER_GPU": ([PROJECT / "script/run_commands.sh"], {"PER_GPU": numbers}),
        "SEEDS": ([PROJECT / "script/compare_precision.sh"], {"SEEDS": numbers, "CHECKED_PYTHON": sys.executable}),
    }.get(name, (figure, {"CHECKED_PYTHON": sys.executable}))
    result = command("bash", *script, cwd=tmp_path, **environment)
    assert_one_line_error(result, f'error: {name} "{numbers}" should be whole numbers, such as "1 2 3"')
    assert not (tmp_path / "harm").exists()
