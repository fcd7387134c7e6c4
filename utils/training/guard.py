"""What is looked at after each step of training: NaN and infinity, signals to stop, and states that are due."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from utils.base.errors import Diverged, Interrupted
from utils.training.resume_state import Progress, State

LOOK_EVERY = 50  # steps between looks at a device, each of which waits for it
AGREE_EVERY = 10  # steps, on such a device, between questions to the other processes whether they were told to stop

NamesPhotographs = Callable[[int, int, int], str]  # at these places of an epoch's order


class StepGuard:
    """Watches one run; `told` is the number of the signal to stop that came, or 0.

    `name_photographs(epoch, first, last)` names the photographs at these places of an epoch's order.
    """

    def __init__(
        self, state: State, progress: Progress, every: int | None, name_photographs: Callable[[int, int, int], str]
    ):
        self.state, self.progress, self.every, self.name_photographs = state, progress, every, name_photographs
        self.accelerator = state.accelerator
        self.immediate = self.accelerator.device.type == "cpu"
        self._pending, self.told, self._saved_step = [], 0, progress.step

    def before_step(self, seen: int, value: torch.Tensor) -> None:
        """Note the norm of the gradient (or another number) of the step up to the photograph number `seen`.

        On a CPU it is looked at now, while the weights are good; elsewhere every 50 steps and before a state is
        saved, so that no step waits for the device. Raises `Diverged` when it is NaN or infinite.
        """
        self._pending.append((self.progress.step + 1, self.progress.epoch, self.progress.seen, seen, value.clone()))
        if self.immediate or len(self._pending) >= LOOK_EVERY:
            self.look()

    def after_step(self) -> None:
        """Save a state when one is due; raises `Interrupted` with one saved when the run was told to stop."""
        step = self.progress.step
        if self._told_to_stop(step):
            self.save()
            raise Interrupted(self.told, f"stopped in step {step}; --resume goes on from {self.state.path}")
        if self.every and step % self.every == 0:
            self.save()

    def save(self) -> None:
        """Save a state, after a look that its weights are good."""
        self.look()
        self.state.save(self.progress)
        self._saved_step = self.progress.step

    def look(self) -> None:
        """Look at every number that was noted since the last look."""
        if not self._pending:
            return
        finite = torch.stack([value for *_, value in self._pending]).isfinite().tolist()
        pending, self._pending = self._pending, []
        if all(finite):
            return
        step, epoch, first, last, _ = pending[finite.index(False)]
        if self.immediate and self.progress.step:
            self.save()
        kept = f"the last good state, of step {self._saved_step}, is {self.state.path}; " if self._saved_step else ""
        raise Diverged(
            f"training diverged in step {step} (epoch {epoch}) on {self.name_photographs(epoch, first, last)}: {kept}"
            "use a lower --lr (with --overwrite), or look at these photographs"
        )

    def _told_to_stop(self, step: int) -> bool:
        if self.accelerator.num_processes == 1:
            return bool(self.told)
        if step % AGREE_EVERY and not self.immediate:
            return False
        mine = torch.tensor(self.told, device=self.accelerator.device)
        self.told = int(self.accelerator.gather(mine).max())
        return bool(self.told)

    def _note(self, number: int, frame) -> None:
        self.told = number
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a second Ctrl-C does not wait


@contextmanager
def guarded(
    state: State, progress: Progress, every: int | None, name_photographs: NamesPhotographs
) -> Iterator[StepGuard]:
    """A `StepGuard` to which SIGTERM and SIGINT go while the block runs."""
    guard = StepGuard(state, progress, every, name_photographs)
    before = {number: signal.signal(number, guard._note) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield guard
    except RuntimeError:  # a loader process was ended sooner than the run
        if guard.told:
            raise Interrupted(guard.told, f"stopped; --resume goes on from {state.path}") from None
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
