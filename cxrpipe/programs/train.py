"""The program `train`: fine-tune one model with Ray Train, and write a model folder."""

import functools

from cxrpipe import console, storage
from cxrpipe.archives.index import open_source
from cxrpipe.archives.reader import Reader
from cxrpipe.config import DECODE_TIMEOUT_S, TrainConfig
from cxrpipe.errors import ExitStatus
from cxrpipe.images.isolation import Isolated
from cxrpipe.images.squares import decode_view
from cxrpipe.models.folder import save_model
from cxrpipe.on_ray.session import session
from cxrpipe.on_ray.train import train
from cxrpipe.programs.index import print_counts
from cxrpipe.report.learning_curves import epoch_table
from cxrpipe.scoring.faults import Fault, guarded
from cxrpipe.training.epochs import best_epoch, describe, metric_of
from cxrpipe.training.examples import check_masks
from cxrpipe.training.folds import hold_out
from cxrpipe.training.model_folder import FITTED, draw, facts, fitted
from cxrpipe.training.plan import already_trained, plan_training


def run(config: TrainConfig) -> ExitStatus:
    out = storage.normalise(config.out)
    if already_trained(config):
        console.out().print(f"Nothing to do: {out} was trained with these settings.")
        return ExitStatus.DONE
    working = storage.join(out, "training")
    with open_source(config, functools.partial(print_counts, kept=False)) as source:
        home = storage.join(working, "index")
        if config.folds:
            source, home = hold_out(config, source), storage.join(out, "fold")  # stays for scoring its test split
        plan, studies = plan_training(config, source.table)
        if config.task == "segment":
            with Reader(source.table.seek_points) as reader, Isolated(decode_view, DECODE_TIMEOUT_S) as decode:
                check_masks(studies, reader, plan.spec, decode)
        plan.network(), plan.teacher()  # these calls refuse missing weights before the run begins
        table = source.keep(home)
    console.log(plan.summary(studies))
    with session(at_least_cpus=config.workers + 1):
        weights, history, predictions = train(plan, table, studies, working)
    card = fitted(plan.card, predictions)
    pictures = guarded(lambda: draw(card, history, config.best, predictions, studies), _not_drawn)
    for name, content in pictures.items():
        storage.write(storage.join(out, name), content)
    save_model(out, card, weights, facts(plan, table, studies, history) | ({"fitted": FITTED} if card.findings else {}))
    storage.delete_below(working)
    best = best_epoch(history, config.best)
    console.out().print(epoch_table(history, metric_of(card), best.epoch))
    console.out().print(f"Best epoch: {best.epoch} of {len(history)}, {describe(card, best)}\nModel: {out}")
    if config.folds:
        console.out().print(f"Held out as its test split: {table.url}")
    return ExitStatus.DONE


def _not_drawn(fault: Fault) -> dict[str, bytes]:
    """Log the fault and give no pictures: a bug in a drawing must not cost a night of training."""
    console.log(f"no pictures are drawn ({fault.kind}); the model is not affected\n{fault.traceback}", "error")
    return {}
