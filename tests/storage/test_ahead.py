"""Items are made one ahead of what is used, in a thread, and errors come where the item would be."""

import threading

import pytest

from adamerge.storage.ahead import ahead


def test_the_next_item_is_made_while_one_is_used_and_no_more():
    begun, made = [], threading.Semaphore(0)

    def items():
        for number in range(4):
            begun.append(number)
            made.release()
            yield number

    assert made.acquire(blocking=False) is False  # nothing is made before it is asked for
    for number in ahead(items()):
        for _ in range(2 if number == 0 else number < 3):
            assert made.acquire(timeout=10)  # without anybody asking for the next one
        assert begun == list(range(min(number + 2, 4)))


def test_an_error_comes_where_the_item_would_be():
    def items():
        yield 1
        raise ValueError("two")

    found = ahead(items())
    assert next(found) == 1
    with pytest.raises(ValueError, match="two"):
        next(found)


def test_an_end_in_between_leaves_no_thread():
    found = ahead(iter(range(9)))
    next(found)
    found.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("ahead")]
