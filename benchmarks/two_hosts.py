"""One training over two hosts, made of network namespaces on this machine; wants Linux, root and iproute2.

    python benchmarks/two_hosts.py                # exit code 1 where something does not hold

Each namespace has a name of its own that no resolver knows, a folder of its own, and one link to the other. What must
hold: without a word on the interface the training is refused in one sentence; with GLOO_SOCKET_IFNAME it ends with the
weights of two processes on one host, bit for bit; also when a process of the second host is killed on the way, or the
second host is replaced by another.
"""

import contextlib
import os
import secrets
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parent.parent
TRAIN = ["train", "-m", "several_processes:network", "--data", "sample", "-d", "cpu", "--set", "precision=fp32"]
TRAIN += ["--set", "batch_size=50", "--set", "epochs=16", "--checkpoint-minutes", "0.003", "-s", "run"]
LIMIT = 180  # seconds


@contextlib.contextmanager
def two_hosts() -> Iterator[list[tuple[str, str]]]:
    """Two namespaces with a link between them; yields the name and the address of each."""
    suffix = secrets.token_hex(3)
    hosts = [(f"host-{suffix}-{number}", f"10.77.0.{number}") for number in (1, 2)]
    try:
        for name, _ in hosts:
            ip("netns", "add", name)
        pair = [item for name, _ in hosts for item in ("name", "link0", "netns", name)]
        ip("link", "add", *pair[:4], "type", "veth", "peer", *pair[4:])
        for name, address in hosts:
            ip("-n", name, "address", "add", f"{address}/24", "dev", "link0")
            for device in ("lo", "link0"):
                ip("-n", name, "link", "set", device, "up")
        yield hosts
    finally:
        for name, _ in hosts:
            subprocess.run(["ip", "netns", "delete", name], stderr=subprocess.DEVNULL, check=False)


def ip(*words: str) -> None:
    """Run iproute2's command."""
    subprocess.run(["ip", *words], check=True)


def start(
    hosts: list[tuple[str, str]],
    place: Path,
    *,
    interface: str,
    restarts: int = 0,
    numbers: tuple[int, ...] = (0, 1),
    replaceable: bool = False,
) -> "list[subprocess.Popen[str]]":
    """Start torchrun on each host, which has a disk of its own: the run is written on the first alone.

    Which host has the store torchrun has to be told, since it too looks at the names of hosts.

    Args:
        hosts: name and address of each.
        place: for a folder of each host, by its number.
        interface: GLOO_SOCKET_IFNAME; "" leaves it out.
        restarts: that are allowed.
        numbers: of the hosts to start it on.
        replaceable: whether another torchrun may take the place of one that is gone, which PyTorch 2.13 has to be told.
    """
    environment = os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}", "OMP_NUM_THREADS": "1"}
    environment |= {"GLOO_SOCKET_IFNAME": interface} if interface else {}
    environment |= {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"} if replaceable else {}
    processes = []
    for number in numbers:
        (name, address), disk = hosts[number], place / str(number)
        disk.mkdir(parents=True, exist_ok=True)
        torchrun = [
            sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--nproc-per-node", "1", "--max-restarts",
            str(restarts), "--rdzv-backend", "c10d", "--rdzv-endpoint", f"{hosts[0][1]}:29400", "--rdzv-id", "x",
            "--rdzv-conf", f"is_host={address == hosts[0][1]}", "--local-addr", address, "-m", "cifar",
        ]  # fmt: skip
        named = ["unshare", "--uts", "sh", "-c", 'hostname "$0"; exec "$@"', name]
        command = ["ip", "netns", "exec", name, *named, *torchrun, *TRAIN]
        processes.append(
            subprocess.Popen(
                command, cwd=disk, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
            )
        )
    return processes


def ended(processes: "list[subprocess.Popen[str]]") -> tuple[list[int], str]:
    """The exit codes, and what was said on both hosts."""
    try:
        said = "".join(process.communicate(timeout=LIMIT)[1] for process in processes)
    finally:
        for process in processes:
            process.kill()
    return [process.returncode for process in processes], said


def kill_rank_of(process: "subprocess.Popen[str]", run: Path, *, host: bool = False) -> None:
    """Kill the training process of a host, or all of the host's, once there is a checkpoint."""
    while not (run / "last.ckpt").exists():
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    (rank,) = psutil.Process(process.pid).children()
    if host:
        process.kill()
    rank.kill()


def faults(folder: Path) -> list[str]:
    """What did not hold, in words."""
    found = []
    alone = [sys.executable, "-m", "cifar", *TRAIN, "--devices", "2"]
    environment = os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}", "OMP_NUM_THREADS": "1"}
    subprocess.run(alone, cwd=folder, env=environment, check=True, capture_output=True)
    expected = (folder / "run" / "model.safetensors").read_bytes()
    with two_hosts() as hosts:
        codes, said = ended(start(hosts, folder / "refused", interface=""))
        if 0 in codes or said.count("set GLOO_SOCKET_IFNAME") != 1:
            found.append(f"an unknown host name: exit codes {codes}, {said[-2000:]}")
        codes, said = ended(start(hosts, folder / "two", interface="link0"))
        if codes != [0, 0] or (folder / "two" / "0" / "run" / "model.safetensors").read_bytes() != expected:
            found.append(f"two hosts: exit codes {codes}, {said[-2000:]}")
        processes = start(hosts, folder / "killed", interface="link0", restarts=2)
        kill_rank_of(processes[1], folder / "killed" / "0" / "run")
        codes, said = ended(processes)
        if codes != [0, 0] or (folder / "killed" / "0" / "run" / "model.safetensors").read_bytes() != expected:
            found.append(f"a killed process: exit codes {codes}, {said[-2000:]}")
        processes = start(hosts, folder / "replaced", interface="link0", restarts=2, replaceable=True)
        kill_rank_of(processes[1], folder / "replaced" / "0" / "run", host=True)
        processes[1].communicate()
        processes[1:] = start(hosts, folder / "replaced", interface="link0", restarts=2, numbers=(1,), replaceable=True)
        codes, said = ended(processes)
        if codes != [0, 0] or (folder / "replaced" / "0" / "run" / "model.safetensors").read_bytes() != expected:
            found.append(f"a replaced host: exit codes {codes}, {said[-2000:]}")
    return found


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(prefix="two-hosts-") as folder:
        found = faults(Path(folder))
    print(
        *found
        or ["Two hosts train as one does; an unknown name is refused; a killed process and a lost host are replaced."],
        sep="\n",
    )
    sys.exit(bool(found))
