"""Write the batch script around srun, which outlives the ranks and therefore decides what happens after they end.

submitit writes the header and the srun line; the lines before and after them make a loop of it. After each srun
`slurm.attempt` prints one of

    again    after a crash: the same srun in the same allocation, without a queue
    requeue  after a stop on request: the run has saved, and the job goes back into the queue under the same id
    end      trained to the end, failed for good, or cancelled
"""

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from slurm.request import Request
from slurm.snapshot import Snapshot


def before(request: Request, runs: Sequence[Path], logs: Path, code: Snapshot) -> list[str]:
    """Return the lines above srun.

    runs  the run folder, or one for each member of an array
    """
    return [
        *environment(code),
        *request.setup,
        f"runs=({' '.join(shlex.quote(str(run)) for run in runs)})",
        f"export RUN=${{runs[${{SLURM_ARRAY_TASK_ID:-0}}]}} LOGS={shlex.quote(str(logs))} ATTEMPT=0",
        f"attempt=({shlex.quote(sys.executable)} -m slurm.attempt)",
        "trap : TERM  # the ranks get the signal, too, and end by themselves; what follows is decided below",
        "while :; do",
        '"${attempt[@]}" begin',
    ]


def after(request: Request, table: Path | None) -> list[str]:
    """Return the lines below srun.

    table  the sweep's folder, where there is one
    """
    over = [f"{shlex.quote(sys.executable)} -m slurm.sweep_table {shlex.quote(str(table))}"] if table else []
    if request.notify:
        over.append(f"EVENT=${{next#end }} bash -c {shlex.quote(request.notify)}")
    return [
        "code=$?",
        "trap '' TERM",
        f'next=$("${{attempt[@]}}" end $code --tries {request.tries} --pause {request.pause:g}) ||',
        "  { [ $code = 75 ] && next=requeue; }  # Python does not start here: requeue at least a run that has saved",
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
    """Return the lines that make Python import the snapshot, not the folder in which the command was given."""
    path = shlex.quote(str(code.folder))
    return [
        f"export PYTHONPATH={path}${{PYTHONPATH:+:$PYTHONPATH}} PYTHONSAFEPATH=1",
        f"export SHOTCRETE_COMMIT={shlex.quote(code.commit)}",
    ]
