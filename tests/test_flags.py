"""main.py's command line: what it means without a flag, what decides a result, and what it plans."""

import argparse
import re

import pytest

import main
from tests.commands import TINY_JOB
from utils.flags import (
    describe_work,
    flags_of_settings,
    level_clock,
    parse_arguments,
    planned_finals,
    run_settings,
    score_penalty,
    stage_epochs,
)
from utils.method.methods import METHODS
from utils.results.plan import flags_of
from utils.runs.records import EARLIER_DEFAULTS, NOT_FLAGS
from utils.seeding import derive_seed


def parse(line):
    return parse_arguments(line.split())


def test_the_defaults_are_the_paper_s_for_cifar100():
    """Section 4.1: 10 dense epochs, 15 levels of 10 epochs that prune a fifth, final trainings of 100 epochs."""
    args = parse("")
    assert (args.dataset, args.arch, args.method, args.seed) == ("cifar100", "resnet50", "aws", 1)
    assert (args.warmup_epochs, args.levels, args.level_epochs, args.prune_rate) == (10, 15, 10, 0.2)
    assert (args.pruning_schedule, args.alpha_range) == ("constant", [0, 1])
    assert (args.final_epochs, args.decays_at) == (100, [0.5, 0.75])
    assert (args.lr, args.momentum, args.weight_decay, args.batch_size) == (0.1, 0.9, 5e-4, 128)


# flags: every stage with its epochs, and the line that says what will be done
PLANS = [
    (
        "--levels 1 --seed 4",
        {"level_00": 10, "level_01": 10}
        | {f"final/level_01_{start}_seed5": 100 for start in ("subnetwork", "signs", "mask")},
        "10 warm-up + 1 levels x 10 + 3 final trainings x 100",
    ),
    (
        "--warmup-epochs 3 --levels 2 --level-epochs 4 --start",
        {"level_00": 3, "level_01": 4, "level_02": 4},
        "3 warm-up + 2 levels x 4 + 0 final trainings x 100",
    ),
    ("--method dense --seed 4 --final-epochs 7", {"final/dense_seed4": 7}, "1 final trainings x 7"),
    (
        "--method gm --final-levels 2 1 2 --start mask",  # searches that do not need each other
        {"level_02": 10, "level_01": 10, "final/level_02_mask_seed2": 100, "final/level_01_mask_seed2": 100},
        "2 levels x 10 + 2 final trainings x 100",
    ),
    (
        "--signed-mask a.npz",  # no level of this run, so that none is in the names
        {"final/signs_seed2": 100, "final/mask_seed2": 100},
        "2 final trainings x 100",
    ),
    (
        "--levels 0 --start mask subnetwork dense --final-seeds 2 3 --init-seed 3",  # a subnetwork needs no new one
        {"level_00": 10}
        | {f"final/level_00_mask_seed{seed}" + "_init3" * (seed == 2): 100 for seed in (2, 3)}
        | {f"final/level_00_subnetwork_seed{seed}": 100 for seed in (2, 3)}
        | {f"final/dense_seed{seed}" + "_init3" * (seed == 2): 100 for seed in (2, 3)},
        "10 warm-up + 0 levels x 10 + 6 final trainings x 100",
    ),
]


@pytest.mark.parametrize(("line", "epochs", "work"), PLANS, ids=[line for line, *_ in PLANS])
def test_what_is_planned(line, epochs, work):
    args = parse(line)
    assert list(stage_epochs(args).items()) == list(epochs.items())
    assert describe_work(args) == work


def test_final_trainings_know_their_seeds():
    """Every start that has the run's own initialization is of the run's seed, whatever --init-seed is."""
    finals = planned_finals(parse("--seed 5 --start subnetwork signs --final-seeds 6 7 --init-seed 9"))
    assert [(final.start, final.init_seed, final.order_seed) for final in finals] == [
        ("subnetwork", 5, 6), ("subnetwork", 5, 7), ("signs", 9, 6), ("signs", 9, 7),
    ]  # fmt: skip


def test_signs_can_be_flipped_or_come_from_elsewhere():
    line = "--levels 2 --start subnetwork signs --flip-signs 0 0.1 --signs-from own 1 runs/a_seed1/level_02/network.pt"
    finals = planned_finals(parse(line))
    assert [re.sub("-[0-9a-f]{8}_seed", "_seed", final.name) for final in finals] == [
        "level_02_subnetwork_seed2",  # its signs are its own
        *("level_02_signs_seed2", "level_02_signs_flipped0.1_seed2"),
        *("level_02_signs_signs_from_level_01_seed2", "level_02_signs_flipped0.1_signs_from_level_01_seed2"),
        "level_02_signs_signs_from_a_seed1-level_02_seed2",
        "level_02_signs_flipped0.1_signs_from_a_seed1-level_02_seed2",
    ]
    flags = line.split()
    for final in finals:  # the flags that ask for one of them ask for no other
        (asked,) = flags_of([final], flags)
        assert planned_finals(parse_arguments([*flags, *asked])) == [final]


@pytest.mark.parametrize(
    ("line", "epochs"),
    [("", 30), ("--method imp", 10), ("--method wr --rewind-epoch 3", 13), ("--rewind-norms", 10),
     ("--pruning-schedule dense --decays-at 0.5", 16.5), ("--method gm", None), ("--optimizer adam", None)],
)  # fmt: skip
def test_the_clock_counts_since_psi_was_psi_init(line, epochs):
    """At the second level after a warm-up, 10 epochs each; 1,000 images are 8 steps of 0.1 / (1 − 0.9) · 0.0005."""
    expected = epochs and pytest.approx(epochs * 8 * 5e-4)
    assert level_clock(parse(f"--batch-size 125 {line}"), 2, 1000) == expected


def test_a_level_s_penalty_is_its_own_or_that_of_all():
    args = parse("--method gm --levels 15 --final-levels 11 15 --score-penalty 1e-5 15:5e-6")
    assert [score_penalty(args, level) for level in (11, 15)] == [1e-5, 5e-6]
    assert flags_of_settings({"score_penalty": args.score_penalty}) == ["--score-penalty", "1e-05", "15:5e-06"]


def test_seeds_are_fixed_numbers():
    """A change of this number changes every result ever made."""
    assert derive_seed(1, "level_03", 7, "alpha") == 1176506211663841885
    assert derive_seed(1, "level_03", 7, "alpha") != derive_seed(1, "level_03", 8, "alpha")
    assert derive_seed(1, "final") != derive_seed(2, "final")


DECIDES = [
    *("--dataset digits", "--arch resnet20", "--method lrr", "--seed 2", "--train-images-per-class 5"),
    *("--warmup-epochs 11", "--level-epochs 11", "--prune-rate 0.3", "--pruning-schedule dense"),
    *("--method wr --rewind-epoch 3", "--alpha-range 0 0.5", "--final-epochs 11", "--decays-at 0.5", "--lr 0.2"),
    *("--momentum 0.8", "--weight-decay 0", "--batch-size 64", "--method gm --search-lr 0.2"),
    *("--method gm --score-penalty 0", "--pixels 8", "--rewind-norms", "--alpha-per-layer"),
    *("--optimizer adam", "--final-schedule cosine", "--level-ramp-epochs 1", "--final-ramp-epochs 1", "--clip-norm 1"),
    *("--label-smoothing 0.1", "--micro-batch-size 64", "--sign-in-epochs 2"),
]
ADDS_OR_SPEEDS_UP = [
    *("--levels 3", "--start mask", "--final-levels 3", "--final-seeds 8", "--init-seed 8", "--device cpu"),
    *("--precision bf16", "--compile", "--cuda-graph", "--deterministic", "--data-root elsewhere", "--share"),
    *("--runs-dir elsewhere", "--name other", "--checkpoint-seconds 5"),
]


@pytest.mark.parametrize("line", [*DECIDES, *ADDS_OR_SPEEDS_UP])
def test_what_makes_another_run(line):
    """Compared with the same command without its last flag."""
    shorter = line.rpartition("--")[0]
    assert (run_settings(parse(line)) != run_settings(parse(shorter))) == (line in DECIDES)


def test_what_earlier_runs_do_not_say_is_the_default():
    settings = run_settings(parse(""))
    for name in EARLIER_DEFAULTS.keys() - NOT_FLAGS:
        assert settings[name] == EARLIER_DEFAULTS[name], name


@pytest.mark.parametrize("method", [name for name in METHODS if name != "signed_mask"])
@pytest.mark.parametrize("more", ["", "--decays-at 0.3 0.6 --alpha-range 0.2 0.8 --train-images-per-class 9"])
def test_a_run_s_own_settings_are_flags_that_continue_it(method, more):
    """Other programs add final trainings with them."""
    settings = run_settings(parse(f"--dataset digits --arch resnet20 --method {method} {more}"))
    assert run_settings(parse_arguments(flags_of_settings(settings | {"data": "digits"}))) == settings


def test_every_flag_has_help(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    with pytest.raises(SystemExit) as exit:
        parse("--help")
    assert exit.value.code == 0
    text = capsys.readouterr().out
    for name in vars(parse("")):
        flag = name.replace("_", "-")
        (described,) = re.findall(rf"^  --{flag}(?:, --no-{flag})?\b(.*(?:\n    .*)*)", text, re.MULTILINE)
        without_values = re.sub(r"\(default: \S+\)|\{.*?\}|[A-Z_]{2,}", "", described)
        assert re.search(r"[a-z]{2}", without_values), flag


def test_every_flag_is_read(tmp_path, monkeypatch):
    """By a job with levels, and one that searches; to write a flag down among the settings is not to read it."""
    seen = set()

    class Flags(argparse.Namespace):
        def __getattribute__(self, name):
            seen.add(name)
            return super().__getattribute__(name)

    monkeypatch.setattr(main.flags, "run_settings", lambda args: run_settings(argparse.Namespace(**vars(args))))
    tiny = "--train-images-per-class 2 --levels 1 --level-epochs 6 --final-epochs 1".split()
    for more in ("--method aws --start signs sign-in", "--method gm --start"):
        line = [*TINY_JOB, *tiny, "--runs-dir", str(tmp_path), *more.split()]
        main.run_job(Flags(**vars(parse_arguments(line))))
    assert set(vars(parse(""))) <= seen
