"""Work in two threads, and the memory that it uses again."""

import signal
import threading
import time

import pytest
import torch

from adamerge.storage.buffers import Buffers
from adamerge.storage.in_two_threads import in_two_threads
from adamerge.storage.signals import as_ctrl_c


def test_two_parts_run_at_a_time_and_no_third():
    both, running, seen = threading.Barrier(2), [], []

    def part():
        running.append(True)
        both.wait(10)
        seen.append(len(running))
        both.wait(10)
        running.pop()

    in_two_threads([part] * 6)
    assert seen == [2] * 6


def test_after_an_error_nothing_new_is_begun_and_what_runs_is_waited_for():
    both, failed, ended, begun = threading.Barrier(2), threading.Event(), [], []

    def fails():
        both.wait(10)
        failed.set()
        raise KeyboardInterrupt

    def runs():
        both.wait(10)
        assert failed.wait(10)
        ended.append(True)

    with pytest.raises(KeyboardInterrupt):
        in_two_threads([fails, runs, *(lambda number=number: begun.append(number) for number in range(10_000))])
    assert ended == [True]
    assert len(begun) < 10_000


def test_a_second_signal_waits_for_what_runs():
    ended = []

    def runs():
        for _ in range(2):
            signal.pthread_kill(threading.main_thread().ident, signal.SIGTERM)
            time.sleep(0.1)  # the first is heard before the second
        ended.append(True)

    with pytest.raises(KeyboardInterrupt), as_ctrl_c():
        in_two_threads([runs])
    assert ended == [True]


def test_both_share_the_threads_that_torch_may_use():
    threads, seen = torch.get_num_threads(), []
    torch.set_num_threads(5)
    try:
        in_two_threads([lambda: seen.append(torch.get_num_threads())] * 2)
        assert seen == [2, 2]
        assert torch.get_num_threads() == 5
    finally:
        torch.set_num_threads(threads)


def test_buffers_hold_no_more_than_was_used_together():
    buffers, places = Buffers(), set()
    for size in (50, 1, 7, 3, 20, 40):  # one in use at a time; each fits into the first
        tensor = buffers.empty(torch.Size([size]), torch.float32)
        assert tensor.shape == (size,)
        assert tensor.dtype == torch.float32
        places.add(tensor.data_ptr())
        buffers.give_back([tensor, torch.zeros(3)])  # that of others is left alone
    assert len(places) == 1


def test_a_buffer_in_use_is_not_given_again_and_one_too_small_makes_way():
    buffers = Buffers()
    one, other = (buffers.empty(torch.Size([4]), torch.float64).fill_(number) for number in (1, 2))
    buffers.give_back([other])
    larger = buffers.empty(torch.Size([9]), torch.float64).fill_(3)
    assert one.tolist() == [1] * 4
    assert larger.tolist() == [3] * 9
    buffers.give_back([one, larger])
    assert buffers.empty(torch.Size([0]), torch.int8).numel() == 0
