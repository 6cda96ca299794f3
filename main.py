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

from data import load_dataset
from utils import flags
from utils.errors import UserError, exit_status
from utils.method.gem_miner import freeze_rate, signed_constants
from utils.method.methods import METHODS
from utils.method.network import Blueprint, State, plain_state
from utils.method.pruning import Masks, planned_survivors, prune_by_magnitude
from utils.method.signed_mask import SignedMask, count_lost_signs, extract_signed_mask, load_subnetwork, masks_of
from utils.method.starts import LEVEL, NEW, REWOUND, STARTS, change_signs, compose
from utils.method.step import DivergedError
from utils.results.tables import collect_results, summary_table
from utils.runs.progress import JobProgress
from utils.runs.records import is_finished
from utils.runs.run import FinalTraining, Level, Run, delete_and_repeat, open_run_folder, provenance
from utils.runs.tensorboard import SCALARS_FOLDER, add_level_scalars
from utils.seeding import derive_seed
from utils.training import distributed
from utils.training.batch_statistics import deciding_processes
from utils.training.devices import choose_device, choose_speed, device_name
from utils.training.evaluation import check_last_batch, describe_level, describe_network, flipped_share, sign_statistics
from utils.training.optimization import cosine_rates, final_rates
from utils.training.stage import ORDINARY, Stage, train_stage
from utils.training.trainer import SearchTrainer, SignInTrainer, SubnetworkTrainer, Trainer


def main() -> int:
    return exit_status("main.py", lambda: run_job(flags.parse_arguments()))


@distributed.process_group()
def run_job(args: argparse.Namespace) -> None:
    job, levels, finals = Job(args), flags.planned_levels(args), flags.planned_finals(args)
    make_level = job.search if job.method.searches else job.prune_and_train
    # Of the processes that only make levels one is enough if each level needs the one before.
    alone = not finals and not job.method.searches
    wait = args.share and (alone or bool(finals))
    with job.progress:
        for level in distributed.follow_main_process(job.run.unfinished(levels, job.progress, wait, alone)):
            make_level(level)
        for final in distributed.follow_main_process(job.run.unfinished(finals, job.progress)):
            job.train_final(final)
    if distributed.is_main_process():
        table = summary_table(collect_results([job.run.keep_results_table()]))
        print(*([f"\n{table}\n"] if table else []), f"all results: {job.run.folder}", sep="\n")


class Job:
    """One run, and how each of its stages is made."""

    def __init__(self, args: argparse.Namespace):
        """Check what can be checked before hours of training, open the run folder, and say what will be done."""
        self.args, self.method = args, METHODS[args.method]
        device = choose_device(args.device, args.deterministic)
        speed, recipe = choose_speed(device, args.precision, args.compile, args.cuda_graph), flags.training_recipe(args)
        distributed.check_processes(args.batch_size, self.method.searches)
        amount = args.train_images_per_class, args.pixels, args.cache_short_side
        with distributed.main_process_first():  # which downloads what is missing
            dataset = load_dataset(args.dataset, args.data_root, *amount, distributed.own_workers(args.workers))
        self.blueprint = Blueprint(args.arch, args.dataset, dataset.classes, dataset.channels, dataset.image_size)
        planned_survivors(self.blueprint.count(self.blueprint.prunable), args.prune_rate, args.levels)
        check_last_batch(self.blueprint, dataset, recipe)
        self.given = load_subnetwork(args.signed_mask, self.blueprint)
        found_on = (self.given.source or {"dataset": args.dataset})["dataset"]
        if found_on != args.dataset:
            print(f"{args.signed_mask} was found on {found_on}: the classifier for {args.dataset} starts fresh")
        flags.check_signs_from(args, self.blueprint)
        settings = flags.run_settings(args) | {"data": dataset.description()}
        settings |= flags.signed_mask_settings(args.signed_mask, self.given.source)
        settings |= deciding_processes(self.blueprint)
        made_with = {"device": device_name(device), "precision": speed.precision}
        self.run = Run(args.runs_dir / args.name, settings, self.blueprint, made_with, args.share)
        with distributed.main_process_first():
            self.open_folder(provenance(vars(args), device_name(device)))
        stages, self.images = flags.stage_epochs(args), len(dataset.train)
        finished = sum(is_finished(self.run.folder / stage) for stage in stages)
        work = f"{flags.describe_work(args)} = {sum(stages.values()):,} epochs of {self.images:,} images on {device}"
        clock = flags.describe_clock(args, self.images)
        print(f"{self.run.folder}: {work}; {finished} of {len(stages)} stages are finished{clock}", flush=True)
        self.progress = JobProgress(stages, self.images)
        # What trainers are made from.
        self.materials = self.blueprint, dataset.divided(distributed.own_part()).to(device), recipe, speed

    def open_folder(self, about: dict) -> None:
        """Raises UserError if the run's folder has other settings or damaged files, or is not there for every
        process."""
        if distributed.is_main_process():
            open_run_folder(self.run.folder, self.run.settings, about)
            self.run.check_finished(flags.planned_levels(self.args))
        elif not self.run.folder.exists():
            raise UserError(f"{self.run.folder} is not on every machine: choose a --runs-dir that all of them share")

    @cached_property
    def initial(self) -> State:
        """θ_init of the pruning run."""
        with distributed.main_process_first():
            return self.run.initialization(partial(self.initialize, self.args.seed))

    def initialize(self, seed: int) -> State:
        """A random initialization; for Gem-Miner, constants with its signs."""
        initial, names = self.blueprint.initialize(seed), self.blueprint
        return signed_constants(initial, names.scored, names.norms) if self.method.searches else initial

    @cached_property
    def trainer(self) -> SubnetworkTrainer:
        holds = any(STARTS[final.start].holds_signs for final in flags.planned_finals(self.args))
        return SubnetworkTrainer(*self.materials, self.trained, self.blueprint.signed if holds else ())

    @cached_property
    def sign_in_trainer(self) -> SignInTrainer:
        return SignInTrainer(*self.materials, self.trained, self.args.sign_in_epochs)

    @cached_property
    def searcher(self) -> SearchTrainer:
        return SearchTrainer(*self.materials)

    @property
    def trained(self) -> tuple[str, ...]:
        """The parameters that change. Gem-Miner's networks have no biases and no normalization parameters: those stay
        what they are."""
        return self.blueprint.scored if self.method.searches else self.blueprint.learnable

    def stage(self, made: Level | FinalTraining, title: str, scalars: str, **how) -> Stage:
        """α has one shape in every stage, because a captured step goes on reading the same memory."""
        folder, same = self.run.folder, {name: getattr(self.args, name) for name in ("test_every", "alpha_per_layer")}
        return Stage(title, folder / made.stage, scalars=folder / SCALARS_FOLDER / scalars, **same, **how)

    def trained_state(self, trainer: Trainer, made: Level | FinalTraining, masks: Masks) -> State:
        """Raises UserError if it is not the same in every process."""
        trained = plain_state(trainer.plain_network)
        remedy = delete_and_repeat(self.run.folder / made.stage)
        distributed.check_same_weights(made.stage, remedy, trained, masks)
        return trained

    # -----------------------------------------------------------------------------------------------------------------
    # Levels: finding masks and signs (section 3.1)
    # -----------------------------------------------------------------------------------------------------------------

    def prune_and_train(self, level: Level) -> None:
        """Remove the smallest of the surviving weights, then train on from the weights as they are, or from where the
        method sets them back to. Level 0 is the warm-up, and prunes nothing."""
        args, number = self.args, level.level
        previous, masks, begin = self.initial, self.blueprint.dense_masks(), self.initial
        if number:
            previous, masks = self.run.read(Level(number - 1).stage)
            masks = prune_by_magnitude(previous, masks, args.prune_rate)
            begin = self.rewind(previous)
        initial_norms = {name: self.initial[name] for name in self.blueprint.norms}
        self.trainer.begin(begin, masks, initial_norms)
        stage = self.stage(
            level, f"level {number}/{args.levels}" if number else "warm-up", "pruning",
            rates=flags.level_rates(args, number), seed=args.seed, purpose=level.stage,
            first_step=sum(flags.level_epochs(args, before) for before in range(number)),
            alpha_range=args.alpha_range if self.method.interpolates else ORDINARY, ramp_epochs=args.level_ramp_epochs,
        )  # fmt: skip
        after_epoch = partial(self.keep_rewinding_point, level)
        rows = train_stage(self.trainer, stage, self.progress, args.checkpoint_seconds, after_epoch)
        if not stage.alpha_range[1]:  # ψ was never used, and weight decay has shrunk it: it is held where it began
            self.trainer.network.load_state_dict(initial_norms, strict=False)
        self.keep_level(level, stage, previous, masks, rows)

    def rewind(self, trained: State) -> State:
        """What the surviving weights are when a level's training begins: all that LRR, WR and IMP differ in."""
        epoch = flags.rewound_to(self.args)
        begin = trained
        if epoch is not None:
            begin = self.run.rewinding_point(epoch, self.args.warmup_epochs) if epoch else self.initial
        kept = self.blueprint.norms if self.args.rewind_norms else ()
        return {**begin, **{name: self.initial[name] for name in kept}}

    def keep_rewinding_point(self, level: Level, epochs_done: int) -> None:
        """Weight rewinding keeps a state from the middle of the warm-up."""
        inside = level.level == 0 and epochs_done == self.args.rewind_epoch < self.args.warmup_epochs
        if inside and distributed.is_main_process():
            self.run.keep_rewinding_point(plain_state(self.trainer.network), self.initial)

    def search(self, level: Level) -> None:
        """Gem-Miner: a mask at initialization that leaves as many weights as level t of the other methods."""
        args, remaining = self.args, (1 - self.args.prune_rate) ** level.level
        seed, penalty = derive_seed(args.seed, level.stage, "scores"), flags.score_penalty(args, level.level)
        self.searcher.begin(self.initial, seed, penalty, freeze_rate(remaining, args.level_epochs))
        stage = self.stage(
            level, f"search for level {level.level}", f"search_{level.stage}",
            rates=cosine_rates(args.search_lr, args.level_epochs), seed=args.seed, purpose=level.stage,
        )  # fmt: skip
        rows = train_stage(self.searcher, stage, self.progress, args.checkpoint_seconds)
        masks = self.searcher.network.masks()
        self.trainer.begin(self.initial, masks)
        self.keep_level(level, stage, self.initial, masks, rows)

    def keep_level(self, level: Level, stage: Stage, previous: State, masks: Masks, rows: list[dict]) -> None:
        """Keep the network that the trainer holds, with batch-norm statistics of its own, its signed mask and its
        result."""
        statistics_seed = derive_seed(self.args.seed, level.stage, "statistics")
        self.trainer.reestimate(statistics_seed)
        measured = describe_network(masks, self.blueprint, self.trainer.evaluate(), rows)
        trained = self.trained_state(self.trainer, level, masks)
        measured |= sign_statistics(trained, previous, self.initial, masks)
        measured["clock"] = flags.level_clock(self.args, level.level, self.images)
        if not self.method.searches:
            measured |= self.measure_at_initial_norms(statistics_seed)
        if distributed.is_main_process():
            add_level_scalars(stage.scalars, level.stage, level.level, measured)
            self.run.keep(level, trained, masks, self.initial, measured)
        self.progress.note(describe_level(stage.title, measured))

    def measure_at_initial_norms(self, statistics_seed: int) -> dict:
        """The other end of the path that AWS is built to keep flat: ψ_init in the place of ψ, which is overwritten,
        with batch-norm statistics of its own. Empty if the loss is not finite there."""
        norms = {name: self.initial[name] for name in self.blueprint.norms}
        self.trainer.network.load_state_dict(norms, strict=False)
        self.trainer.reestimate(statistics_seed)
        with suppress(DivergedError):
            test = self.trainer.evaluate()
            return {"test_error_at_initial_norms": test.error, "test_loss_at_initial_norms": test.loss}
        return {}

    # -----------------------------------------------------------------------------------------------------------------
    # Final trainings: what masks and signs are worth (section 3.2)
    # -----------------------------------------------------------------------------------------------------------------

    def train_final(self, final: FinalTraining) -> None:
        """Compose the network that the start describes, and train it normally."""
        args = self.args
        self.__dict__.pop("searcher", None)  # no search is left: its memory is for training
        trainer, state, masks, initial = self.begin_final(final)
        stage = self.stage(
            final, f"final {final.name}", f"final_{final.name}",
            rates=final_rates(args.final_schedule, args.lr, args.final_epochs, args.decays_at),
            seed=final.order_seed, purpose="final", ramp_epochs=args.final_ramp_epochs,
        )  # fmt: skip
        rows = train_stage(trainer, stage, self.progress, args.checkpoint_seconds)
        trained = self.trained_state(trainer, final, masks)
        measured = describe_network(masks, self.blueprint, trainer.evaluate(), rows)
        measured["signs_flipped_in_training"] = flipped_share(trained, state, masks)
        measured["clock"] = flags.clock(args, stage.rates, self.images)
        if distributed.is_main_process():
            self.run.keep(final, trained, masks, initial, measured)
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
            note = f"final {final.name}: {lost} of the level's signs are lost, of parameters that start at 0"
            self.progress.note(note)
        trainer = self.sign_in_trainer if start.factorizes else self.trainer
        trainer.begin(state, masks, **({"held_signs": signs} if start.holds_signs else {}))
        return trainer, state, masks, sources[NEW]

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
