"""Gem-Miner by its facts: constants, freezing, the search and the whole job."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tests.commands import CUDA, assert_exactly_sparse, assert_same_networks, interrupt_at, networks, run_in_process
from tests.toys import ToyNetwork, sgd
from utils.method.gem_miner import (
    GemMiner,
    count_freezes,
    freeze_rate,
    freezes_after,
    make_search_step,
    signed_constants,
)

SCORED = ("conv.weight", "hidden.weight", "fc.weight")
JOB = (
    "--method gm --lr 0.01 --train-images-per-class 4 --batch-size 20 --level-epochs 11 --final-epochs 1 "
    "--final-levels 2 --start subnetwork mask"
).split()


@pytest.mark.parametrize(("remaining", "rho"), [(0.05, 0.0981), (0.0352, 0.1090), (0.02, 0.1262)])
def test_a_search_freezes_after_its_sixth_epoch_and_every_five(remaining, rho):
    assert freeze_rate(remaining, 150) == pytest.approx(rho, abs=5e-5)
    assert [done for done in range(17) if freezes_after(done)] == [6, 11, 16]
    for epochs in (6, 10, 11, 150):
        assert count_freezes(epochs) == sum(map(freezes_after, range(epochs + 1)))
    assert count_freezes(150) == 29


def test_weights_are_signed_constants_of_their_fan_in():
    """The convolution's fan-in is 4, the hidden layer's 2: sqrt(2/4) and 1, with the signs of the draw."""
    network = ToyNetwork()
    state = signed_constants(network.state_dict(), SCORED, ("norm.weight", "norm.bias"))
    signs = torch.tensor([1.0, -1, 1, -1, 1, -1, 1, -1]).view(2, 1, 2, 2)
    assert torch.allclose(state["conv.weight"], signs * 0.5**0.5)
    assert torch.equal(state["hidden.weight"], torch.ones(2, 2))
    assert not state["conv.bias"].any()
    assert not state["fc.bias"].any()
    assert torch.equal(state["norm.weight"], torch.ones(2))
    assert torch.equal(state["norm.running_var"], torch.ones(2))


def linear_miner(scores: list[float], active: list[bool]) -> GemMiner:
    """Two class scores of one input each: weights 1, −2, 3, −4."""
    network = nn.Sequential(nn.Linear(2, 2, bias=False))
    miner = GemMiner(network, ["0.weight"])
    with torch.no_grad():
        network[0].weight.copy_(torch.tensor([[1.0, -2.0], [3.0, -4.0]]))
        miner.scores[0].copy_(torch.tensor(scores).view(2, 2))
        miner.active_0.copy_(torch.tensor(active).view(2, 2))
    return miner


def test_active_scores_above_a_half_are_used_and_the_smallest_are_frozen():
    miner = linear_miner([0.6, 0.5, 0.9, 0.1], [True, True, True, False])
    assert miner(torch.tensor([[1.0, 1.0]])).tolist() == [[1.0, 3.0]]  # 0.5 is not above; the last one is frozen
    miner.freeze_smallest(0.5)  # half of three active scores is one: 0.5, and not the frozen 0.1
    assert miner.masks()["0.weight"].tolist() == [[True, False], [True, False]]


def test_the_gradient_passes_straight_to_active_scores():
    """dL/dp = dL/dw · w0 · q, also below the threshold; the penalty alone moves what is frozen."""
    miner = linear_miner([0.6, 0.2, 0.9, 0.7], [True, True, True, False])
    images, labels = torch.tensor([[1.0, 2.0]]), torch.tensor([0])
    step = make_search_step(miner, sgd(miner, 1.0, 0.0, 0.0), penalty_weight=0.01)
    before = miner.scores[0].detach().clone()
    loss, correct = step(images, labels, torch.tensor(0.0))
    outputs = torch.tensor([[1.0, 3.0]])
    assert loss.item() == pytest.approx(F.cross_entropy(outputs, labels).item())
    assert correct == 0
    error = outputs.softmax(1) - torch.tensor([[1.0, 0.0]])
    by_weight = error.T @ images * torch.tensor([[1.0, -2.0], [3.0, -4.0]]) * miner.active_0
    assert torch.allclose(before - miner.scores[0], by_weight + 0.02 * before)


def test_scores_are_clipped_before_a_step():
    miner = linear_miner([1.7, -0.3, 0.9, 0.7], [True] * 4)
    step = make_search_step(miner, sgd(miner, 1e-9, 0.0, 0.0), penalty_weight=0.0)
    step(torch.ones(1, 2), torch.tensor([0]), torch.tensor(0.0))
    assert torch.allclose(miner.scores[0], torch.tensor([[1.0, 0.0], [0.9, 0.7]]), atol=1e-6)


def test_a_level_is_the_initialization_under_a_mask_of_its_own(finished_run):
    contents = networks(finished_run)
    finals = [f"final/level_02_{start}_seed2" for start in ("subnetwork", "mask")]
    assert set(contents) == {"initialization", "level_02", *finals}
    level, initial = contents["level_02"], contents["initialization"]["model"]
    assert set(level["masks"]) == {name for name in initial if name.endswith("weight") and "bn" not in name}
    for name, mask in level["masks"].items():
        assert torch.equal(level["model"][name], initial[name] * mask)
    survivors = sum(int(mask.sum()) for mask in level["masks"].values())
    scored = sum(mask.numel() for mask in level["masks"].values())
    assert survivors / scored == pytest.approx(0.8**2, abs=2 / scored)  # a freeze rounds down
    assert level["result"]["remaining_ratio_with_classifier"] == survivors / scored
    assert level["result"]["remaining_ratio"] != survivors / scored
    assert level["result"]["epochs"] == 11


def test_only_surviving_weights_are_trained_in_the_end(finished_run):
    """No bias, no parameter of normalization; the start `mask` re-initializes the weights."""
    contents = networks(finished_run)
    masks, trained = contents["level_02"]["masks"], {"level": contents["level_02"]["model"]["fc.weight"]}
    for start in ("subnetwork", "mask"):
        model = contents[f"final/level_02_{start}_seed2"]["model"]
        trained[start] = model["fc.weight"]
        for name, tensor in model.items():
            if name in masks:
                assert torch.equal(tensor == 0, ~masks[name])
            elif name.endswith(("weight", "bias")):
                assert (tensor == name.endswith("weight")).all()  # scales of 1, shifts of 0
    assert not torch.equal(trained["subnetwork"], trained["level"])
    assert not torch.equal(trained["subnetwork"].sign(), trained["mask"].sign())


@pytest.mark.slow
def test_an_interrupted_search_goes_on_exactly(finished_run, tmp_path, monkeypatch):
    calls = interrupt_at(2, GemMiner, "freeze_smallest", monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        run_in_process(tmp_path, *JOB, "--checkpoint-seconds", "0")
    assert_same_networks(run_in_process(tmp_path, *JOB), finished_run)
    assert len(calls) == 3  # the first freeze was not repeated


def test_a_gem_s_signed_mask_trains_an_ordinary_network(finished_run, tmp_path):
    """The zeros of its classifier are kept too."""
    file = str(finished_run / "level_02" / "signed_mask.npz")
    run = run_in_process(tmp_path, "--signed-mask", file, "--start", "signs", "--final-epochs", "1")
    assert_exactly_sparse(run)
    content = networks(run)["final/signs_seed2"]
    assert "fc.weight" in content["masks"]
    for name, mask in networks(finished_run)["level_02"]["masks"].items():
        assert torch.equal(content["masks"][name], mask)
    assert content["model"]["fc.bias"].any()


@CUDA
def test_a_whole_job_on_cuda(tmp_path):
    """Two searches with one captured step, and final trainings."""
    assert_exactly_sparse(run_in_process(tmp_path, *JOB, "--device", "cuda", "--final-levels", "1", "2"))
