"""The program `train`: fine-tune a model with Ray Train and write a model folder, or all models of an ensemble."""

import functools

from rich.table import Table

from cxrpipe import console, storage
from cxrpipe.archives.index import open_source
from cxrpipe.archives.reader import Reader
from cxrpipe.config import DECODE_TIMEOUT_S, TrainConfig
from cxrpipe.config.recipes import RecipeFolder
from cxrpipe.errors import ExitStatus
from cxrpipe.images.isolation import Isolated
from cxrpipe.images.squares import decode_view
from cxrpipe.models.folder import open_model, save_model
from cxrpipe.on_ray.session import session
from cxrpipe.on_ray.train import train
from cxrpipe.programs.index import print_counts
from cxrpipe.report.learning_curves import epoch_table
from cxrpipe.report.terminal import figures_table
from cxrpipe.report.words import number
from cxrpipe.scoring.faults import Fault, guarded
from cxrpipe.training.epochs import best_epoch, describe, metric_of
from cxrpipe.training.examples import check_masks
from cxrpipe.training.folds import hold_out
from cxrpipe.training.held_out import FILE as HELD_OUT
from cxrpipe.training.held_out import describe as describe_held_out
from cxrpipe.training.held_out import figures_of, held_out_table, mean_score
from cxrpipe.training.model_folder import FITTED, assumed_prevalence, draw, facts, fitted
from cxrpipe.training.plan import already_trained, held_out, plan_training
from cxrpipe.training.refit import open_refit
from cxrpipe.training.start import check


def run(config: TrainConfig | RecipeFolder) -> ExitStatus:
    return _train(config) if isinstance(config, TrainConfig) else _train_all(config)


def _train_all(folder: RecipeFolder) -> ExitStatus:
    """Train every member that is not trained yet. The same command goes on where it was."""
    for config in folder.members:
        check(config)
    trained = [already_trained(config) for config in folder.members]  # refuses before hours of other members
    if not all(trained):
        with session(at_least_cpus=1 + max(config.workers for config in folder.members)):
            for place, config in enumerate(folder.members, start=1):
                console.log(f"member {place} of {len(folder.members)}: {config.out}")
                _train(config)
    console.out().print(_members_table(folder))
    out = storage.normalise(folder.out)
    used = f"--models {out}" if folder.members[0].task == "classify" else f"--segmenter {out}"
    console.out().print(f"Models: {out}\nTo score with them: {used}")
    return ExitStatus.DONE


def _members_table(folder: RecipeFolder) -> Table:
    table = figures_table("model", "architecture", "side, px", "epoch", "of", "valid score", "held out", words=2)
    for config in folder.members:
        card = open_model(config.out, config.task).card
        facts, epochs = card.facts, str(len(card.facts.get("history", ())))
        valid = facts.get("valid", {}).get("score")
        scores = [number(score, 4) for score in (valid, mean_score(facts.get("held_out")))]
        name, best = storage.last_part(config.out), str(facts.get("best_epoch", epochs))
        table.add_row(name, card.architecture, str(card.side_px), best, epochs, *scores)
    return table


def _train(config: TrainConfig) -> ExitStatus:
    out = storage.normalise(config.out)
    if already_trained(config):
        console.out().print(f"Nothing to do: {out} was trained with these settings.")
        return ExitStatus.DONE
    working = storage.join(out, "training")
    with open_source(config, functools.partial(print_counts, kept=False)) as source:
        home = storage.join(working, "index")
        refit = open_refit(config, source.table) if config.refit else None
        if refit:
            source = refit.source(source, config.split_seed)
        elif config.folds:
            source, home = hold_out(config, source), storage.join(out, "fold")  # stays for scoring its test split
        plan, studies = plan_training(config, source.table, refit.stop_at if refit else None)
        if refit:
            refit.refuse_other_findings(plan.card)
        of_fold = held_out(source.table, plan.spec) if config.folds and not refit else []
        if config.task == "segment":
            with Reader(source.table.seek_points) as reader, Isolated(decode_view, DECODE_TIMEOUT_S) as decode:
                check_masks(studies, reader, plan.spec, decode)
        plan.network(), plan.teacher()  # these calls refuse missing weights before the run begins
        table = source.keep(home)
    console.log(plan.summary(studies))
    with session(at_least_cpus=config.workers + 1):
        weights, history, predictions = train(plan, table, studies, working, of_fold)
    card = refit.fitted(plan.card, predictions) if refit else fitted(plan.card, predictions)
    pictures = guarded(lambda: draw(card, history, config.best, predictions, studies), _not_drawn)
    for name, content in pictures.items():
        storage.write(storage.join(out, name), content)
    decided = {"fitted": FITTED, "prevalence": assumed_prevalence(card)} if card.findings else {}
    card_facts = facts(plan, table, studies, history) | decided
    if predictions.held_out is not None:
        answers = held_out_table(card, predictions.held_out, of_fold)
        storage.write_table(storage.join(out, HELD_OUT), answers)
        card_facts["held_out"] = figures_of(card, answers)
    save_model(out, card, weights, refit.facts(card_facts) if refit else card_facts)
    storage.delete_below(working)
    best = history[-1] if refit else best_epoch(history, config.best)
    console.out().print(epoch_table(history, metric_of(card), best.epoch))
    which = "Last epoch" if refit else "Best epoch"
    console.out().print(f"{which}: {best.epoch} of {len(history)}, {describe(card, best)}\nModel: {out}")
    if refit:
        console.out().print("No study is left that could judge it but those of the test split.")
    elif config.folds:
        console.out().print(f"Held out as its test split: {table.url}")
    if "held_out" in card_facts:
        console.out().print(f"On what is held out: {describe_held_out(card_facts['held_out'])}")
    return ExitStatus.DONE


def _not_drawn(fault: Fault) -> dict[str, bytes]:
    """Log the fault and give no pictures: a bug in a drawing must not cost a night of training."""
    console.log(f"no pictures are drawn ({fault.kind}); the model is not affected\n{fault.traceback}", "error")
    return {}
