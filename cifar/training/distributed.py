"""What the processes of one training tell each other. In a training of one process all of this is nothing.

Every process draws the same plan of an epoch and takes its rows of each batch. PyTorch's DistributedDataParallel
averages the gradients; losses are weighted by rows, so that the mean is that of the whole batch. Decisions and figures
go through gloo, on the CPU; gradients on GPUs through nccl.
"""

import gc
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from itertools import chain
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from cifar.errors import InputError
from cifar.randomness import seed_generators
from cifar.training.launch import Place, check_host_name, end_with_launcher, ended_by_signals, lost, place, store

T = TypeVar("T")
START_SECONDS = 900.0  # for all processes to be there
# That a process waits for another: the first may fetch data, or draw pictures. A lost one is noticed at once.
HOURS = 12
FEWEST_ROWS = 2  # of a process in a batch: batch normalisation has no statistics of one


def processes() -> int:
    """How many processes train together; 1 is this one alone."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """The number of this process among them, from 0."""
    return dist.get_rank() if processes() > 1 else 0


def is_first() -> bool:
    """Whether this process is the one that writes, prints and logs."""
    return rank() == 0


@contextmanager
def joined(*, resume: str = "") -> Iterator[None]:
    """Be one of the processes that torchrun has started, within this context; in a single one nothing changes.

    Args:
        resume: the command that resumes the training, for the error.

    Raises:
        LostError: another process has ended.
        WorldError: this host cannot be reached by the others, or they did not come.
    """
    here = place()
    if here is None or here.processes == 1:
        yield
        return
    check_host_name(here)
    end_with_launcher()
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() and dist.is_nccl_available() else "gloo"
    ended = False
    try:
        with ended_by_signals():
            dist.init_process_group(
                backend, store=store(here, seconds=START_SECONDS), rank=here.rank, world_size=here.processes,
                timeout=timedelta(hours=HOURS),
            )  # fmt: skip
        yield
    except RuntimeError as error:
        ended = is_lost(error)
        if ended:
            raise lost(here, resume=resume) from None
        raise
    finally:
        # Gloo's threads abort a process that ends before them. Networks that average gradients hold them, in circles.
        if dist.is_initialized() and not ended:
            gc.collect()
            dist.destroy_process_group()


def is_lost(error: RuntimeError) -> bool:
    """Whether an error says that another process cannot be reached any more."""
    return isinstance(error, dist.DistError) or "gloo" in str(error) or "Connection closed by peer" in str(error)


def device_of(here: Place, device: str) -> str:
    """The device of one of several processes: on GPUs each process of a host has its own.

    Args:
        here: the place of this process.
        device: cpu, mps or cuda.

    Raises:
        InputError: there is no GPU for it, or the device cannot be shared.
    """
    if device == "cuda":
        if here.local_rank >= torch.cuda.device_count():
            raise InputError(
                f"There are {torch.cuda.device_count()} GPUs here for {here.local_processes} processes: start fewer."
            )
        torch.cuda.set_device(here.local_rank)
    elif device != "cpu":
        raise InputError(f"Several processes cannot share {device}: give -d cuda, where each has its own GPU, or cpu.")
    return device


def share(num_rows: int) -> tuple[slice, float]:
    """The rows of a batch that this process computes, and the weight of their mean in the average over processes.

    A batch with too few rows for all is computed by each process as a whole, with the same result.
    """
    here, together = rank(), processes()
    if num_rows < FEWEST_ROWS * together:
        return slice(0, num_rows), 1.0
    rows = slice(num_rows * here // together, num_rows * (here + 1) // together)
    return rows, together * (rows.stop - rows.start) / num_rows


def counted(num_rows: int) -> bool:
    """Whether this process counts the images of a batch in the sums of an epoch, so that each counts once."""
    return is_first() or num_rows >= FEWEST_ROWS * processes()


def in_parallel(model: nn.Module, *, own: bool) -> nn.Module:
    """The network whose backward pass averages the gradients of all processes; alone, the network itself.

    Args:
        model: with equal weights in all processes.
        own: whether it is the user's: some parameters may have no part in the loss, which costs a search in each step.
    """
    if processes() == 1:
        return model
    warnings.filterwarnings("ignore", message="find_unused_parameters=True was specified")
    return nn.parallel.DistributedDataParallel(model, init_sync=False, find_unused_parameters=own)


def same_everywhere(*modules: nn.Module | None, buffers_only: bool = False) -> None:
    """Give networks the weights and buffers, or the buffers alone, that they have in the first process."""
    if processes() == 1:
        return
    for module in filter(None, modules):
        for tensor in chain(module.buffers(), () if buffers_only else module.parameters()):
            dist.broadcast(tensor.detach(), 0)


def seed_apart(seed: int) -> None:
    """Seed the generators of dropout and the like by process; the first keeps what it has drawn so far."""
    if rank():
        seed_generators(seed + 1_000_003 * rank())


def synchronise_batchnorm(model: nn.Module) -> nn.Module:
    """The network with batch statistics over all processes."""
    return nn.SyncBatchNorm.convert_sync_batchnorm(model)  # type: ignore[no-any-return,no-untyped-call]


def agreed(*values: float) -> list[float]:
    """The highest of each value over all processes."""
    if processes() == 1:
        return list(values)
    highest = torch.tensor(values, dtype=torch.float64)
    dist.all_reduce(highest, op=dist.ReduceOp.MAX)
    return highest.tolist()


def steps_between_looks(steps: int, seconds: float, *, interval: float) -> int:
    """How many steps to take before the processes agree again, since every agreement costs time; alone, one.

    Args:
        steps: that took these seconds.
        interval: seconds between two agreements.
    """
    return 1 if processes() == 1 else max(1, int(interval * steps / seconds))


def merge_(sums: Tensor) -> list[float]:
    """Add up the sums of all processes, in place: the first then holds them, the others zeros; returns the sums."""
    if processes() > 1:
        dist.all_reduce(sums)
    values: list[float] = sums.tolist()
    if not is_first():
        sums.zero_()
    return values


def from_first(value: T) -> T:
    """What the first process gives; alone, the value itself."""
    if processes() == 1:
        return value
    values: list[Any] = [value]
    dist.broadcast_object_list(values, 0)
    return values[0]  # type: ignore[no-any-return]


def received() -> Any:
    """What the first process gives, for another."""
    return from_first(None)


def from_all(value: T) -> list[T]:
    """What every process gives, in their order."""
    if processes() == 1:
        return [value]
    values: list[Any] = [None] * processes()
    dist.all_gather_object(values, value)
    return values


def computed_together(rows: Tensor, compute: Callable[[Tensor], Tensor]) -> Tensor:
    """Compute the rows of a tensor in all processes, each its part.

    Args:
        rows: [N, …], the same in all.
        compute: [B, …] to float32 [B, 10], on the CPU.

    Returns:
        [N, 10] in their order, in every process.
    """
    if processes() == 1:
        return compute(rows)
    here, together, num_rows = rank(), processes(), len(rows)
    part = slice(num_rows * here // together, num_rows * (here + 1) // together)
    results = torch.zeros(num_rows, 10)
    results[part] = compute(rows[part])
    dist.all_reduce(results)  # zeros elsewhere: the sum is exact
    return results


def shared_out(matrices: Sequence[Tensor], compute: Callable[[list[Tensor]], list[Tensor]]) -> list[Tensor]:
    """Compute each matrix in one process and give the results to all, which then hold the same bits.

    The largest are given out first, each to the process that has least: the work grows with rows² · columns.

    Args:
        matrices: [R, C] each, of one type, the same in all processes.
        compute: matrices to as many of the same shapes.
    """
    if processes() == 1:
        return compute(list(matrices))
    costs = [matrix.numel() * min(matrix.shape) for matrix in matrices]
    owned: list[list[int]] = [[] for _ in range(processes())]
    loads = [0] * processes()
    for index in sorted(range(len(matrices)), key=lambda index: -costs[index]):
        least = loads.index(min(loads))
        owned[least].append(index)
        loads[least] += costs[index]
    mine = owned[rank()]
    width = max(sum(matrices[index].numel() for index in indices) for indices in owned)
    sent = matrices[0].new_zeros(width)
    results = compute([matrices[index] for index in mine]) if mine else []
    flat = torch.cat([result.flatten() for result in results]) if mine else sent[:0]
    sent[: len(flat)] = flat
    received = sent.new_empty(processes(), width)
    dist.all_gather(list(received.unbind()), sent)
    parts: dict[int, Tensor] = {}
    for row, indices in zip(received, owned, strict=True):
        pieces = row[: sum(matrices[index].numel() for index in indices)].split(
            [matrices[index].numel() for index in indices]
        )
        parts |= {index: piece.view(matrices[index].shape) for index, piece in zip(indices, pieces, strict=True)}
    return [parts[index] for index in range(len(matrices))]
