"""Where else can a run be followed while it trains? On Weights & Biases, MLflow or Trackio, which `run.track` names.

Training does not know of it: a process of its own reads what the run appends to metrics.jsonl and events.jsonl, and
hands it on. A service may be slow, fail or hang: the run does not wait for it, and what was not sent is sent at the
next start, or by `python -m models.tracking RUN --to NAME`. One service is one file of `services/`, and its name is
the file's.

May import `pipeline`, `config` and `records`, and no torch. Read `tracker.py` first, then `sender.py`.
"""

import importlib
import importlib.util
import pkgutil

from models.config.catalogue import own_class
from models.tracking import services
from models.tracking.tracker import Tracker
from pipeline.errors import InputError
from pipeline.text import did_you_mean


def names() -> list[str]:
    """List the services that there are: the names of the files in `services/`."""
    return sorted(found.name for found in pkgutil.iter_modules(services.__path__))


def check_installed(service: str | None, flag: str = "run.track") -> None:
    """Raise InputError if no service is called so, or if its package is not installed; None is no service.

    check_installed("wandb")

    The package is looked for and not imported, which would take seconds. A folder wandb/ without code, as the package
    itself leaves in the current folder, is none.
    """
    if service is None:
        return
    if service not in names():
        near = did_you_mean(service, names()) or f"; there are {', '.join(names())}"
        raise InputError(f"{flag} is {service!r}, and no service is called so{near}")
    found = importlib.util.find_spec(service)
    if found is None or found.origin is None:
        raise InputError(
            f"{flag} is {service}, whose package is not installed here; install pyproject.toml's extra `{service}`, or "
            f"`pip install {service}`"
        )


def tracker_of(service: str) -> Tracker:
    """The tracker of a service, not yet open."""
    return own_class(importlib.import_module(f"{services.__name__}.{service}"), Tracker)()
