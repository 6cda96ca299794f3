"""Optimizers, schedules, clipping, label smoothing and micro-batches, against plain loops with torch's own."""

import copy
from dataclasses import replace
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch.func import functional_call

from data.batches import training_batches
from tests import toy_training as toy
from tests.test_simulated_gpu import replayed_graphs  # noqa: F401
from tests.toys import conv_batch_norm, conv_layer_norm, toy_dataset
from utils.flags import flags_of_settings, parse_arguments, run_settings, training_recipe
from utils.method.norm_interpolation import initial_normalization
from utils.method.step import make_train_step
from utils.training.devices import Speed
from utils.training.optimization import (
    OPTIMIZERS,
    Recipe,
    cosine_rates,
    decayed_rates,
    final_rates,
    make_capturable,
    make_optimizer,
    optimizer_state,
    ramp,
    set_rate,
)
from utils.training.trainer import SubnetworkTrainer

# By torch's own names; each not fused, as most programs use them.
TORCH_S = {
    "sgd": partial(torch.optim.SGD, momentum=0.9),
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
}
RECIPE = Recipe(batch_size=8, momentum=0.9, weight_decay=0.05)
BATCHES = [batch for epoch in range(4) for batch in training_batches(toy_dataset(count=20), 8, epoch)]  # 8, 8, 4 images


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize(
    "more", [{}, {"clip_norm": 0.1, "label_smoothing": 0.2}], ids=["plain", "clipped and smoothed"]
)
def test_training_is_that_of_torch_s_optimizer_with_a_masked_forward(optimizer, more):
    """To rounding, over 12 steps at rates that change. Gradients of pruned weights do not count in the norm."""
    torch.manual_seed(0)
    ours, recipe = conv_layer_norm(), replace(RECIPE, optimizer=optimizer, **more)
    reference = copy.deepcopy(ours)
    masks = {"0.weight": torch.rand(4, 1, 3, 3) > 0.5}
    ours[0].weight.data *= masks["0.weight"]
    optimized = make_optimizer(ours, recipe)
    step = make_train_step(
        ours, optimized, masks, {}, label_smoothing=recipe.label_smoothing, clip_norm=recipe.clip_norm
    )
    plain = TORCH_S[optimizer](reference.parameters(), lr=0.01, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(plain, T_max=len(BATCHES))
    norms = []
    for (images, labels), rate in zip(BATCHES, cosine_rates(0.01, len(BATCHES)), strict=True):
        set_rate(optimized, rate)
        loss, correct = step(images, labels, torch.tensor(1.0))
        outputs = functional_call(reference, {"0.weight": reference[0].weight * masks["0.weight"]}, (images,))
        expected = F.cross_entropy(outputs, labels, label_smoothing=recipe.label_smoothing)
        plain.zero_grad()
        expected.backward()
        norms.append(torch.nn.utils.clip_grad_norm_(reference.parameters(), recipe.clip_norm or torch.inf))
        plain.step()
        schedule.step()
        assert (loss, correct) == (pytest.approx(expected.item(), rel=1e-5), (outputs.argmax(1) == labels).sum())
        assert not ours[0].weight[~masks["0.weight"]].any()
    assert min(norms) > 0.1  # it was clipped
    for (name, parameter), other in zip(ours.named_parameters(), reference.parameters(), strict=True):
        expected = other * masks[name] if name in masks else other
        torch.testing.assert_close(parameter, expected, rtol=1e-4, atol=1e-6, msg=name)


def test_schedules_are_torch_s():
    """A value an epoch."""
    plain = torch.optim.SGD([torch.zeros(1)], lr=0.3)
    for ours, scheduler in (
        (cosine_rates(0.3, 12), torch.optim.lr_scheduler.CosineAnnealingLR(plain, T_max=12)),
        (decayed_rates(0.3, 12, (0.5, 0.75)), torch.optim.lr_scheduler.MultiStepLR(plain, [6, 9])),
    ):
        plain.param_groups[0]["lr"], theirs = 0.3, []
        for _ in ours:
            theirs.append(plain.param_groups[0]["lr"])
            plain.step()
            scheduler.step()
        assert ours == pytest.approx(theirs)
    for rates in ([], [1], [1, 0.1], [1, 1, 0.1], [1, 1, 0.1, 0.01]):
        assert decayed_rates(1.0, len(rates), (0.5, 0.75)) == pytest.approx(rates)
    gem_miner_s = [0.01] * 80 + [0.001] * 40 + [0.0001] * 30
    assert decayed_rates(0.01, 150, (0.5333, 0.8)) == pytest.approx(gem_miner_s)
    assert final_rates("cosine", 0.3, 12, None) == cosine_rates(0.3, 12)
    assert final_rates("step", 0.3, 12, (0.5, 0.75)) == decayed_rates(0.3, 12, (0.5, 0.75))


def test_a_ramp_rises_step_by_step_to_the_schedule_s_rate():
    assert ramp(0.8, epoch=0, steps=4, ramp_epochs=2) == pytest.approx([0.1, 0.2, 0.3, 0.4])
    assert ramp(0.8, epoch=1, steps=4, ramp_epochs=2) == pytest.approx([0.5, 0.6, 0.7, 0.8])
    assert ramp(0.8, epoch=2, steps=4, ramp_epochs=2) == [0.8] * 4
    assert ramp(0.1, epoch=0, steps=3, ramp_epochs=0) == [0.1] * 3  # the very number, as without a ramp


def gradients(network, initial_norms, micro_batch_size, batch):
    """Of one step under α = 0.3, with its loss and hits."""
    network = copy.deepcopy(network)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.0)
    step = make_train_step(network, optimizer, {}, initial_norms, micro_batch_size=micro_batch_size)
    loss, correct = step(*batch, torch.tensor(0.3))
    return {name: parameter.grad for name, parameter in network.named_parameters()} | {"loss": loss, "hits": correct}


@pytest.mark.parametrize("size", [1, 2, 3, 4, 8, 100])
def test_micro_batches_make_the_whole_batch_s_gradients(size):
    """To rounding, all under one α, even if the last one is smaller. One of the whole size is the step itself."""
    torch.manual_seed(0)
    network, batch = conv_layer_norm(), BATCHES[0]
    far_norms = {name: tensor + 0.5 for name, tensor in initial_normalization(network).items()}
    whole = gradients(network, far_norms, None, batch)
    for name, value in gradients(network, far_norms, size, batch).items():
        torch.testing.assert_close(value, whole[name], rtol=1e-5, atol=1e-6, msg=name)
        assert size < 8 or torch.equal(value, whole[name])
    assert not torch.equal(whole["2.weight"], gradients(network, {}, None, batch)["2.weight"])  # α counts


def test_a_batch_norm_sees_a_micro_batch():
    """The gradients are the mean of those of the halves."""
    torch.manual_seed(0)
    network, (images, labels) = conv_batch_norm(), BATCHES[0]
    first, second = (gradients(network, {}, None, half) for half in zip(images.split(4), labels.split(4), strict=True))
    for name, value in gradients(network, {}, 4, (images, labels)).items():
        if name != "hits":
            torch.testing.assert_close(value, (first[name] + second[name]) / 2, rtol=1e-5, atol=1e-6, msg=name)


EVERYTHING = {"label_smoothing": 0.1, "clip_norm": 0.5, "micro_batch_size": 4}


@pytest.mark.slow
@pytest.mark.simulated_gpu
@pytest.mark.usefixtures("replayed_graphs")
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_replayed_step_is_the_readable_one_with_every_recipe(optimizer):
    """To the last bit, in a second stage too: moments and counts of steps are as fresh as at first."""
    recipe = replace(toy.RECIPE, optimizer=optimizer, **EVERYTHING)
    replayed, readable, fresh = (
        SubnetworkTrainer(toy.BLUEPRINT, toy.DATASET, recipe, speed, toy.BLUEPRINT.learnable)
        for speed in (Speed(cuda_graph=True), Speed(), Speed())
    )
    for trainer in (readable, fresh):
        make_capturable(trainer.optimizer, toy.CPU)  # a graph's rates are float32 too
    for seed, others in ((1, [readable]), (2, [readable, fresh])):
        toy.begin(replayed, seed)
        losses = toy.train(replayed)
        toy.assert_masked(replayed, seed)
        for other in others:
            toy.begin(other, seed)
            assert toy.train(other) == losses
            for ours, theirs in zip(optimizer_state(replayed.optimizer), optimizer_state(other.optimizer), strict=True):
                assert ours.keys() == theirs.keys()
                assert all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.slow
def test_compiled_micro_batches_follow_the_readable_step(no_code_generated):
    recipe = replace(toy.RECIPE, optimizer="adamw", **EVERYTHING)
    losses = []
    for speed in (Speed(), Speed(compile=True)):
        trainer = SubnetworkTrainer(toy.BLUEPRINT, toy.DATASET, recipe, speed, toy.BLUEPRINT.learnable)
        toy.begin(trainer, 1)
        losses.append(toy.train(trainer, epochs=1))
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)


def test_the_flags_make_a_recipe():
    args = parse_arguments(
        "--dataset digits --batch-size 32 --optimizer adamw --weight-decay 0.05 --clip-norm 1 --label-smoothing 0.1 "
        "--micro-batch-size 16 --final-schedule cosine --level-ramp-epochs 2 --final-ramp-epochs 1".split()
    )
    assert training_recipe(args) == Recipe(32, 0.9, 0.05, "adamw", 0.1, 1.0, 16)
    assert args.decays_at is None  # no part of a cosine
    assert run_settings(parse_arguments(flags_of_settings(run_settings(args)))) == run_settings(args)
