"""Find a winning sign: warm-up -> levels -> signed masks -> final trainings -> results.

    python main.py --dataset cifar100 --arch efficientnet --method aws --final-levels 11 --final-seeds 2 3 4

Every stage leaves its result in the run folder and is skipped once it is there, so the same command continues after any
interruption. The flags are in utils/flags.py, the paper's ideas in utils/method/, one training step in
utils/method/step.py.
"""

import argparse
import signal
import sys
from contextlib import suppress
from functools import cached_property, partial

# Ctrl-C while the packages below are imported ends the program without their tracebacks.
if __name__ == "__main__" and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)

from torch import nn

from data import load_dataset
from data.batches import evaluation_batches, training_batches
from utils.errors import UserError, exit_status
from utils.flags import (
    check_signs_from,
    clock,
    describe_clock,
    describe_work,
    level_clock,
    level_epochs,
    level_rates,
    parse_arguments,
    planned_finals,
    planned_levels,
    rewound_to,
    run_settings,
    score_penalty,
    signed_mask_settings,
    stage_epochs,
    training_recipe,
)
from utils.method.gem_miner import freeze_rate, freezes_after, signed_constants
from utils.method.methods import METHODS
from utils.method.network import Blueprint, State, plain_state
from utils.method.norm_interpolation import layers_of
from utils.method.pruning import Masks, planned_survivors, prune_by_magnitude, survivors
from utils.method.signed_mask import (
    SignedMask,
    Subnetwork,
    count_lost_signs,
    count_sign_flips,
    extract_signed_mask,
    load_subnetwork,
    masks_of,
)
from utils.method.starts import LEVEL, NEW, REWOUND, STARTS, change_signs, compose
from utils.method.step import TrainingError
from utils.results.tables import collect_results, summary_table
from utils.runs.progress import JobProgress
from utils.runs.records import is_finished
from utils.runs.run import FinalTraining, Level, Run, delete_and_repeat, open_run_folder, provenance
from utils.runs.tensorboard import SCALARS_FOLDER, add_level_scalars
from utils.seeding import derive_seed
from utils.training.batch_statistics import deciding_processes, reestimate_batch_statistics
from utils.training.devices import choose_device, choose_speed, device_name
from utils.training.distributed import (
    check_processes,
    check_same_weights,
    follow_main_process,
    is_main_process,
    main_process_first,
    own_part,
    own_workers,
    process_group,
)
from utils.training.evaluation import (
    Evaluation,
    check_last_batch,
    describe_level,
    describe_network,
    evaluate,
    sign_statistics,
)
from utils.training.optimization import Recipe, cosine_rates, final_rates
from utils.training.stage import ORDINARY, Stage, train_stage
from utils.training.trainer import SearchTrainer, SignInTrainer, SubnetworkTrainer, Trainer


def main() -> int:
    return exit_status("main.py", lambda: run_job(parse_arguments()))


@process_group()
def run_job(args: argparse.Namespace) -> None:
    job, levels, finals = Job(args), planned_levels(args), planned_finals(args)
    # Of the processes that only make levels one is enough if each level needs the one before.
    alone = not finals and not job.method.searches
    with job.progress:
        wait = args.share and (alone or bool(finals))
        for level in follow_main_process(job.run.unfinished(levels, job.progress, wait, alone)):
            job.make_level(level)
        for final in follow_main_process(job.run.unfinished(finals, job.progress)):
            job.train_final(final)
    if is_main_process():
        show_results(job.run)


def show_results(run: Run) -> None:
    table = summary_table(collect_results([run.keep_results_table()]))
    print(*([f"\n{table}\n"] if table else []), f"all results: {run.folder}", sep="\n")


class Job:
    """One run, and how each of its stages is made."""

    def __init__(self, args: argparse.Namespace):
        """Check what can be checked before hours of training, open the run folder, and say what will be done."""
        self.args, self.method = args, METHODS[args.method]
        device = choose_device(args.device, args.deterministic)
        self.speed = choose_speed(device, args.precision, args.compile, args.cuda_graph)
        check_processes(args.batch_size, self.method.searches)
        amount = args.train_images_per_class, args.pixels, args.cache_short_side
        with main_process_first():  # which downloads what is missing
            dataset = load_dataset(args.dataset, args.data_root, *amount, own_workers(args.workers))
        self.blueprint = Blueprint(args.arch, args.dataset, dataset.classes, dataset.channels, dataset.image_size)
        self.recipe = training_recipe(args)
        planned_survivors(self.blueprint.prunable_count, args.prune_rate, args.levels)
        check_last_batch(self.blueprint, dataset, self.recipe)
        self.given = self.read_subnetwork()
        check_signs_from(args, self.blueprint)
        settings = run_settings(args) | {"data": dataset.description()}
        settings |= signed_mask_settings(args.signed_mask, self.given.source) | deciding_processes(self.blueprint)
        folder = args.runs_dir / args.name
        made_with = {"device": device_name(device), "precision": self.speed.precision}
        self.run = Run(folder, settings, self.blueprint, made_with, args.share)
        with main_process_first():
            self.open_folder(provenance(vars(args), device_name(device)))
        stages = stage_epochs(args)
        finished = sum(is_finished(folder / stage) for stage in stages)
        print(
            f"{folder}: {describe_work(args)} = {sum(stages.values()):,} epochs of {len(dataset.train):,} images "
            f"on {device}; {finished} of {len(stages)} stages are finished{describe_clock(args, len(dataset.train))}",
            flush=True,
        )
        self.progress = JobProgress(stages, len(dataset.train))
        self.dataset = dataset.divided(own_part()).to(device)

    def open_folder(self, about: dict) -> None:
        """Raises UserError if the run's folder has other settings or damaged files, or is not there for every
        process."""
        if is_main_process():
            open_run_folder(self.run.folder, self.run.settings, about)
            self.run.check_finished(planned_levels(self.args))
        elif not self.run.folder.exists():
            raise UserError(f"{self.run.folder} is not on every machine: choose a --runs-dir that all of them share")

    def read_subnetwork(self) -> Subnetwork:
        """What --signed-mask names, if anything, for this network."""
        path = self.args.signed_mask
        if not path:
            return Subnetwork({}, None, None)
        given = load_subnetwork(path, self.blueprint)
        if not given.signed_mask.keys() >= set(self.blueprint.classifier):
            print(f"{path} was found on {given.source['dataset']}: the classifier for {self.args.dataset} starts fresh")
        return given

    @cached_property
    def initial(self) -> State:
        """θ_init of the pruning run."""
        with main_process_first():
            return self.run.initialization(partial(self.initialize, self.args.seed))

    def initialize(self, seed: int) -> State:
        """A random initialization; for Gem-Miner, constants with its signs."""
        initial, names = self.blueprint.initialize(seed), self.blueprint
        return signed_constants(initial, names.scored, names.norms) if self.method.searches else initial

    @property
    def alpha_layers(self) -> int | None:
        """The same in every stage: a captured step reads an α of one shape."""
        return len(layers_of(self.blueprint.norms)) if self.args.alpha_per_layer else None

    @cached_property
    def trainer(self) -> SubnetworkTrainer:
        blueprint = self.blueprint
        holds = any(STARTS[final.start].holds_signs for final in planned_finals(self.args))
        holding = blueprint.signed if holds else ()
        return SubnetworkTrainer(blueprint, self.dataset, self.recipe, self.speed, self.trained, holding)

    @cached_property
    def sign_in_trainer(self) -> SignInTrainer:
        reset_epochs = self.args.sign_in_epochs
        return SignInTrainer(self.blueprint, self.dataset, self.recipe, self.speed, self.trained, reset_epochs)

    @property
    def trained(self) -> tuple[str, ...]:
        """The parameters that change. Gem-Miner's networks have no biases and no normalization parameters: those stay
        what they are."""
        return self.blueprint.scored if self.method.searches else self.blueprint.learnable

    def trained_state(self, network: nn.Module, stage: Level | FinalTraining, masks: Masks) -> State:
        """Raises UserError if it is not the same in every process."""
        trained = plain_state(network)
        check_same_weights(stage.stage, delete_and_repeat(self.run.folder / stage.stage), trained, masks)
        return trained

    # -----------------------------------------------------------------------------------------------------------------
    # Levels: finding masks and signs (section 3.1)
    # -----------------------------------------------------------------------------------------------------------------

    def make_level(self, level: Level) -> None:
        if self.method.searches:
            self.search_gem(level)
        else:
            self.prune_and_train(level)

    def prune_and_train(self, level: Level) -> None:
        """Remove the smallest of the surviving weights, then train on from the weights as they are, or from where the
        method sets them back to. Level 0 is the warm-up, and prunes nothing."""
        args, previous, masks = self.args, self.initial, self.blueprint.dense_masks()
        begin = previous
        if level.level:
            previous, masks = self.run.read(Level(level.level - 1).stage)
            masks = prune_by_magnitude(previous, masks, args.prune_rate)
            begin = self.rewind(previous)
        initial_norms = {name: self.initial[name] for name in self.blueprint.norms}
        self.trainer.begin(begin, masks, initial_norms)
        stage = Stage(
            title=f"level {level.level}/{args.levels}" if level.level else "warm-up",
            folder=self.run.folder / level.stage,
            rates=level_rates(args, level.level),
            seed=args.seed,
            purpose=level.stage,
            scalars=self.run.folder / SCALARS_FOLDER / "pruning",
            first_step=sum(level_epochs(args, before) for before in range(level.level)),
            alpha_range=args.alpha_range if self.method.interpolates else ORDINARY,
            alpha_layers=self.alpha_layers,
            test_every=args.test_every,
            ramp_epochs=args.level_ramp_epochs,
        )
        after_epoch = partial(self.keep_rewinding_point, level)
        rows = train_stage(self.trainer, stage, self.progress, args.checkpoint_seconds, after_epoch)
        if not stage.alpha_range[1]:  # ψ was never used, and weight decay has shrunk it: it is held where it began
            self.trainer.network.load_state_dict(initial_norms, strict=False)
        self.trainer.reestimate(self.statistics_seed(level))
        self.keep_level(level, stage, self.trainer.network, previous, masks, self.trainer.evaluate(), rows)

    def rewind(self, trained: State) -> State:
        """What the surviving weights are when a level's training begins: all that LRR, WR and IMP differ in."""
        epoch = rewound_to(self.args)
        begin = trained
        if epoch is not None:
            begin = self.run.rewinding_point(epoch, self.args.warmup_epochs) if epoch else self.initial
        kept = self.blueprint.norms if self.args.rewind_norms else ()
        return {**begin, **{name: self.initial[name] for name in kept}}

    def keep_rewinding_point(self, level: Level, epochs_done: int) -> None:
        """Weight rewinding keeps a state from the middle of the warm-up."""
        inside = level.level == 0 and epochs_done == self.args.rewind_epoch < self.args.warmup_epochs
        if inside and is_main_process():
            self.run.keep_rewinding_point(plain_state(self.trainer.network), self.initial)

    @cached_property
    def searcher(self) -> SearchTrainer:
        recipe = Recipe(self.args.batch_size, self.args.momentum, weight_decay=0.0)
        return SearchTrainer(self.blueprint, self.dataset, recipe, self.speed)

    def search_gem(self, level: Level) -> None:
        """Gem-Miner: a mask at initialization that leaves as many weights as level t of the other methods."""
        args = self.args
        scores_seed = derive_seed(args.seed, level.stage, "scores")
        self.searcher.begin(self.initial, scores_seed, score_penalty(args, level.level))
        miner = self.searcher.network
        rho = freeze_rate((1 - args.prune_rate) ** level.level, args.level_epochs)

        def freeze(epochs_done: int) -> None:
            if freezes_after(epochs_done):
                miner.freeze_smallest(rho)

        stage = Stage(
            title=f"search for level {level.level}",
            folder=self.run.folder / level.stage,
            rates=cosine_rates(args.search_lr, args.level_epochs),
            seed=args.seed,
            purpose=level.stage,
            scalars=self.run.folder / SCALARS_FOLDER / f"search_{level.stage}",
        )
        rows = train_stage(self.searcher, stage, self.progress, args.checkpoint_seconds, freeze)
        masks = miner.masks()
        network = self.blueprint.build(self.initial, masks, self.dataset.device)
        batches = training_batches(self.dataset, args.batch_size, self.statistics_seed(level))
        reestimate_batch_statistics(network, batches)
        test = evaluate(network, evaluation_batches(self.dataset, self.dataset.test))
        self.keep_level(level, stage, network, self.initial, masks, test, rows)

    def statistics_seed(self, level: Level) -> int:
        """Of the order in which batch-norm statistics are estimated again, with which a level is reported and kept."""
        return derive_seed(self.args.seed, level.stage, "statistics")

    def keep_level(
        self, level: Level, stage: Stage, network: nn.Module, previous: State, masks: Masks, test: Evaluation,
        rows: list[dict],
    ) -> None:  # fmt: skip
        """Keep a level's network with its signed mask and its result."""
        trained = self.trained_state(network, level, masks)
        measured = describe_network(network, masks, self.blueprint, test, rows)
        measured |= sign_statistics(trained, previous, self.initial, masks)
        measured["clock"] = level_clock(self.args, level.level, len(self.dataset.train))
        if not self.method.searches:
            measured |= self.measure_at_initial_norms(network, level)
        result = self.run.result(level, measured)
        if not is_main_process():
            return
        add_level_scalars(stage.scalars, level.stage, result)
        self.run.keep_signed_mask(level, extract_signed_mask(trained, masks, self.blueprint.signed))
        self.run.keep(level, trained, masks, self.initial, result)
        self.progress.note(describe_level(stage.title, result))

    def measure_at_initial_norms(self, network: nn.Module, level: Level) -> dict:
        """The other end of the path that AWS is built to keep flat: ψ_init in the place of ψ, which is overwritten,
        with batch-norm statistics of its own. Empty if the loss is not finite there."""
        network.load_state_dict({name: self.initial[name] for name in self.blueprint.norms}, strict=False)
        self.trainer.reestimate(self.statistics_seed(level))
        with suppress(TrainingError):
            test = self.trainer.evaluate()
            return {"test_error_at_initial_norms": test.error, "test_loss_at_initial_norms": test.loss}
        return {}

    # -----------------------------------------------------------------------------------------------------------------
    # Final trainings: what masks and signs are worth (section 3.2)
    # -----------------------------------------------------------------------------------------------------------------

    def train_final(self, final: FinalTraining) -> None:
        """Compose the network that the start describes, and train it normally."""
        args = self.args
        self.__dict__.pop("searcher", None)  # a job that trains has no search left: its memory is for the trainer
        trainer, state, masks, initial = self.begin_final(final)
        stage = Stage(
            title=f"final {final.name}",
            folder=self.run.folder / final.stage,
            rates=final_rates(args.final_schedule, args.lr, args.final_epochs, args.decays_at),
            seed=final.order_seed,
            purpose="final",
            scalars=self.run.folder / SCALARS_FOLDER / f"final_{final.name}",
            alpha_layers=self.alpha_layers,
            test_every=args.test_every,
            ramp_epochs=args.final_ramp_epochs,
        )
        rows = train_stage(trainer, stage, self.progress, args.checkpoint_seconds, trainer.after_epoch)
        network = trainer.plain_network
        trained = self.trained_state(network, final, masks)
        measured = describe_network(network, masks, self.blueprint, trainer.evaluate(), rows)
        measured["signs_flipped_in_training"] = count_sign_flips(trained, state, masks) / survivors(masks)
        measured["clock"] = clock(args, stage.rates, len(self.dataset.train))
        if is_main_process():
            self.run.keep(final, trained, masks, initial, self.run.result(final, measured))
        self.progress.note(f"{stage.title}: test accuracy {measured['test_accuracy']:.2f} %")

    def begin_final(self, final: FinalTraining) -> tuple[Trainer, State, Masks, State]:
        """The trainer, which holds what the training begins from; that state with its masks, and the new
        initialization."""
        sources, masks, signs = self.sources(final)
        start = STARTS[final.start]
        borrowed = self.run.signed_mask(final.signs_from) if final.signs_from else None
        signs = change_signs(signs, borrowed, final.flipped, sources[NEW], final.init_seed)
        state, masks = compose(start, sources, masks, signs, self.blueprint.norms, final.init_seed)
        lost = count_lost_signs(state, signs) if (start.signs, start.magnitudes) == (LEVEL, NEW) else 0
        if lost and not self.method.searches:  # whose networks have no biases
            self.progress.note(
                f"final {final.name}: {lost} of the level's signs are lost, of parameters that start at 0"
            )
        if start.factorizes:
            self.sign_in_trainer.begin(state, masks)
            return self.sign_in_trainer, state, masks, sources[NEW]
        self.trainer.begin(state, masks, held_signs=signs if start.holds_signs else None)
        return self.trainer, state, masks, sources[NEW]

    def sources(self, final: FinalTraining) -> tuple[dict[str, State], Masks, SignedMask]:
        """What a start's words stand for: states by word, and the level's masks and signs."""
        start, blueprint = STARTS[final.start], self.blueprint
        new = self.initialize(final.init_seed) if start.new_initialization else self.initial
        if not start.needs_level:
            masks = blueprint.dense_masks()
            return {NEW: new}, masks, extract_signed_mask(new, masks, blueprint.signed)
        if signed_mask := self.given.signed_mask:
            return {NEW: new, LEVEL: new | self.given.values}, masks_of(signed_mask, blueprint.prunable), signed_mask
        trained, masks = self.run.read(Level(final.level).stage)
        signs = extract_signed_mask(trained, masks, blueprint.signed)
        return {NEW: new, LEVEL: trained, REWOUND: self.rewind(trained)}, masks, signs


if __name__ == "__main__":
    sys.exit(main())
