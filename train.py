"""Train a recipe: one loop for every method.

    python train.py                                      # list the recipes
    python train.py semi_mae:digits --optim.lr 1e-3      # train one; the same command again continues at the exact step

Exit codes: 0 trained to the end, 2 bad input, 75 stopped early on request (saved: run it again).
"""

import os
import sys
from contextlib import ExitStack, closing, nullcontext

import models  # noqa: F401 -- first: it sets how OpenMP threads wait, which torch reads when it is imported
from models.config.recipe import Recipe
from models.config.resolve import answer_without_torch, resolve

if __name__ == "__main__":
    answer_without_torch(sys.argv[1:])  # torch takes seconds to import; a misspelt name is answered before

# isort: split
import torch

from models.distributed import process_group
from models.distributed.process_group import World
from models.method import Loss, StepInfo, seed_step
from models.optim.schedule import learning_rate
from models.optim.update import clip_grad_norm, set_lr
from models.pretrained.as_begun import with_encoder
from models.records.exit_codes import DONE, STOPPED
from models.records.failures import FailureLog, run_rank
from models.records.run_folder import finished_line, folder_of
from models.training.finish import finish_run
from models.training.liveness import HangTimeout
from models.training.stop import STEP, WHY, Stop, Vote, job_left_s
from models.training.trainer import Training, open_loader, prepare
from pipeline.loader import Batches


def main() -> int:
    """Train the recipe that the command line names, unless its run has finished; -> exit code."""
    recipe, read = with_encoder(resolve(sys.argv[1], sys.argv[2:]))
    line, main_rank = finished_line(folder_of(recipe), recipe), os.environ.get("RANK", "0") == "0"
    if main_rank and (line or read):
        print(line or read)
    if line:
        return DONE
    world = process_group.start(recipe.run)
    with FailureLog(folder_of(recipe), world.rank, world.size) as failures, ExitStack() as ending:
        code = train(recipe, world, failures, ending)
    process_group.finish(world)  # not after an error: it could wait for ranks that are gone
    return code


def train(recipe: Recipe, world: World, failures: FailureLog, ending: ExitStack) -> int:
    """Train a recipe from its last checkpoint, or from the start, to the end; -> exit code."""
    stop = Stop(job_left_s() if world.main else None)  # before data is opened, which may take minutes
    ending.enter_context(closing(stop))
    hang_timeout = HangTimeout(folder_of(recipe), world.rank, world.size, recipe.run.hang_timeout_s)
    ending.enter_context(closing(hang_timeout))
    run = prepare(recipe, world, failures, ending, hang_timeout)
    return train_to_end(run, stop)


def train_to_end(run: Training, stop: Stop) -> int:
    """The loop: step, evaluate, save, until the last step or a reason to stop; -> exit code."""
    recipe, vote = run.recipe, Vote(run.world)
    with open_loader(run) as batches:
        while not run.over:
            train_step(run, batches)
            last, better = run.step == run.length.total_steps, False
            if not last and (is_due(recipe.run.evaluate_steps, run.step) or run.step in run.length.ends):
                better = run.evaluate()
            why = STEP if run.step == recipe.run.stop_step else vote(stop.why(run.saver.save_s))
            if why or run.over or better or is_due(recipe.run.save_steps, run.step):
                run.save(best=better)
            if why and not run.over:
                break
        vote.close()
    with run.paused():
        return finish(run) if run.over else stopped(run, WHY[why])


def train_step(run: Training, batches: Batches) -> None:
    """One update: forward and backward of every micro-batch, clip, step, moving average, journal."""
    recipe, step, micro = run.recipe, run.step, run.micro
    lr = learning_rate(step, run.length, recipe.optim, recipe.data.batch)
    set_lr(run.optimiser, lr)
    info = StepInfo(step, run.length.labels_only(step))
    waited_s, replaced = batches.wait_s, batches.replaced
    losses: list[Loss] = []
    ids = []
    for number in range(micro):
        batch = next(batches)
        seed_step(recipe.run.seed, step, run.world.rank * micro + number)
        with run.no_sync() if number < micro - 1 else nullcontext():
            with run.journal.timer.forward(), run.autocast:
                loss = run.model(batch, info)
            (loss.total / micro).backward()
        losses.append(loss)
        ids += [part.ids for part in batch.parts.values()]
    inactive = list(run.method.inactive_params(info))
    run.gradient_check(run.method.named_parameters(), inactive, "labels only" if info.labels_only else "every loss")
    for parameter in inactive:
        parameter.grad = None
    norm = clip_grad_norm(run.method.parameters(), recipe.optim.clip)
    total = torch.stack([loss.total.detach() for loss in losses]).mean()
    run.guard.step(run.optimiser, total, norm, torch.cat(ids), step)
    run.optimiser.zero_grad(set_to_none=True)
    run.method.after_step(step)
    run.step += 1
    run.hang_timeout(run.step)
    run.heartbeat(run.step)
    due = run.journal.record(
        run.step,
        total,
        {name: torch.stack([loss.parts[name] for loss in losses]).mean() for name in losses[0].parts},
        norm,
        lr=lr,
        images=recipe.data.batch,
        wait_s=batches.wait_s - waited_s,
        replaced=batches.replaced - replaced,
        pseudo_stats=[loss.pseudo_stats for loss in losses if loss.pseudo_stats is not None],
    )
    if due:
        run.check()


def is_due(steps: int | None, step: int) -> bool:
    """Whether what happens every so many steps happens after this one; None: it does not happen."""
    return steps is not None and step % steps == 0


def finish(run: Training) -> int:
    """Evaluate and report, once the last checkpoint is on disk; -> exit code."""
    finish_run(run)
    run.saver.wait()
    run.record_done()
    return DONE


def stopped(run: Training, why: str) -> int:
    """Wait until all ranks have saved; -> exit code."""
    run.saver.wait()
    process_group.any_rank(True, run.world)  # torchrun ends the others, which may still save, as soon as one has left
    run.record_event("stopped", step=run.step, why=why)
    run.print_once(f"stopped after step {run.step} and saved ({why}); the same command carries on")
    return STOPPED


if __name__ == "__main__":
    run_rank(main)
