"""The batch script around srun: it outlives every rank, so it is the one that decides what comes next.

submitit writes header and srun line; what stands before and after them makes a loop of it:

    again    after a crash: the same srun in the same allocation, without a queue
    requeue  after a stop on request: saved, back into the queue under the same job id
    end      trained to the end, or failed for good, or cancelled
"""

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from slurm.request import Request
from slurm.snapshot import Snapshot


def before(request: Request, runs: Sequence[Path], logs: Path, code: Snapshot) -> list[str]:
    """Lines above srun. `runs`: the run folder, or one for each member of an array."""
    return [
        *environment(code),
        *request.setup,
        f"runs=({' '.join(shlex.quote(str(run)) for run in runs)})",
        f"export RUN=${{runs[${{SLURM_ARRAY_TASK_ID:-0}}]}} LOGS={shlex.quote(str(logs))} ATTEMPT=0",
        f"between=({shlex.quote(sys.executable)} -m slurm.between)",
        "trap : TERM  # who is told to stop ends by itself; what that means is decided below",
        "while :; do",
        '"${between[@]}" begin',
    ]


def after(request: Request, table: Path | None) -> list[str]:
    """Lines below srun. `table`: the sweep's folder, where there is one."""
    over = [f"{shlex.quote(sys.executable)} -m slurm.sweep {shlex.quote(str(table))}"] if table else []
    if request.notify:
        over.append(f"EVENT=${{next#end }} bash -c {shlex.quote(request.notify)}")
    return [
        "code=$?",
        "trap '' TERM",
        f'next=$("${{between[@]}}" end $code --tries {request.tries} --pause {request.pause:g}) ||',
        "  { [ $code = 75 ] && next=requeue; }  # no Python here: the least that is right",
        "trap : TERM",
        "case $next in",
        "  again*) ATTEMPT=$((ATTEMPT + 1)); sleep ${next#again }; continue ;;",
        "  requeue) for _ in 1 2 3 4 5; do scontrol requeue $SLURM_JOB_ID && sleep 600; sleep 5; done ;;",
        *(["  end*)", *(f"    {line} || true" for line in over), "    ;;"] if over else []),
        "esac",
        "exit $code",
        "done",
    ]


def environment(code: Snapshot) -> list[str]:
    """Lines that make Python import the snapshot, not the folder in which the command was given."""
    path = shlex.quote(str(code.folder))
    return [
        f"export PYTHONPATH={path}${{PYTHONPATH:+:$PYTHONPATH}} PYTHONSAFEPATH=1",
        f"export SHOTCRETE_COMMIT={shlex.quote(code.commit)}",
    ]
