"""The processes that accelerate or torchrun started, of which this is one."""

import os
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

# One process may have hours to go when another, resumed near its end, waits for it.
_PATIENCE = timedelta(days=30)


@dataclass(frozen=True)
class Processes:
    """This process among all.

    Attributes:
        index: Its number.
        count: How many there are.
        state: What accelerate knows of them; None for one process.
    """

    index: int = 0
    count: int = 1
    state: Any = None

    @classmethod
    def started(cls, cpu: bool = False) -> "Processes":
        """Joins the processes that were started together, if they were.

        Args:
            cpu: Whether they compute on the CPU although there are GPUs.

        Raises:
            ValueError: If fewer were found than were started.
        """
        started = int(os.environ.get("WORLD_SIZE", "1"))
        if started == 1:
            return cls()
        from accelerate import PartialState  # noqa: PLC0415 - takes seconds

        state = PartialState(cpu=cpu or on_cpu(), timeout=_PATIENCE)
        if state.num_processes != started:
            raise ValueError(
                f"processes: {started} were started, accelerate joined {state.num_processes}; "
                "expected all (on CPUs set ACCELERATE_USE_CPU=true)"
            )
        return cls(state.process_index, state.num_processes, state)

    @property
    def is_main(self) -> bool:
        """Whether this is the one that speaks for all."""
        return self.index == 0

    def wait(self) -> None:
        """Waits until all have come here."""
        if self.state is not None:
            self.state.wait_for_everyone()

    def leave(self) -> None:
        """Ends what connects the processes."""
        if self.state is not None:
            self.state.destroy_process_group()

    def takes(self, chunk: int) -> bool:
        """Whether a chunk of the input is this process's: they take them in turn."""
        return chunk % self.count == self.index


def on_cpu() -> bool:
    """Whether several processes must be told to compute on CPUs, and tells accelerate so.

    Without an accelerator, and without being told, accelerate lets each of them run as if alone.
    """
    import torch  # noqa: PLC0415 - takes a second

    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and not torch.accelerator.is_available():
        os.environ.setdefault("ACCELERATE_USE_CPU", "true")
    return os.environ.get("ACCELERATE_USE_CPU", "").lower() in ("1", "true", "yes")
