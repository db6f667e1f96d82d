"""Send what a service has not got yet of a run, afterwards or from a machine that has a network.

python -m models.tracking RUN --to wandb
"""

import sys
from dataclasses import dataclass
from pathlib import Path

from models.tracking import check_installed, names
from models.tracking.journal import state_of
from models.tracking.sender import Sender, without_secrets
from pipeline.errors import InputError, Unavailable, command
from pipeline.flags import parse


@dataclass(frozen=True)
class Options:
    """Send the journal of a run to a service; rows that it has are not sent again."""

    to: str
    """Name of the service."""


def main() -> None:
    """Send the run that the command line names, and print how many rows that were."""
    if len(sys.argv) < 2 or (sys.argv[1].startswith("-") and sys.argv[1] not in ("-h", "--help")):
        raise InputError(f"expected a run folder: python -m models.tracking RUN --to {'|'.join(names())}")
    first = sys.argv[1].startswith("-")
    options = parse(Options, args=sys.argv[1 if first else 2 :], prog="python -m models.tracking RUN")
    check_installed(options.to, "--to")
    send(Path(sys.argv[1]), options.to)


def send(folder: Path, service: str) -> None:
    """Send a run's rows and summary. Raises InputError if it is no run, Unavailable if the service fails."""
    with Sender(folder, service) as sender:
        try:
            for line in (sender.note, sender.open()):
                if line:
                    print(f"tracking: {service}, {line}")
            count = sender.send()
            sender.finish(state_of(folder))
        except InputError as error:
            raise InputError(f"{service}: {error}") from error
        except Exception as error:
            raise Unavailable(f"{service}: {without_secrets(error)}; the same command sends the rest") from error
    print(f"{folder}: {count:,} rows sent to {service}")


if __name__ == "__main__":
    command(main)
