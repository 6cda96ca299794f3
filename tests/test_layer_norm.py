"""Networks with layer norm: what they are made of, and a whole job with them up to the error barrier.

The small Mixer and ViT also go through the tests of every architecture, in test_models.py, test_fast_path.py and so on.
"""

import json

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch._dynamo.utils import counters

import calculate_error_barrier
from data.batches import draw_epoch
from models import ARCHITECTURES, Architecture, build_network
from models.mlpmixer import MixerBlock
from models.tokens import PatchEmbedding, small_patch
from models.vit import Attention, EncoderBlock, sine_positions
from tests.commands import assert_exactly_sparse, networks, read_csv, run_in_process, save_fresh_network
from tests.toys import toy_dataset
from utils.barriers.meter import PositionMeter
from utils.errors import UserError
from utils.files import load, save
from utils.method.network import Blueprint, load_network
from utils.method.signed_mask import load_signed_mask
from utils.training.devices import Speed
from utils.training.optimization import Recipe, set_rate
from utils.training.trainer import SubnetworkTrainer


def test_images_that_a_network_cannot_take_are_refused():
    with pytest.raises(UserError, match="images of 30 pixels cannot be cut into patches of 4"):
        build_network("mlpmixer", 10, 1, 30)
    with pytest.raises(UserError, match="images of 8 pixels cannot be cut into patches of 16"):
        build_network("vit_224", 10, 1, 8)
    with pytest.raises(UserError, match="take images of 3 channels, not 1"):
        build_network("resnet50_224", 10, 1)
    assert {size: small_patch(size) for size in (8, 14, 28, 32, 64)} == {8: 2, 14: 2, 28: 4, 32: 4, 64: 8}


def test_a_patch_is_a_token():
    """The second of four patches is the upper right one."""
    embed, images = PatchEmbedding(3, 5, patch=2), torch.randn(2, 3, 4, 4)
    expected = F.linear(images[:, :, :2, 2:].flatten(1), embed.weight.flatten(1), embed.bias)
    torch.testing.assert_close(embed(images)[:, 1], expected)
    assert embed(images).shape == (2, 4, 5)


def test_a_mixer_block_is_figure_1_of_its_paper():
    """U = X + (W2 σ(W1 LN(X)ᵀ))ᵀ over the tokens, then Y = U + W4 σ(W3 LN(U)) over the channels."""
    torch.manual_seed(0)
    block, tokens = MixerBlock(tokens=4, width=6, tokens_hidden=3, channels_hidden=5), torch.randn(2, 4, 6)
    (first, _, second), (third, _, fourth) = block.mix_tokens, block.mix_channels
    mixed = torch.einsum("th,bhc->btc", second.weight, F.gelu(torch.einsum(
        "ht,btc->bhc", first.weight, block.norm1(tokens)) + first.bias[:, None])) + second.bias[:, None]  # fmt: skip
    mixed = tokens + mixed
    expected = mixed + fourth(F.gelu(third(block.norm2(mixed))))
    torch.testing.assert_close(block(tokens), expected)


def test_attention_is_torch_s_with_the_same_weights():
    """The weights lie packed as in torch's: queries, keys, values."""
    torch.manual_seed(0)
    ours, theirs, tokens = Attention(12, heads=3), nn.MultiheadAttention(12, 3, batch_first=True), torch.randn(2, 5, 12)
    names = {"in_proj.weight": "in_proj_weight", "in_proj.bias": "in_proj_bias"}
    theirs.load_state_dict({names.get(name, name): tensor for name, tensor in ours.state_dict().items()})
    torch.testing.assert_close(ours(tokens), theirs(tokens, tokens, tokens, need_weights=False)[0])
    with torch.no_grad():  # the same way in an evaluation
        assert torch.equal(ours.eval()(tokens), ours.train()(tokens))


def test_positions_are_waves_of_column_and_row():
    """Width 8: two frequencies, 1 and 1/10,000; token 5 of 3 x 3 is in row 1, column 2."""
    waves = sine_positions(side=3, width=8)
    one, two = (torch.tensor([place, place / 10_000]) for place in (1.0, 2.0))
    torch.testing.assert_close(waves[5], torch.cat([two.sin(), two.cos(), one.sin(), one.cos()]))
    assert len(waves.unique(dim=0)) == 9


class ToyTransformer(nn.Module):
    """One block over a class token and the patches' tokens, with learned positions."""

    def __init__(self, classes, channels, image_size):
        super().__init__()
        patch = small_patch(image_size)
        self.embed, self.token = PatchEmbedding(channels, 16, patch), nn.Parameter(torch.randn(1, 1, 16))
        self.positions = nn.Parameter(torch.randn(1, 1 + (image_size // patch) ** 2, 16))
        self.block, self.norm, self.fc = EncoderBlock(16, 2, 32), nn.LayerNorm(16), nn.Linear(16, classes)

    def forward(self, images):
        tokens = self.embed(images)
        tokens = torch.cat([self.token.expand(len(tokens), -1, -1), tokens], dim=1) + self.positions
        return self.fc(self.norm(self.block(tokens)[:, 0]))


TOY = Architecture(ToyTransformer, "fc", sized=True, unpruned=("token", "positions"))


@pytest.fixture(scope="module")
def toy_architecture():
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(ARCHITECTURES, "toy", TOY)
        yield


@pytest.fixture(scope="module")
def run(toy_architecture, tmp_path_factory):
    """Two levels of AWS by AdamW, the solution and the sign transfer of the last."""
    flags = "--arch toy --method aws --optimizer adamw --lr 0.003 --weight-decay 0.05 --final-schedule cosine"
    return run_in_process(tmp_path_factory.mktemp("runs"), *flags.split(), "--start", "subnetwork", "signs")


def test_a_transformer_goes_through_the_whole_job(run):
    """Packed queries, keys and values are pruned and transferred whole; class token and positions are transferred."""
    assert_exactly_sparse(run)
    made = networks(run)
    prunable = {"embed.weight", "block.attention.in_proj.weight", "block.attention.out_proj.weight",
                "block.mlp.0.weight", "block.mlp.2.weight"}  # fmt: skip
    level, final = made["level_02"], made["final/level_02_signs_seed2"]
    assert set(level["masks"]) == set(final["masks"]) == prunable
    assert set(level["initial_norms"]) == {f"{norm}.{part}" for norm in ("block.norm1", "block.norm2", "norm")
                                           for part in ("weight", "bias")}  # fmt: skip
    signs = load_signed_mask(run / "level_02" / "signed_mask.npz").signed_mask
    assert {"token", "positions", "block.attention.in_proj.weight", "block.attention.in_proj.bias"} <= set(signs)
    assert all(torch.equal(level["model"][name].sign(), sign.float()) for name, sign in signs.items())
    assert level["image_size"] == 8


def test_its_error_barrier_costs_no_pass_over_the_training_images(run, tmp_path, run_program, monkeypatch):
    """Every learned parameter is on the line between the ends, class token and positions too."""
    monkeypatch.setattr("utils.barriers.meter.draw_epoch", None)  # which draws the training images
    ends = [run / "final" / f"level_02_{start}_seed2" for start in ("signs", "subnetwork")]
    flags = ("--points", "3", "--out", tmp_path, "--device", "cpu", "--epsilon", "1")
    for _ in range(2):  # the second time from what is kept
        status, _, error = run_program(calculate_error_barrier, *ends, *flags)
        assert status == 0, error
    (folder,) = [path for path in tmp_path.iterdir() if path.is_dir()]
    rows = read_csv(folder / "positions.csv")
    assert list(rows[0]) == ["alpha", "test_error", "test_loss"]
    assert (folder / "path.png").exists()
    summary = json.loads((folder / "barrier.json").read_text())
    assert summary["positions"] == [{name: float(value) for name, value in row.items()} for row in rows]
    assert [end["test_error"] for end in summary["ends"]] == [end["recorded_test_error"] for end in summary["ends"]]


def test_a_file_without_an_image_size_is_one_for_any_size(tmp_path):
    """Versions that had networks for any size only did not write it."""
    file, blueprint = tmp_path / "network.pt", Blueprint("resnet20", "digits", 10, 1, 8)
    save_fresh_network(file, blueprint)
    assert load_network(file)[0].image_size == 8
    content = load(file)
    del content["image_size"]
    save(file, content)
    assert load_network(file)[0] == blueprint
    assert load_network(file)[0].shapes(["fc.weight"]) == {"fc.weight": (10, 64)}


@pytest.mark.slow
@pytest.mark.usefixtures("nothing_compiled", "small_evaluations")
def test_a_compiled_mixer_trains_and_is_measured_as_the_readable_one():
    """To rounding, with code that is really made for the processor: AWS's steps, then a position."""
    blueprint, dataset = Blueprint("mlpmixer", "toy", 4, 1, 8), toy_dataset(count=20, size=8, classes=4)
    recipe = Recipe(8, 0.9, 0.05, optimizer="adamw", clip_norm=1.0)
    losses = {}
    counters.clear()
    for speed in (Speed(), Speed(compile=True)):
        trainer = SubnetworkTrainer(blueprint, dataset, recipe, speed, blueprint.learnable)
        initial = blueprint.initialize(1)
        trainer.begin(initial, {}, {name: initial[name] + 0.5 for name in blueprint.norms})
        set_rate(trainer.optimizer, 0.001)
        trainer.network.train()
        losses[speed] = [
            trainer.step(*batch, torch.tensor(0.3))[0].item()
            for epoch in range(2)
            for batch in draw_epoch(dataset, 8, epoch)
        ]
        network = blueprint.build(torch.device("cpu"), initial)
        losses[speed].append(PositionMeter(network, dataset, 8, speed=speed).measure(initial)[1].loss)
    assert counters["stats"]["unique_graphs"] == 2  # the step's and the position's
    readable, compiled = losses.values()
    assert compiled == pytest.approx(readable, rel=1e-3)
    assert readable[5] < readable[0]
