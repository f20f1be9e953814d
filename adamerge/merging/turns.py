"""Functions that stop in the middle, hand something over, and go on when they get an answer.

Each runs in a thread of its own, of which only one runs at any time: there is nothing to lock. A generator could not do
it, because what hands over (a module inside a model) is called by code of other libraries.
"""

import contextvars
import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Generic, TypeVar, cast

Asked = TypeVar("Asked")
Result = TypeVar("Result")

HandOver = Callable[[Asked], object]
"""Stops the function that calls it, hands something over and returns the answer."""


class _ClosedError(BaseException):
    """Unwinds a function that will get no answer."""


class Turns(Generic[Asked, Result]):
    """A function that runs only during `go_on`, until it hands something over or returns.

    Args:
        function: Gets what it stops by.

    Attributes:
        asked: What the function handed over last; None before its start and after its end.
        done: Whether the function has returned.

    Example:
        >>> turns = Turns(lambda hand_over: hand_over("two?") * 10)
        >>> turns.go_on()
        >>> turns.asked
        'two?'
        >>> turns.go_on(2)
        >>> turns.done, turns.take()
        (True, 20)
    """

    def __init__(self, function: Callable[[HandOver[Asked]], Result]) -> None:
        self._function, self._context = function, contextvars.copy_context()
        self._thread = threading.Thread(
            target=self._context.run, args=(self._run,), daemon=True, name="a pass of a model"
        )
        self._answers: SimpleQueue[object] = SimpleQueue()
        self._stops: SimpleQueue[BaseException | None] = SimpleQueue()
        self._result: Result | None = None
        self.asked: Asked | None = None
        self.done = False

    def take(self) -> Result:
        """Return what the function returned, and forget it."""
        result, self._result = self._result, None
        return cast(Result, result)

    def go_on(self, answer: object = None) -> None:
        """Run the function until it hands over again or returns; what it raises is raised here.

        Args:
            answer: What the function gets for what it handed over; not used at its start.
        """
        self.asked = None
        if self._thread.ident is None:
            self._thread.start()
        else:
            self._answers.put(answer)
        error = self._stops.get()
        if error is not None:
            raise error

    def close(self) -> None:
        """End the function where it stands."""
        if self._thread.is_alive():
            self._answers.put(_ClosedError())
            self._thread.join()

    def _run(self) -> None:
        error = None
        try:
            self._result = self._function(self._hand_over)
        except _ClosedError:
            pass
        except BaseException as raised:
            error = raised
        self.done = True
        self._stops.put(error)

    def _hand_over(self, asked: Asked) -> object:
        self.asked = asked
        self._stops.put(None)
        answer = self._answers.get()
        if isinstance(answer, _ClosedError):
            raise answer
        return answer
