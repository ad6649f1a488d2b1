"""Being told to end: TERM and a hangup unwind what is open, and who asked to be left alone is."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest

from launcher.cli.ending import ended_tidily


@pytest.fixture(autouse=True)
def _as_it_was() -> Iterator[None]:
    before = {one: signal.getsignal(one) for one in (signal.SIGTERM, signal.SIGHUP)}
    yield
    for one, was in before.items():
        signal.signal(one, was)


@pytest.mark.parametrize("told", [signal.SIGTERM, signal.SIGHUP])
def test_both_unwind_what_is_open_and_afterwards_end_as_ever(told: signal.Signals) -> None:
    with pytest.raises(SystemExit) as caught, ended_tidily():
        os.kill(os.getpid(), told)
    assert caught.value.code == 128 + told
    assert signal.getsignal(told) is signal.SIG_DFL


def test_nohup_holds() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with ended_tidily():
        os.kill(os.getpid(), signal.SIGHUP)
    assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
