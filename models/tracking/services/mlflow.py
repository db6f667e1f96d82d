"""MLflow: MLFLOW_TRACKING_URI, MLFLOW_EXPERIMENT_NAME and its credentials are its own settings."""

import os
from collections.abc import Sequence
from typing import Any, final

from models.tracking.tracker import PROJECT, Point, State, TrackedRun, Tracker

STATUS: dict[State, str] = {
    "running": "RUNNING", "stopped": "SCHEDULED", "finished": "FINISHED", "failed": "FAILED"
}  # fmt: skip
PARAMS, METRICS, TAGS = 100, 1000, 100
"""Most entries of a batch (MLflow's REST API)."""
CHARACTERS = 5000
"""Most characters of a tag's value; parameters may have 6,000."""


@final
class Mlflow(Tracker):
    """A run of MLflow: the recipe as parameters, environment and summary as tags, rows as metrics.

    A parameter cannot change: it has the value of the first start.
    """

    def __init__(self) -> None:
        self._client: Any = None
        self._id = ""

    def open(self, run: TrackedRun, id: str | None) -> str:
        """Begin a run in the experiment, which is made if it is missing, or set one to running again."""
        from mlflow import MlflowClient

        self._client = MlflowClient()
        if id is not None:
            self._client.update_run(id, status="RUNNING")
            self._id = id
            return id
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
        experiment = self._client.get_experiment_by_name(name)
        where = self._client.create_experiment(name) if experiment is None else experiment.experiment_id
        tags = {"mlflow.runName": run.name, **({"sweep": run.group} if run.group else {})}
        self._id = self._client.create_run(where, tags=tags, run_name=run.name).info.run_id
        self._configure(run.config)
        return self._id

    def log(self, points: Sequence[Point]) -> None:
        """Hand over rows. MLflow's databases keep one of two metrics with the same name, step, time and value."""
        from mlflow.entities import Metric

        metrics = [
            Metric(name, value, point.time_ms, point.step) for point in points for name, value in point.metrics.items()
        ]
        for first in range(0, len(metrics), METRICS):
            self._client.log_batch(self._id, metrics=metrics[first : first + METRICS])

    def finish(self, summary: dict[str, str | float], state: State) -> None:
        """Write the summary as tags; a run to be continued is scheduled."""
        self._tag(summary)
        if state in ("finished", "failed"):
            self._client.set_terminated(self._id, STATUS[state])
        else:
            self._client.update_run(self._id, status=STATUS[state])

    def where(self) -> str | None:
        """The run's id and the store that has it."""
        return f"run {self._id} at {self._client.tracking_uri}"

    def holds(self, point: Point) -> bool:
        """Whether each metric of the row has this step in the run's history."""
        return all(
            any(held.step == point.step for held in self._client.get_metric_history(self._id, name))
            for name in point.metrics
        )

    def _configure(self, config: dict[str, str | int | float | bool | None]) -> None:
        from mlflow.entities import Param

        params = [Param(name, str(value)) for name, value in config.items() if not name.startswith("environment.")]
        for first in range(0, len(params), PARAMS):
            self._client.log_batch(self._id, params=params[first : first + PARAMS])
        self._tag({name: str(value) for name, value in config.items() if name.startswith("environment.")})

    def _tag(self, values: dict[str, Any]) -> None:
        from mlflow.entities import RunTag

        tags = [RunTag(name, str(value)[:CHARACTERS]) for name, value in values.items()]
        for first in range(0, len(tags), TAGS):
            self._client.log_batch(self._id, tags=tags[first : first + TAGS])
