"""A chain of toys: members, and what follows each, with the facts of its table."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

from models.config.chain import Chain, Stage, facts
from slurm import launch
from slurm.job import Job
from slurm.launch import Plan
from tests.slurm.local_toys import TOY

STAGES = ("tune", "probe")


def toy_chain(root: Path, *then: list[str], after: list[str]) -> Plan:
    """A plan: one member for each of the arguments `then`, each followed by two toys with the arguments `after`."""
    chain = Chain("nobody's table", "toy", tuple(f"row {n}" for n in range(len(then))),
                  tuple(Stage(name, "finetune:digits", name) for name in STAGES))  # fmt: skip
    jobs = []
    for number, argv in enumerate(then):
        member = root / str(number)
        jobs.append(Job(TOY, argv, str(member)))
        jobs += [Job(TOY, after, str(member / name), str(member), name) for name in STAGES]
    plan = Plan(TOY, (), root, tuple(jobs), tuple(job.run for job in jobs))
    return replace(plan, chain=facts("a:chain", chain, (0,)))


SCRIPT = """
import signal
from pathlib import Path
from slurm import submit
from slurm.request import Request
from tests.slurm.chain_toys import toy_chain

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs, as in CI, ignore Ctrl-C
plan = toy_chain(Path({root!r}), *{then!r}, after={after!r})
raise SystemExit(submit.submit_plan(plan, Request(cluster="local", code="live", gpus=0, **{flags!r})))
"""


def begun(root: Path, *then: list[str], after: list[str], **flags: int) -> subprocess.Popen:
    """A chain of toys on this machine, on its way."""
    code = SCRIPT.format(root=str(root), then=then, after=after, flags=flags)
    pipe = subprocess.PIPE
    return subprocess.Popen([sys.executable, "-c", code], cwd=launch.ROOT, stdout=pipe, stderr=pipe, text=True)
