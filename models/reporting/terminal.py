"""The lines that a run prints: one before it begins and one a row of the journal."""

from models.distributed.process_group import World
from models.optim.schedule import RunLength
from pipeline.text import count, percent


def headline(
    name: str, files: str, batches: tuple[int, int], length: RunLength, world: World, micro: int, start: int
) -> str:
    """One line about a run that begins or continues: recipe, data, batch, steps, devices and first step."""
    parts = [f"{n} {kind}" for n, kind in zip(batches, ("labelled", "unlabelled"), strict=True) if n]
    text = f"{name}: {files}, {' + '.join(parts)} a step, {count(length.total_steps, 'step')}"
    text += f", the first {length.labels_only_steps:,} on labels alone," if length.labels_only_steps else ""
    text += f" on {world.size} x {world.device.type}"
    text += f", {micro} micro-batches" if micro > 1 else ""
    return text + (f", from step {start:,}" if start else "")


def progress_line(step: str, row: dict, left_s: float | None) -> str:
    """A row of the journal as one line; `step` is its step of all, "20/300", `left_s` the seconds to the end."""
    timing = row["timing"]
    parts = [step, f"loss {row['loss']:.4f}", *(f"{name} {value:.4f}" for name, value in row["parts"].items())]
    if "passed" in row.get("pseudo", {}):
        parts.append(f"passed {percent(row['pseudo']['passed'])}")
    if "replaced" in row:
        parts.append(f"replaced {row['replaced']}")
    if timing["images_per_s"] is not None:
        parts += [f"{timing['images_per_s']:,.0f} img/s", f"wait {percent(timing['wait_share'])}"]
    if "memory_gb" in timing:
        parts.append(f"{timing['memory_gb']:.1f} GB")
    if left_s is not None:
        parts.append(f"left {duration(left_s)}")
    return "  ".join(parts)


def duration(seconds: float) -> str:
    """Seconds in their two largest units: 3 d 04 h, 2 h 05 min, 1 min 09 s, 42 s."""
    seconds = round(seconds)
    for unit, name, below, small in ((86400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s")):
        if seconds >= unit:
            return f"{seconds // unit} {name} {seconds % unit // below:02d} {small}"
    return f"{seconds} s"
