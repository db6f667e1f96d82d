"""What thresholds and alignments remember is the same however a step is cut, and survives a checkpoint to the bit."""

import json
from collections.abc import Iterator

import torch

from models.pseudo_labels.alignment import Alignment
from models.pseudo_labels.settings import Pseudo
from models.pseudo_labels.thresholds.build import build_threshold
from models.running_stats import RunningStats
from tests.conftest import same, weights
from tests.models.ranks import run_ranks

CLASSES, IMAGES, STEPS, MOMENTUM = 5, 40, 6, 0.7
RANK = """
import json
import torch.distributed as dist
from models.distributed.process_group import settle
from tests.models.test_running_stats import flat, learned

dist.init_process_group("gloo")
made = learned(chunks=4, rank=dist.get_rank(), ranks=2)
print(json.dumps(flat(made)))
for part in made.values():
    for buffer in part.buffers():
        dist.broadcast(buffer, 0)  # as DDP and evaluation do: every type can be sent
settle()
dist.destroy_process_group()
"""


def parts() -> dict[str, RunningStats]:
    """One of each that remembers something."""
    kinds = ("flexmatch", "freematch", "softmatch", "adamatch")
    made = {kind: build_threshold(Pseudo(0.5, kind, MOMENTUM), CLASSES) for kind in kinds}
    made |= {target: Alignment(target, CLASSES, MOMENTUM) for target in ("uniform", "labels", "predictions")}
    for part in made.values():
        part.set_dataset_size(IMAGES, IMAGES)
    return made


def steps() -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]]:
    """ids, scores [8, C], scores of labelled images [4, C], their labels; one image is twice in each step."""
    g = torch.Generator().manual_seed(0)
    for _ in range(STEPS):
        ids = torch.randperm(IMAGES, generator=g)[:8]
        ids[7] = ids[0]
        scores = 2 * torch.randn(8, CLASSES, generator=g)
        yield ids, scores, torch.randn(4, CLASSES, generator=g), torch.randint(CLASSES, (4,), generator=g)


def learned(
    chunks: int = 1, rank: int = 0, ranks: int = 1, made: dict[str, RunningStats] | None = None, first: int = 0
) -> dict[str, RunningStats]:
    """The parts after the steps from `first` on, each cut into `chunks`, of which this rank sees its share."""
    made = made or parts()
    micro = chunks // ranks
    for ids, scores, labelled, labels in list(steps())[first:]:
        cut = zip(*(tensor.chunk(chunks) for tensor in (ids, scores, labelled, labels)), strict=True)
        for ids_, scores_, known_, labels_ in list(cut)[rank * micro : (rank + 1) * micro]:
            see(made, ids_, scores_, known_, labels_)
        for part in made.values():
            part.after_step()
    return made


def see(made: dict[str, RunningStats], ids, scores, labelled, labels) -> None:
    for part in made.values():
        if isinstance(part, Alignment):
            part(scores)
            part.observe_labelled(labelled.softmax(-1), labels)
        else:
            part.observe(ids, scores.softmax(-1))
            part.observe_labelled(labelled.softmax(-1))


def flat(made: dict[str, RunningStats]) -> dict[str, list[float]]:
    return {
        f"{name}.{key}": t.flatten().tolist() for name, part in made.items() for key, t in part.state_dict().items()
    }


def assert_same(ours: dict[str, list[float]], theirs: dict[str, list[float]]) -> None:
    assert ours.keys() == theirs.keys()
    for name, values in ours.items():
        exact = name.startswith("flexmatch")
        torch.testing.assert_close(
            torch.tensor(values).double(), torch.tensor(theirs[name]).double(), rtol=0 if exact else 1e-6, atol=0
        )


def test_micro_batches_remember_what_the_whole_step_does():
    whole = flat(learned())
    for chunks in (2, 4):
        assert_same(flat(learned(chunks)), whole)
    new = flat(parts())
    assert [name for name, values in whole.items() if values == new[name]] == ["uniform.target"]


def test_two_ranks_remember_what_one_does():
    alone = flat(learned())
    for printed in run_ranks(RANK, 2):
        assert_same(json.loads(printed), alone)


def test_what_is_remembered_survives_a_checkpoint_to_the_bit():
    straight, stopped = learned(), parts()
    for ids, scores, labelled, labels in list(steps())[:3]:
        see(stopped, ids, scores, labelled, labels)
        for part in stopped.values():
            part.after_step()
    resumed = parts()
    for name, part in resumed.items():
        part.load_state_dict({key: tensor.clone() for key, tensor in stopped[name].state_dict().items()})
    assert flat(learned(made=resumed, first=3)) == flat(straight)


def test_a_run_that_stopped_and_went_on_is_the_one_that_did_not(tiny, tmp_path):
    flags = ["--method.pseudo.kind=flexmatch", "--method.pseudo.align=predictions", "--method.pseudo.threshold=0.11",
             "--method.pseudo.mixup", "--method.mixup=0.8", "--method.cutmix=1", "--optim.epochs=6"]  # fmt: skip
    assert tiny("fixmatch:digits", tmp_path / "straight", *flags, report=True) == 0
    assert tiny("fixmatch:digits", tmp_path / "stopped", *flags, "--run.stop-step=3") == 75
    assert tiny("fixmatch:digits", tmp_path / "stopped", *flags) == 0
    one, other = (weights(tmp_path / name) for name in ("straight", "stopped"))
    assert same(one, other)
    assert (one["pseudo.threshold.status"] >= 0).any()


def test_a_step_that_saw_nothing_changes_nothing():
    made = learned()
    before = flat(made)
    for part in made.values():
        part.after_step()
    assert flat(made) == before


def test_alignment_is_the_paper_s_ratio_of_running_means():
    for target in ("uniform", "labels", "predictions"):
        part, mean, wanted = Alignment(target, CLASSES, MOMENTUM).double(), None, [1 / CLASSES] * CLASSES
        for _, scores, labelled, labels in steps():
            scores, labelled = scores.double(), labelled.double()
            ours = part(scores).softmax(-1)
            for row, guess in zip(ours.tolist(), scores.softmax(-1).tolist(), strict=True):
                tilted = [p * (w + 1e-6) / (m + 1e-6) for p, w, m in zip(guess, wanted, mean or wanted, strict=True)]
                torch.testing.assert_close(row, [p / sum(tilted) for p in tilted], rtol=1e-7, atol=0)  # 1 / C was f32
            part.observe_labelled(labelled.softmax(-1), labels)
            part.after_step()
            first = mean is None
            mean = moved(mean, scores.softmax(-1).tolist())
            if target == "labels":
                wanted = moved(None if first else wanted, [[float(c == y) for c in range(CLASSES)] for y in labels])
            elif target == "predictions":
                wanted = moved(None if first else wanted, labelled.softmax(-1).tolist())


def moved(mean: list[float] | None, rows: list[list[float]]) -> list[float]:
    now = [sum(row[c] for row in rows) / len(rows) for c in range(CLASSES)]
    return now if mean is None else [MOMENTUM * m + (1 - MOMENTUM) * n for m, n in zip(mean, now, strict=True)]
