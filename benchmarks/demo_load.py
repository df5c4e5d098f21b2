"""`cifar demo` under load: many clients at once, every answer compared with `load_model(run).predict`.

    python benchmarks/demo_load.py results/resnet > load.json
    python benchmarks/demo_load.py results/resnet --hostile 0.05 --minutes 30 > soak.json

Prints JSON: requests lost (refused, interrupted, without an answer) and wrong (another class, or a probability that
differs by more than 1e-5), requests/s, milliseconds from the upload to the answer (p50, p95 and p99), and the server's
resident memory from request 200 on. Of hostile requests (`demo_attacks.py`) it says how many of each kind were sent,
and which were not refused. The exit code is 1 if one was lost, wrong or not refused, if memory was not flat, or if the
server printed a traceback. It needs Linux, whose /proc tells the memory, and sends only to the server that it starts on
this machine.
"""

import argparse
import asyncio
import importlib.metadata
import io
import json
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from itertools import count, takewhile
from pathlib import Path
from random import Random
from typing import Any

import httpx
import numpy as np
from demo_attacks import ATTACKS
from PIL import Image

from cifar import load_model
from cifar.data.cifar10 import load, open_dataset
from cifar.machine import describe_commit, describe_machine, describe_versions

IMAGES = 100  # of the bundled sample, one after another
FLAT = 0.05  # fraction by which memory may grow from the first tenth of its measurements to the last, by their medians
SECONDS = 120  # after which a request counts as lost


@dataclass
class Tally:
    """Results of the requests so far."""

    lost: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    milliseconds: list[float] = field(default_factory=list)
    rss: list[int] = field(default_factory=list)  # bytes
    hostile: Counter[str] = field(default_factory=Counter)  # by kind
    let_in: list[str] = field(default_factory=list)

    @property
    def done(self) -> int:
        return len(self.lost) + len(self.wrong) + len(self.milliseconds) + self.hostile.total()


def main() -> int:
    parser = argparse.ArgumentParser(description="cifar demo under load")
    parser.add_argument("run", type=Path)
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument("--requests", type=int, default=2000)
    parser.add_argument("--warm", type=int, default=200, help="requests before memory is measured")
    parser.add_argument("--hostile", type=float, default=0.0, help="fraction of requests that are hostile")
    parser.add_argument("--minutes", type=float, default=0.0, help="go on for so long, whatever --requests says")
    arguments = parser.parse_args()
    images, expected = make_images(arguments.run)
    command = [sys.executable, "-m", "cifar", "demo", str(arguments.run), "--device", "cpu"]
    with (
        tempfile.TemporaryFile("w+") as errors,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True) as server,
    ):
        try:
            assert server.stdout is not None
            address = server.stdout.readline().strip()
            if not address:
                server.wait()
                errors.seek(0)
                sys.stderr.write(errors.read())  # the server says why
                return 1
            tally = Tally()
            start = time.perf_counter()
            asyncio.run(run_clients(address, images, expected, tally=tally, pid=server.pid, arguments=arguments))
            seconds = time.perf_counter() - start
        finally:
            server.send_signal(signal.SIGINT)
        server.wait()
        errors.seek(0)
        said = errors.read()
    result = sum_up(tally, seconds=seconds, arguments=arguments) | {
        "exit_code": server.returncode,
        "said": said[-2000:],
    }
    print(json.dumps(result, indent=2))
    failed = result["lost"] or result["wrong"] or result["let_in"] or server.returncode or "Traceback" in said
    return 1 if failed or not result["memory"]["flat"] else 0


def make_images(run: Path) -> tuple[list[bytes], list[dict[str, float]]]:
    """PNG files, and for each the probabilities by the network itself."""
    classifier = load_model(run, device="cpu")
    images = load(open_dataset("sample"), "train").images[:IMAGES]
    files, expected = [], []
    for image in images:
        file = io.BytesIO()
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(file, "png")
        files.append(file.getvalue())
        predictions = classifier.predict(image)
        expected.append(dict(zip(predictions.classes, predictions.probs[0].tolist(), strict=True)))
    return files, expected


async def run_clients(
    address: str,
    images: list[bytes],
    expected: list[dict[str, float]],
    *,
    tally: Tally,
    pid: int,
    arguments: argparse.Namespace,
) -> None:
    """Send all requests; each client waits for an answer before it sends its next request."""
    end = time.monotonic() + 60 * arguments.minutes
    numbers = takewhile(
        lambda number: number < arguments.requests if not arguments.minutes else time.monotonic() < end, count()
    )
    random = Random(0)

    async def run_client(client: httpx.AsyncClient) -> None:
        for number in numbers:
            if tally.done >= arguments.warm and tally.done % 20 == 0:
                tally.rss.append(resident_bytes(pid))
            which = number % len(images)
            if random.random() < arguments.hostile:
                attack = ATTACKS[number % len(ATTACKS)]
                tally.hostile[attack.__name__] += 1
                try:
                    await attack(client, images[which])
                except Exception as error:  # let in, or the server broke
                    tally.let_in.append(f"request {number}: {attack.__name__}: {type(error).__name__} {error}")
                continue
            start = time.perf_counter()
            try:
                answer = await ask(client, images[which], name=f"{number}.png")
            except (httpx.HTTPError, ValueError, KeyError, IndexError) as error:
                tally.lost.append(f"request {number}: {type(error).__name__} {error}")
            else:
                if is_right(answer, expected[which]):
                    tally.milliseconds.append(1000 * (time.perf_counter() - start))
                else:
                    tally.wrong.append(f"request {number}: {answer}")

    limits = httpx.Limits(max_connections=arguments.clients, max_keepalive_connections=arguments.clients)
    async with httpx.AsyncClient(base_url=address, timeout=SECONDS, limits=limits, trust_env=False) as client:
        await asyncio.gather(*(run_client(client) for _ in range(arguments.clients)))


async def ask(client: httpx.AsyncClient, image: bytes, *, name: str) -> dict[str, Any]:
    """Upload one image, ask, and read the answer, as the page tells programs to.

    Raises:
        httpx.HTTPError, ValueError, KeyError, IndexError: there was none.
    """
    upload = await client.post("gradio_api/upload", files={"files": (name, image)})
    call = await client.post("gradio_api/call/predict", json={"data": [{"path": upload.raise_for_status().json()[0]}]})
    event = call.raise_for_status().json()["event_id"]
    stream = (await client.get(f"gradio_api/call/predict/{event}")).raise_for_status().text
    if "event: complete" not in stream:
        raise ValueError(stream)
    answer: dict[str, Any] = json.loads(stream.rpartition("data: ")[2])[0]
    return answer


def is_right(answer: dict[str, Any], expected: dict[str, float]) -> bool:
    """Whether all probabilities are the network's own, and the label is its top-1 class."""
    probs = {row["label"]: row["confidence"] for row in answer["confidences"]}
    return (
        probs.keys() == expected.keys()
        and answer["label"] == max(expected, key=expected.__getitem__)
        and all(abs(probs[name] - prob) <= 1e-5 for name, prob in expected.items())
    )


def resident_bytes(pid: int) -> int:
    """The resident memory of a process."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith("VmRSS:")).split()[1])


def sum_up(tally: Tally, *, seconds: float, arguments: argparse.Namespace) -> dict[str, Any]:
    """The figures, JSON-ready."""
    times = np.percentile(tally.milliseconds, [50, 95, 99]) if tally.milliseconds else [0.0] * 3
    tenth = max(1, len(tally.rss) // 10)  # a large image is in memory for a moment
    first, last = (float(np.median(part)) if part else 0.0 for part in (tally.rss[:tenth], tally.rss[-tenth:]))
    growth = (last - first) / first if first else 0.0
    return {
        "run": arguments.run.name,
        "clients": arguments.clients,
        "requests": tally.done,
        "hostile": dict(sorted(tally.hostile.items())),
        "let_in": tally.let_in[:20],
        "lost": len(tally.lost),
        "wrong": len(tally.wrong),
        "first_failures": [*tally.lost, *tally.wrong][:5],
        "seconds": seconds,
        "requests_per_second": len(tally.milliseconds) / seconds,
        "milliseconds": {f"p{percent}": float(value) for percent, value in zip((50, 95, 99), times, strict=True)},
        "memory": {
            "from_request": arguments.warm,
            "samples": len(tally.rss),
            "first_bytes": first,
            "most_bytes": max(tally.rss, default=0),
            "last_bytes": last,
            "growth": growth,
            "flat": growth <= FLAT,
        },
        "machine": describe_machine(),
        "versions": describe_versions() | {"gradio": importlib.metadata.version("gradio")},
        "commit": describe_commit(),
    }


if __name__ == "__main__":
    sys.exit(main())
