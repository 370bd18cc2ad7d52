"""The first signal is a wish, the second one is obeyed, and afterwards all is as it was."""

import os
import signal

import pytest

from convergence.training.interrupts import Ended, Ending, Interrupts


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_first_signal_is_noted_and_the_handler_before_it_is_back(number):
    received = []
    before = signal.signal(number, lambda *arguments: received.append(arguments[0]))
    try:
        with Interrupts() as interrupts:
            assert interrupts.received is None
            os.kill(os.getpid(), number)
            assert interrupts.received is number
            assert received == []
            os.kill(os.getpid(), number)
            assert received == [number]
    finally:
        signal.signal(number, before)


def test_without_a_signal_the_handlers_are_put_back():
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    with Interrupts() as interrupts:
        assert signal.getsignal(signal.SIGTERM) != before[0]
    assert interrupts.received is None
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before


def test_a_signal_is_what_ended_it_whatever_was_broken_off_says():
    def packing():
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        finally:  # as zipfile does where a file in it is still open
            raise ValueError("expected the handle to be closed")

    with pytest.raises(Ended), Ending():
        packing()
    with pytest.raises(ValueError, match="to be closed"), Ending():
        raise ValueError("expected the handle to be closed")
