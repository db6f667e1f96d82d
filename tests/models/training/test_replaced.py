"""How many images were replaced because they do not decode, in the journal."""

from pathlib import Path

from models.records.metrics import read
from tests.models.reporting.test_journal import journal, losses


def test_replaced_images_are_counted_only_where_there_are_any_and_across_a_stop(tmp_path: Path) -> None:
    made = journal(tmp_path)
    for step, replaced in enumerate((0, 2, 1, 0, 0, 0, 0, 0, 3, 4), 1):
        loss, parts, norm = losses(step)
        made.record(step, loss, parts, norm, lr=0.1, images=8, wait_s=0.0, replaced=replaced)
        if step in (2, 9):
            state = made.state_dict()
            made.close()
            made = journal(tmp_path, resumed=step)
            made.load_state_dict(state)
    made.close()
    assert [row.get("replaced") for row in read(tmp_path)] == [3, None, 7]
