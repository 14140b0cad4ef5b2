"""Coordinates the processes that accelerate or torchrun launched."""

import os
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

# After resuming, one process may be nearly finished and wait for hours for another.
_TIMEOUT = timedelta(days=30)


@dataclass(frozen=True)
class Processes:
    """This process and the others that run the same command.

    Attributes:
        index: Index of this process.
        count: Number of processes.
        state: Accelerate's `PartialState`; None for a single process.
    """

    index: int = 0
    count: int = 1
    state: Any = None

    @classmethod
    def join(cls, cpu: bool = False) -> "Processes":
        """Joins the process group, if several processes were launched.

        Args:
            cpu: Whether to compute on the CPU even if there are GPUs.

        Raises:
            ValueError: If accelerate finds fewer processes than were launched.
        """
        launched = int(os.environ.get("WORLD_SIZE", "1"))
        if launched == 1:
            return cls()
        from accelerate import PartialState  # noqa: PLC0415 - takes seconds

        state = PartialState(cpu=cpu or configure_cpu(), timeout=_TIMEOUT)
        if state.num_processes != launched:
            raise ValueError(
                f"processes: {launched} were launched, but accelerate joined "
                f"{state.num_processes}; expected all (on CPUs, set ACCELERATE_USE_CPU=true)"
            )
        return cls(state.process_index, state.num_processes, state)

    @property
    def is_main(self) -> bool:
        """Whether this is the main process, the only one that prints results."""
        return self.index == 0

    def wait(self) -> None:
        """Waits until all processes have reached this call."""
        if self.state is not None:
            self.state.wait_for_everyone()

    def shutdown(self) -> None:
        """Destroys the process group."""
        if self.state is not None:
            self.state.destroy_process_group()

    def is_assigned(self, chunk: int) -> bool:
        """Whether a chunk of the input is assigned to this process: chunks go round robin."""
        return chunk % self.count == self.index


def configure_cpu() -> bool:
    """Sets ACCELERATE_USE_CPU if several processes have no accelerator; returns whether it is set.

    Otherwise accelerate would let each of these processes run as if it were the only one.
    """
    import torch  # noqa: PLC0415 - takes a second

    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and not torch.accelerator.is_available():
        os.environ.setdefault("ACCELERATE_USE_CPU", "true")
    return os.environ.get("ACCELERATE_USE_CPU", "").lower() in ("1", "true", "yes")
