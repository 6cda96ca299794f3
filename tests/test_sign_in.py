"""Sign-In's products: their factors, one step by hand, and whole trainings."""

import pytest
import torch
from torch import nn

from tests.commands import assert_exactly_sparse, assert_same_networks, interrupt_at, networks, run_in_process
from tests.toys import sgd
from utils.method.sign_in import SignIn, factorize
from utils.method.step import make_train_step

ROOT = 2**0.5
JOB = "--method lrr --levels 1 --level-epochs 1 --final-epochs 3 --sign-in-epochs 2 --start sign-in".split()


def test_factors_by_hand_and_after_a_reset():
    """√2 = √2 · 1 with 2 − 1 = 1; √6 = √3 · √2 with 3 − 2 = 1; what is pruned has w = 0."""
    m, w = factorize(torch.tensor([0.0, ROOT, -ROOT, 6**0.5]))
    assert m.tolist() == pytest.approx([1, ROOT, ROOT, 3**0.5])
    assert w.tolist() == pytest.approx([0, 1, -1, ROOT])
    network = SignIn(nn.Sequential(nn.Linear(40, 25, bias=False)), ["0.weight"])
    with torch.no_grad():
        for factor in (network.m[0], network.w[0]):
            factor.normal_(generator=torch.Generator().manual_seed(len(factor)))
    before = network.weights()["0.weight"].detach().clone()
    network.reset()
    torch.testing.assert_close(network.m[0].square() - network.w[0].square(), torch.ones(25, 40))
    torch.testing.assert_close(network.plain()[0].weight, before)


def test_a_step_by_hand():
    """dL/dm = w · dL/dθ and dL/dw = m · dL/dθ, with weight decay on both; the pruned weight stays 0."""
    network = SignIn(nn.Sequential(nn.Linear(2, 2, bias=False)), ["0.weight"])
    weights, mask = torch.tensor([[ROOT, 0.0], [-ROOT, ROOT]]), torch.tensor([[True, False], [True, True]])
    network.start({"0.weight": weights})
    step = make_train_step(network, sgd(network, 0.1, 0.0, weight_decay=0.5), {"w.0": mask}, {})
    images, labels = torch.tensor([[1.0, 2.0]]), torch.tensor([0])
    step(images, labels, torch.tensor(1.0))
    by_weight = ((images @ weights.T).softmax(1) - torch.tensor([[1.0, 0.0]])).T @ images
    m, w = torch.tensor([[ROOT, 1.0], [ROOT, ROOT]]), torch.tensor([[1.0, 0.0], [-1.0, 1.0]])
    torch.testing.assert_close(network.m[0].detach(), m - 0.1 * (w * by_weight + 0.5 * m))
    torch.testing.assert_close(network.w[0].detach(), (w - 0.1 * (m * by_weight + 0.5 * w)) * mask)
    assert network.plain()[0].weight[0, 1] == 0


@pytest.mark.slow
def test_a_whole_job_interrupted_at_a_reset(tmp_path, monkeypatch):
    """It goes on from within the epoch before. A plain network under the level's mask is left."""
    run = run_in_process(tmp_path / "whole", *JOB, "mask")
    assert_exactly_sparse(run)
    ours, plain = (networks(run)[f"final/level_01_{start}_seed2"]["model"] for start in ("sign-in", "mask"))
    assert {name: tensor.shape for name, tensor in ours.items()} == {name: plain[name].shape for name in plain}
    assert not torch.equal(ours["conv1.weight"], plain["conv1.weight"])
    resets = interrupt_at(1, SignIn, "reset", monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        run_in_process(tmp_path / "stopped", *JOB, "mask", "--checkpoint-seconds", "0")
    assert_same_networks(run_in_process(tmp_path / "stopped", *JOB, "mask"), run)
    assert len(resets) == 2  # after the second of three epochs, again
