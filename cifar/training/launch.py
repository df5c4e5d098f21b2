"""One training as several processes: torchrun starts them and tells each its place. Loads without PyTorch."""

import contextlib
import os
import signal
import socket
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, NoReturn

from cifar.errors import InputError, WorldError
from cifar.machine import usable_cores

if TYPE_CHECKING:
    from torch.distributed import Store  # type: ignore[attr-defined]

MOST_RESTARTS = 3  # that --devices allows before it gives up
FATAL = "cifar/fatal"  # key of torchrun's store, where all processes look: the exit code of an error that would recur


class LostError(WorldError):
    """Another process of the training has ended; torchrun may start all of them again."""


@dataclass(frozen=True)
class Place:
    """The place of this process in a training of several, as torchrun gives it.

    Attributes:
        rank: its number among all processes; the first, 0, alone writes, prints and logs.
        processes: how many there are.
        local_rank, local_processes: the same on this host.
        hosts: how many there are.
        restarts: how often all processes were started again; most_restarts: how often they can be.
    """

    rank: int
    processes: int
    local_rank: int
    local_processes: int
    hosts: int
    restarts: int
    most_restarts: int


def place() -> Place | None:
    """The place of this process; None where torchrun has not started it."""
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        return None
    names = (
        "RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_WORLD_SIZE", "TORCHELASTIC_RESTART_COUNT",
        "TORCHELASTIC_MAX_RESTARTS",
    )  # fmt: skip
    return Place(*(int(os.environ[name]) for name in names))


def refuse_several(what: str) -> None:
    """Refuse what does not work in several processes.

    Raises:
        InputError: torchrun has started several.
    """
    here = place()
    if here and here.processes > 1:
        raise InputError(f"{what} is one process: start it without torchrun.")


def was_restarted() -> bool:
    """Whether torchrun, or SLURM after a requeue, has started this command before."""
    counts = (os.environ.get(name, "0") for name in ("TORCHELASTIC_RESTART_COUNT", "SLURM_RESTART_COUNT"))
    return any(count.isdigit() and int(count) > 0 for count in counts)


def check_devices(devices: int | None, *, device: str, sync_batchnorm: bool) -> None:
    """Refuse numbers and devices that several processes cannot have, without waiting for PyTorch.

    Args:
        devices: of --devices; None where it was not given.
        device: of --device.
        sync_batchnorm: whether --sync-batchnorm was given.

    Raises:
        InputError: says what to give instead.
    """
    here = place()
    if here and devices is not None and devices != here.local_processes:
        raise InputError(
            f"torchrun has started {here.local_processes} processes here already: leave --devices {devices} out."
        )
    several = here.processes > 1 if here else (devices or 1) > 1
    if sync_batchnorm and device == "cpu":
        raise InputError("PyTorch synchronises batch normalisation on GPUs alone: leave --sync-batchnorm out.")
    if sync_batchnorm and not several:
        raise InputError("--sync-batchnorm is for several processes: give --devices 2 or more, or leave it out.")
    if several and device not in ("", "cpu", "cuda"):
        raise InputError(f"Several processes cannot share {device}: give -d cuda, where each has its own GPU, or cpu.")


def launch(arguments: Sequence[str], *, devices: int, device: str) -> int:
    """Run `cifar` as several processes on this machine, by torchrun's own launcher.

    Processes that a signal has killed are started again, up to MOST_RESTARTS times, and resume from the last
    checkpoint. An error that the program tells in a sentence ends all of them.

    Args:
        arguments: after the program's name.
        devices: the number of processes; on GPUs each has its own, on a CPU they share out the cores.
        device: cpu or cuda.

    Returns:
        the exit code: that of the process which failed first, or 128 and the number of the signal that ended it all.

    Raises:
        InputError: there are fewer GPUs.
    """
    import logging

    import torch
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    if device == "cuda" and devices > torch.cuda.device_count():
        raise InputError(f"There are {torch.cuda.device_count()} GPUs here: give --devices that many, or fewer.")
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, usable_cores() // devices)))
    logging.disable()  # what the launcher logs, the processes say in sentences
    with tempfile.TemporaryDirectory(prefix="cifar-launch-") as folder:
        config = LaunchConfig(
            min_nodes=1, max_nodes=1, nproc_per_node=devices, rdzv_backend="c10d", rdzv_endpoint="localhost:0",
            run_id=str(os.getpid()), max_restarts=MOST_RESTARTS, local_addr="localhost",
            logs_specs=DefaultLogsSpecs(log_dir=folder),
        )  # fmt: skip
        try:
            elastic_launch(config, sys.executable)("-m", "cifar", *arguments)
        except ChildFailedError as error:
            code = error.get_first_failure()[1].exitcode
            return code if code > 0 else 128 - code
        except SignalException as signalled:
            return 128 + signalled.sigval
    return 0


def store(here: Place, *, seconds: float) -> "Store":
    """The store in which the processes find each other, with keys of this start alone.

    Torchrun's own store outlives the processes, and PyTorch 2.13 uses the same keys in every start: without a prefix,
    gloo waits forever for processes that have ended.

    Args:
        here: the place of this process.
        seconds: to wait for another process.
    """
    from torch.distributed import PrefixStore  # type: ignore[attr-defined]

    shared = all_starts(here, seconds=seconds)
    return PrefixStore(f"cifar/start-{here.restarts}", shared) if has_agents_store() else shared


def has_agents_store() -> bool:
    """Whether torchrun itself has the store; else the first process has it, with TORCH_DISABLE_SHARE_RDZV_TCP_STORE."""
    return os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"


def all_starts(here: Place, *, seconds: float) -> "Store":
    """The store that torchrun shares among all processes, through all restarts."""
    from torch.distributed import TCPStore  # type: ignore[attr-defined]

    serves = here.rank == 0 and not has_agents_store()
    return TCPStore(
        os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), is_master=serves,
        timeout=timedelta(seconds=seconds), wait_for_workers=False, multi_tenant=True,
    )  # fmt: skip


def end_if_fatal(here: Place) -> None:
    """End this process with the exit code of an earlier start whose error would only recur."""
    if not has_agents_store():
        return
    with contextlib.suppress(RuntimeError):  # the store has gone
        shared = all_starts(here, seconds=10)
        if shared.check([FATAL]):
            sys.exit(int(shared.get(FATAL)))


def first_to_fail(code: int, *, fatal: bool) -> bool:
    """Whether this is the first process of the training that fails in this start, and so the one that says why.

    Args:
        code: that it is going to exit with.
        fatal: whether the error would recur if all processes were started again.
    """
    here = place()
    if here is None or here.processes == 1:
        return True
    try:
        shared = all_starts(here, seconds=10)
        first = shared.add(f"cifar/failed-{here.restarts}", 1) == 1
        if first and fatal:
            shared.set(FATAL, str(code))
    except RuntimeError:  # the store has gone, with the host that had it
        return here.rank == 0 or fatal
    return first


@contextlib.contextmanager
def ended_by_signals() -> Iterator[None]:
    """Let signals end this process at once: Python's handlers wait for a collective operation that may never end."""
    numbers = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
    before = {number: signal.getsignal(number) for number in numbers}
    for number, handler in before.items():
        if handler is not signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def leave(code: int) -> NoReturn:
    """End this process with an exit code; one of several ends at once, with everything written.

    Gloo's threads abort a process that takes itself apart before they have ended, as an interrupted training may.
    """
    here = place()
    if here and here.processes > 1:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):  # whoever read it has gone
                stream.flush()
        os._exit(code)
    sys.exit(code)


def check_host_name(here: Place) -> None:
    """Refuse a host whose own name leads nowhere, where there are several: gloo would listen on the loopback device.

    Raises:
        WorldError: names the variables to set.
    """
    if here.hosts == 1 or os.environ.get("GLOO_SOCKET_IFNAME"):
        return
    name, address = socket.gethostname(), ""
    with contextlib.suppress(OSError):
        address = socket.gethostbyname(name)
    if not address or address.startswith("127."):
        what = f"is {address}, which no other host reaches" if address else "has no address"
        raise WorldError(
            f"The host name {name} {what}: set GLOO_SOCKET_IFNAME, and on GPUs NCCL_SOCKET_IFNAME, to the network "
            "interface between the hosts, such as eth0 (`ip -br address` lists them)."
        )


def end_with_launcher() -> None:
    """Have Linux send TERM to this process when torchrun ends, however it does: the training then saves and stops."""
    if sys.platform == "linux":
        import ctypes

        set_death_signal = 1  # of prctl
        ctypes.CDLL(None).prctl(set_death_signal, signal.SIGTERM)


def lost(here: Place, *, resume: str) -> LostError:
    """The error of a process whose training another one has left.

    Args:
        here: its place.
        resume: the command that resumes.
    """
    again = "all start again from the last checkpoint" if here.restarts < here.most_restarts else f"go on with {resume}"
    return LostError(f"A process of this training has ended (killed, or its host is gone): {again}.")
