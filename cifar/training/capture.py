"""The steps of a training, one by one, or on a GPU as replays of a step that was captured as a CUDA graph.

A GPU computes a step of a small network faster than Python can start its operations: captured once, all of them start
together. A graph works on fixed memory with fixed shapes and repeats every number that Python gave it. So a step reads
what changes (images, random numbers, rates) from the tables of the epoch's plan, by a counter on the device.
"""

import warnings
from collections.abc import Callable, Hashable, Mapping
from dataclasses import replace

import torch
from torch import Tensor

from cifar.errors import WorldError
from cifar.randomness import draws_of_python
from cifar.training.plan import PER_STEP, Plan

WARM_UP = 3  # first steps of a phase, which choose algorithms and create what is kept: momentum, workspaces
Rows = Mapping[str, Tensor]


class Steps:
    """Runs the steps of a training.

    Args:
        run: takes one step with its rows of the plan's tables, and changes tensors in place.
        device: whose memory the tables get; a CPU's rows stay exactly as they were drawn.
        capture: replay captured steps.
        say: is told where capturing fails; the steps then run one by one.
    """

    def __init__(
        self, run: Callable[[Rows], None], *, device: torch.device, capture: bool, say: Callable[[str], None]
    ) -> None:
        self._run, self._device, self._capture, self._say = run, device, capture, say
        self._phase: Hashable = None
        self._replay: Callable[[], None] | None = None
        self._stream = torch.cuda.Stream(device) if capture and device.type == "cuda" else None  # type: ignore[no-untyped-call]
        self._counter = torch.zeros(1, dtype=torch.int64, device=device)
        self._next = -1  # what the counter holds

    def begin(self, plan: Plan, *, phase: Hashable) -> None:
        """Take the plan of an epoch.

        Args:
            plan: on the CPU.
            phase: of the training; where it changes, a step has other operations and is captured anew.
        """
        if self._device.type == "cpu" and not self._capture:
            self._plan = plan
            return
        on_host = ("rates",) if self._device.type == "mps" else ()  # its optimisers take numbers
        tables = {
            name: table if name in on_host else to_device(table, self._device) for name, table in plan.tables.items()
        }
        if self._replay is None or phase != self._phase:
            self._phase, self._replay, self._warm = phase, None, 0
            self._plan = replace(plan, tables=tables)
        else:  # a graph reads these addresses
            for name, table in self._plan.tables.items():
                table.copy_(tables[name])

    def step(self, number: int) -> None:
        """Take a step of the epoch.

        Raises:
            FloatingPointError, WorldError: as `training_step`.
        """
        bounds = self._plan.bounds
        if not self._capture or bounds[number + 1] - bounds[number] != bounds[1]:  # the last batch may differ in size
            self._run(self._plan.step(number))
        elif self._replay is None and self._warm < WARM_UP:
            self._warm += 1
            drawn = draws_of_python()
            waits = warm_up(lambda: self._run(self._plan.step(number)), self._stream)
            if self._warm == WARM_UP and waits:
                self._give_up("it waits for the GPU")
            elif self._warm == WARM_UP and draws_of_python() != drawn:
                self._give_up("it draws random numbers from Python or NumPy, which a graph would repeat")
        else:
            if self._next != number:
                self._counter.fill_(number)
            self._next = number + 1
            self._replay = self._replay or self._captured()
            if self._replay is None:
                self.step(number)
            else:
                self._replay()

    def _captured(self) -> Callable[[], None] | None:
        """A function that replays a step; None where it cannot be captured."""
        bounds = self._plan.bounds
        batch_size, num_steps = bounds[1], len(bounds) - 1
        num_full = num_steps if bounds[-1] == num_steps * batch_size else num_steps - 1
        shape, stop = (num_full, batch_size), num_full * batch_size
        tables = {
            name: table if name in PER_STEP else table[:stop].view(*shape, *table.shape[1:])
            for name, table in self._plan.tables.items()
        }

        def step() -> None:
            self._run({name: table.index_select(0, self._counter)[0] for name, table in tables.items()})
            self._counter.add_(1)

        try:
            return captured(step, self._stream)
        except (RuntimeError, WorldError) as error:  # a graph also needs memory of its own
            self._give_up(str(error).strip().partition("\n")[0])
            return None

    def _give_up(self, reason: str) -> None:
        self._capture = False
        self._say(f"A training step cannot be captured as a CUDA graph ({reason}): it is started anew each time.")


def captured(step: Callable[[], None], stream: "torch.cuda.Stream | None") -> Callable[[], None]:
    """A function that repeats on the GPU all that `step` starts there; `step` itself starts nothing now.

    Raises:
        RuntimeError: the step does something that cannot be captured.
    """
    graph = torch.cuda.CUDAGraph()
    # Other threads, such as one that still starts a library, may go on meanwhile.
    with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
        step()
    return graph.replay


def warm_up(step: Callable[[], None], stream: "torch.cuda.Stream | None") -> bool:
    """Take a step on the stream that it will be captured on; returns whether it waited for the GPU."""
    if stream is None:
        step()
        return False
    current = torch.cuda.current_stream()
    stream.wait_stream(current)
    mode = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings(record=True) as caught, torch.cuda.stream(stream):
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            step()
        finally:
            torch.cuda.set_sync_debug_mode(mode)
    current.wait_stream(stream)
    return any("synchronizing CUDA operation" in str(one.message) for one in caught)


def to_device(table: Tensor, device: torch.device) -> Tensor:
    """A table on a device, fractions in fp32; a GPU fetches it by itself from memory that stays where it is."""
    table = table.float() if table.is_floating_point() else table
    return table.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else table.to(device)


def obstacle(*, precision: str, skip_bad_steps: int, own_augmentation: str, processes: int = 1) -> str:
    """Why steps cannot be captured, or ""."""
    if processes > 1:
        return "several processes add up their gradients in each"
    if own_augmentation:
        return f"{own_augmentation} may draw numbers that a graph would repeat"
    if precision == "fp16":
        return "in fp16 every gradient is looked at"
    return "with skip_bad_steps every loss is looked at" if skip_bad_steps else ""
