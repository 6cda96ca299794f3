"""Every start as literal values: what ``compose`` makes of a mask, signs and three states of a handful of weights."""

import pytest
import torch
from torch import nn

from tests.commands import run_in_process
from utils.files import read_json
from utils.method.starts import LEVEL, NEW, REWOUND, STARTS, compose
from utils.method.step import hold_signs

NORMS = ("norm.weight", "norm.bias")
PARTS = ("conv", "bias", *NORMS, "norm.running_mean")


def state(*values):
    return {name: torch.tensor(value, dtype=torch.float32) for name, value in zip(PARTS, values, strict=True)}


# The weights that may be pruned, a bias that has a sign too, scale and shift, and a batch-norm statistic.
SOURCES = {
    NEW: state([1, -2, 3, -4], [5, -6], [1, 1], [0, 0], [0, 0]),
    LEVEL: state([-10, 0, -30, 40], [-50, -60], [-0.5, 2], [-0.7, 0.3], [9, 9]),
    REWOUND: state([100, -200, 300, -400], [500, 600], [2, 2], [3, 3], [8, 8]),
}
MASKS = {"conv": torch.tensor([True, False, True, True])}
SIGNS = {"conv": torch.tensor([-1, 0, -1, 1], dtype=torch.int8), "bias": torch.tensor([-1, -1], dtype=torch.int8)}
DENSE_MASKS = {"conv": torch.tensor([True] * 4)}
DENSE_SIGNS = {"conv": torch.tensor([1, -1, 1, -1], dtype=torch.int8), "bias": torch.tensor([1, -1], dtype=torch.int8)}


def begin(start, sources=SOURCES, seed=2, masks=MASKS, signs=SIGNS):
    if not STARTS[start].needs_level:
        sources, masks, signs = {NEW: sources[NEW]}, DENSE_MASKS, DENSE_SIGNS
    return compose(STARTS[start], sources, masks, signs, NORMS, seed)


# start: convolution, bias, scale, shift, running mean
EXPECTED = {
    "dense": ([1, -2, 3, -4], [5, -6], [1, 1], [0, 0], [0, 0]),
    "subnetwork": ([-10, 0, -30, 40], [-50, -60], [-0.5, 2], [-0.7, 0.3], [9, 9]),
    "signs": ([-1, 0, -3, 4], [-5, -6], [1, 1], [0, 0], [0, 0]),
    "mask": ([1, 0, 3, -4], [5, -6], [1, 1], [0, 0], [0, 0]),
    "signs-keep-norms": ([-1, 0, -3, 4], [-5, -6], [-0.5, 2], [-0.7, 0.3], [0, 0]),
    "signs-shifted-norms": ([-1, 0, -3, 4], [-5, -6], [-1, 1], [-0.1, 0.1], [0, 0]),
    "signs-held": ([-1, 0, -3, 4], [-5, -6], [1, 1], [0, 0], [0, 0]),
    "sign-in": ([1, 0, 3, -4], [5, -6], [1, 1], [0, 0], [0, 0]),
    "signs-constant": ([-2.5, 0, -2.5, 2.5], [-5.5, -5.5], [1, 1], [0, 0], [0, 0]),
    "rewound": ([100, 0, 300, -400], [500, 600], [2, 2], [3, 3], [8, 8]),
    "weights": ([-10, 0, -30, 40], [-50, -60], [1, 1], [0, 0], [0, 0]),
    "mask-keep-norms": ([1, 0, 3, -4], [5, -6], [-0.5, 2], [-0.7, 0.3], [0, 0]),
}
EXPECTED_MAGNITUDES = {
    "magnitudes": ([10, 0, 30, 40], [50, 60], [1, 1], [0, 0], [0, 0]),
    "magnitudes-keep-norms": ([10, 0, 30, 40], [50, 60], [-0.5, 2], [-0.7, 0.3], [0, 0]),
    "random-signs": ([1, 0, 3, 4], [5, 6], [1, 1], [0, 0], [0, 0]),
}


def values(state):
    return [pytest.approx(state[name].tolist()) for name in PARTS]


@pytest.mark.parametrize("start", [*EXPECTED, *EXPECTED_MAGNITUDES])
def test_a_start_takes_what_it_says(start):
    """If signs are drawn, in magnitude."""
    began, masks = begin(start)
    if start in EXPECTED_MAGNITUDES:
        began = {name: tensor if name in NORMS else tensor.abs() for name, tensor in began.items()}
    assert list((EXPECTED | EXPECTED_MAGNITUDES)[start]) == values(began)
    assert masks["conv"].tolist() == ([True] * 4 if start == "dense" else MASKS["conv"].tolist())


def test_a_shuffled_mask_leaves_three_of_four_at_drawn_places():
    drawn = set()
    for seed in range(40):
        began, masks = begin("shuffled-mask", seed=seed)
        assert int(masks["conv"].sum()) == 3
        assert began["conv"].tolist() == (SOURCES[NEW]["conv"] * masks["conv"]).tolist()
        assert values(began)[1:] == [[5, -6], [1, 1], [0, 0], [0, 0]]
        drawn.add(tuple(masks["conv"].tolist()))
    assert len(drawn) == 4


def test_drawn_signs_are_half_and_half_and_repeatable():
    """Of 10,000 signs one standard deviation is 0.005."""
    sources = {word: {"conv": torch.ones(10_000)} for word in (NEW, LEVEL)}
    signs, masks = {"conv": torch.ones(10_000, dtype=torch.int8)}, {"conv": torch.ones(10_000, dtype=torch.bool)}
    first, again, other = (
        compose(STARTS["random-signs"], sources, masks, signs, (), seed)[0]["conv"] for seed in (2, 2, 3)
    )
    assert torch.equal(first, again)
    assert (first == 1).float().mean().item() == pytest.approx(0.5, abs=0.025)
    assert (first == other).float().mean().item() == pytest.approx(0.5, abs=0.025)


def test_a_pruned_classifier_stays_pruned():
    """Gem-Miner's masks cover weights that other methods never prune."""
    masks = MASKS | {"bias": torch.tensor([False, True])}
    signs = SIGNS | {"bias": torch.tensor([0, -1], dtype=torch.int8)}
    for start, bias in (("signs", [0, -6]), ("mask", [0, -6]), ("subnetwork", [0, -60])):
        assert begin(start, masks=masks, signs=signs)[0]["bias"].tolist() == bias


@pytest.mark.parametrize("start", STARTS)
def test_a_start_needs_only_what_it_says(start):
    """A signed mask alone is enough unless ``needs_trained``; another initialization matters if it says so."""
    if STARTS[start].needs_trained:
        with pytest.raises(KeyError):
            begin(start, {NEW: SOURCES[NEW]})
    else:
        began = begin(start, {NEW: SOURCES[NEW]})[0]
        assert values(began) == [tensor.tolist() for tensor in begin(start)[0].values()]
    usual, other = begin(start)[0], SOURCES | {NEW: state([-7, 7, -7, 7], [7, 7], [7, 7], [7, 7], [0, 0])}
    begun = [begin(start, other, seed)[0] for seed in range(3, 9)]  # two seeds can draw the same six signs
    matters = any(not torch.equal(tensor, usual[name]) for began in begun for name, tensor in began.items())
    assert matters == STARTS[start].new_initialization


def test_every_start_is_tested_here_and_changes_nothing_that_it_is_given():
    assert {*EXPECTED, *EXPECTED_MAGNITUDES, "shuffled-mask"} == set(STARTS)
    before = {word: {name: tensor.clone() for name, tensor in state.items()} for word, state in SOURCES.items()}
    for start in STARTS:
        for tensor in begin(start)[0].values():
            tensor.fill_(1234.0)
    for word, kept in before.items():
        assert values(kept) == [SOURCES[word][name].tolist() for name in PARTS]


def test_held_signs_reflect_a_weight_at_zero(tmp_path):
    """−0.5 would have become 0.5; the free weight may cross. After a whole training no held sign has changed."""
    network = nn.Linear(2, 1, bias=False)
    with torch.no_grad():
        network.weight.copy_(torch.tensor([[0.5, 0.5]]))
    hold_signs(network, {"weight": torch.tensor([[-1.0, 0.0]])})
    assert network.weight.tolist() == [[-0.5, 0.5]]
    run = run_in_process(tmp_path, "--method", "lrr", "--lr", "1", "--start", "signs", "signs-held")
    flipped = {
        start: read_json(run / "final" / f"level_02_{start}_seed2" / "result.json")["signs_flipped_in_training"]
        for start in ("signs", "signs-held")
    }
    assert flipped["signs-held"] == 0 < flipped["signs"]
