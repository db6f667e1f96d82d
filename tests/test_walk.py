"""The walk of a training step: how many files of the project a reader has to open to follow one."""

import json
import subprocess
import sys

from tests.test_layout import ROOT

MOST = 40
FIRST, LAST = 7, 10
"""Steps that are counted: after the labels-only phase and the first step with pseudo-labels, before any row is due."""
FLAGS = [
    "--optim.labels-only-epochs=4", "--method.pseudo.threshold=0.108", f"--run.stop-step={LAST + 1}",
    "--run.log-steps=1000", "--run.device=cpu",
]  # fmt: skip
COUNT = """
import json, sys, threading
from pathlib import Path
import train

root, seen, counting = Path(train.__file__).parent, set(), False
first, last = int(sys.argv.pop(1)), int(sys.argv.pop(1))

def called(frame, event, argument):
    if counting and event == "call":
        seen.add(frame.f_code.co_filename)

def counted(run, batches, step=train.train_step):
    global counting
    counting = first <= run.step <= last
    step(run, batches)
    counting = False

train.train_step = counted
threading.setprofile(called)
sys.setprofile(called)
code = train.main()
sys.setprofile(None)
own = (root / "train.py", root / "models", root / "pipeline")
files = [Path(name) for name in seen if Path(name).is_absolute()]
files = sorted(str(path.relative_to(root)) for path in files if any(path.is_relative_to(each) for each in own))
print(json.dumps([code, files]))
"""


def test_a_step_of_semi_mae_on_digits_runs_code_of_forty_files_at_most(digits, tmp_path):
    """All threads are counted. Compiled kernels are not, nor what a log step, an evaluation and a save add."""
    command = [sys.executable, "-c", COUNT, str(FIRST), str(LAST), "semi_mae:digits", *FLAGS]
    command += [f"--data.root={digits}", f"--run.folder={tmp_path / 'run'}"]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert ended.returncode == 0, ended.stderr
    code, files = json.loads(ended.stdout.splitlines()[-1])
    assert code == 75
    assert {"train.py", "pipeline/loader.py", "models/methods/semi_mae.py", "pipeline/backends/cpu_views.py"} <= {
        *files
    }
    assert len(files) <= MOST, "\n".join([f"{len(files)} files:", *files])
