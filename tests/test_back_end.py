"""Who decodes is chosen for a run, said, noted in its folder, and may change without changing what is learned."""

from models.records import events
from tests.conftest import rows, same, weights


def test_a_run_that_carries_on_with_another_back_end_says_so_and_learns_the_same(tiny, tmp_path, capsys):
    straight, changed = tmp_path / "straight", tmp_path / "changed"
    assert tiny("supervised:digits", straight) == 0
    assert tiny("supervised:digits", changed, "--run.stop-step=5") == 75
    assert capsys.readouterr().out.count("back-end memory: the decoded images, 4 MB, fit data.memory_mb 1,024\n") == 2
    assert events.latest(changed, "backend") == "memory"
    assert tiny("supervised:digits", changed, "--data.backend=ffcv") == 0
    assert "back-end ffcv: as data.backend says; until now the run was on memory\n" in capsys.readouterr().out
    assert events.latest(changed, "backend") == "ffcv"
    assert same(weights(changed), weights(straight))
    assert rows(changed) == rows(straight)
