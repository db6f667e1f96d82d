import os
import signal
from collections.abc import Iterator

import pytest

from models.training import stop as stopping
from models.training.stop import SIGNALS, Stop


@pytest.fixture
def stop() -> Iterator[Stop]:
    made = Stop()
    yield made
    made.close()


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_only_sets_the_flag(stop: Stop, number: signal.Signals) -> None:
    assert not stop
    os.kill(os.getpid(), number)
    assert stop


def test_a_second_ctrl_c_interrupts_unless_it_is_torchruns_echo(stop: Stop, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [100.0]
    monkeypatch.setattr(stopping.time, "monotonic", lambda: clock[0])
    os.kill(os.getpid(), signal.SIGINT)
    clock[0] += 0.5
    os.kill(os.getpid(), signal.SIGINT)
    assert stop
    clock[0] += 1
    with pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGINT)


def test_the_signals_are_given_back() -> None:
    before = [signal.getsignal(number) for number in SIGNALS]
    Stop().close()
    assert [signal.getsignal(number) for number in SIGNALS] == before
