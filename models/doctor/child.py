"""Run one stage of the doctor in this process, and write each row to a file as soon as it is known.

    python -m models.doctor.child STAGE ROWS OUT QUICK DATA     # as models.doctor.supervise starts it

The first line of the file describes the machine, every other one is a row as JSON.
"""

import faulthandler
import importlib
import json
import os
import sys
import traceback
from pathlib import Path
from typing import IO, Any

from models.doctor.stage import NO_GPU, Context, Row, Stage
from pipeline.errors import InputError


def main(argv: list[str]) -> int:
    """Run the stage that the arguments name; return 0, or 1 if it raised what it should not."""
    name, rows, folder, quick, data = argv
    deadline_s = int(os.environ["SHOTCRETE_DEADLINE_S"])
    faulthandler.enable()
    faulthandler.dump_traceback_later(deadline_s, exit=True)  # from a thread of its own, whatever holds Python's lock
    with Path(rows).open("a", encoding="utf-8") as file:
        try:
            return _run(name, file, Path(folder), quick == "1", Path(data) if data else None)
        except InputError as error:
            _write(file, Row(name, "wrong", str(error)).as_json())
            return 0
        except Exception:
            traceback.print_exc()
            return 1


def _run(name: str, file: IO[str], folder: Path, quick: bool, data: Path | None) -> int:
    import torch

    import models  # noqa: F401 -- before torch: it sets how OpenMP threads wait
    from models.config.catalogue import own_class

    cuda = torch.cuda.is_available()
    _write(file, where(folder, cuda))
    if cuda:
        from models.distributed.process_group import set_up_cuda

        set_up_cuda()  # kernels as a run has them
    stage = own_class(importlib.import_module(f"models.doctor.stages.{name}"), Stage)()
    if stage.needs_gpu and not cuda:
        _write(file, Row(name, "skipped", NO_GPU).as_json())
        return 0
    try:
        for row in stage.run(Context(cuda, quick, data, folder)):
            _write(file, row.as_json())
    except torch.OutOfMemoryError as error:
        traceback.print_exc()
        said = str(error).splitlines()[0]
        _write(file, Row(name, "slow", said, "free the GPU's memory, or set --run.device-images lower").as_json())
    return 0


def where(folder: Path, cuda: bool) -> dict[str, Any]:
    """Describe the machine that the rows hold for, as a run's environment.json does, and name the host."""
    import socket

    import torch

    from models.distributed.process_group import World
    from models.reporting.environment import write_environment

    folder.mkdir(parents=True, exist_ok=True)
    found = write_environment(folder, World(0, 1, 0, torch.device("cuda", 0) if cuda else torch.device("cpu")))
    gpus = torch.cuda.device_count()
    return {"host": socket.gethostname(), **found, "devices": gpus, "torch": torch.__version__}


def _write(file: IO[str], line: dict[str, Any]) -> None:
    file.write(json.dumps(line) + "\n")
    file.flush()


if __name__ == "__main__":
    code = main(sys.argv[1:])
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # a stage's threads, or a library's, must not keep the process
