"""A server under good, bad, slow and vanishing clients at once: every good request gets its answer, and what the server holds stays flat.

The answers of good requests are held against those that the same server gave before anyone else came. At the end, when all clients have
gone, open files are as many as before, and memory has grown by no more than MARGIN since the end of the first quarter.

Usage: python tests/soak/server.py [--seconds 3600]; `make soak SECONDS=3600`
"""

import argparse
import collections
import contextlib
import http.client
import json
import pathlib
import random
import resource
import socket
import subprocess
import sys
import tempfile
import threading
import time

sys.path.insert(0, str(pathlib.Path(__file__).parents[2]))

CONTEXT = 64
FILES = 400
"""The server's limit of open files, so that connections reach their own."""
MARGIN = 24 << 20
"""Bytes by which memory may grow: allocators keep some of what was freed."""
PAUSE = 0.1
"""Seconds between what a hostile client does, so that the machine has time for the others."""
QUIET_SECONDS = 45
"""Until connections that nobody closed have ended."""
PAGE = resource.getpagesize()


def serve() -> int:
    """Run a server until the standard input ends."""
    from teleflm_jax.generate.engine import Engine
    from tests.serve import servers

    resource.setrlimit(resource.RLIMIT_NOFILE, (FILES, FILES))
    with tempfile.TemporaryDirectory() as folder:
        served = servers.tiny_served(pathlib.Path(folder), context_length=CONTEXT)
        weights = servers.tiny_weights(context_length=CONTEXT)
        with servers.running(served, lambda: Engine(weights, served.tokenizer, slots=4), slots=4, queue=64) as running:
            print(running.url, flush=True)
            sys.stdin.read()
            engine_thread = running.service.engine_thread
            servers.until(lambda: engine_thread.load == 0)
            print(
                json.dumps({"load": engine_thread.load, "failures": engine_thread.failures, "last": engine_thread.last_failure}), flush=True
            )
    return 0


def good_calls() -> list[tuple[str, dict]]:
    """Paths and bodies whose answers are known."""
    calls = []
    for seed in range(12):
        common = {"model": "tiny", "seed": seed, "max_tokens": 4 + 3 * seed, "stream": seed % 3 == 0}
        prompt = {"prompt": "the time of " * (seed % 4 + 1), "n": seed % 2 + 1}
        talk = {"messages": [{"role": "user", "content": "a house " * (seed % 3)}], "temperature": 0.7}
        calls.append(("/v1/completions", common | prompt) if seed % 2 else ("/v1/chat/completions", common | talk))
    return calls


def ask(address: tuple[str, int], path: str, body: object) -> tuple[int, object]:
    """Status and what the choices say, without what differs from one answer to the next."""
    connection = http.client.HTTPConnection(*address, timeout=120)
    try:
        connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
        response = connection.getresponse()
        content = response.read()
    finally:
        connection.close()
    if response.status != 200:
        return response.status, content.decode(errors="replace")[:200]
    if response.headers["Content-Type"].startswith("text/event-stream"):
        lines = content.decode().split("\n\n")
        choices = [choice for line in lines[:-2] for choice in json.loads(line.removeprefix("data: "))["choices"]]
        texts = collections.defaultdict(str)
        for choice in choices:
            texts[choice["index"]] += choice.get("text") or choice.get("delta", {}).get("content") or ""
        return 200, (sorted(texts.items()), lines[-2])
    return 200, json.loads(content)["choices"]


def good(address, expected, counts, stop) -> None:
    """Ask what is known, and compare."""
    chance = random.Random(threading.get_ident())
    while not stop.is_set():
        path, body, wanted = chance.choice(expected)
        try:
            found = ask(address, path, body)
        except (OSError, http.client.HTTPException) as error:
            found = (0, f"{type(error).__name__}: {error}")
        counts["good" if found == wanted else f"not good: {found[0]} {str(found[1])[:120]}"] += 1


def bad(address, _, counts, stop) -> None:
    """Send what is to be refused."""
    chance = random.Random(1)
    bodies = [
        *(b"{", b"[]", b"\xff" * 99, b"[" * 9999, b"[]," * 99_999, json.dumps({"model": "tiny", "prompt": "9" * 3_000_000}).encode()),
        *(json.dumps({"model": "tiny", "prompt": wrong}).encode() for wrong in (None, [], [[]], {"a": 1}, [390], "\x00" * 99_999)),
        *(json.dumps({"model": "tiny", "prompt": "a", name: []}).encode() for name in ("n", "seed", "stop", "stream", "temperature", "x")),
    ]
    heads = [b"nonsense\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"a" * 70_000, b"GET /health HTTP/1.1\r\nHost: evil.example\r\n\r\n"]
    while not stop.is_set():
        time.sleep(PAUSE)
        with contextlib.suppress(OSError):
            if chance.random() < 0.3:
                with socket.create_connection(address, 30) as connection:
                    connection.sendall(chance.choice(heads))
                    connection.recv(99)
            else:
                request(address, chance.choice(bodies)).close()
        counts["bad"] += 1


def request(address, body: bytes, *, length: int | None = None) -> socket.socket:
    """A connection on which a body, or a part of it, has been sent."""
    connection = socket.create_connection(address, 30)
    head = f"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length or len(body)}\r\n"
    connection.sendall(head.encode() + b"Content-Type: application/json\r\n\r\n" + body)
    return connection


def slow(address, _, counts, stop) -> None:
    """Hold idle connections, half heads, half bodies and answers that are not read, each until the server ends it."""
    chance, held = random.Random(2), []
    long_answer = json.dumps({"model": "tiny", "prompt": "a", "max_tokens": 50, "stream": True, "n": 2, "logprobs": 20}).encode()
    while not stop.is_set():
        time.sleep(PAUSE)
        with contextlib.suppress(OSError):
            kind = chance.randrange(5)
            if kind == 0:
                held.append(socket.create_connection(address, 30))
            elif kind == 1:
                held.append(socket.create_connection(address, 30))
                held[-1].sendall(b"POST /v1/completions HTTP/1.1\r\nHos")
            elif kind == 2:
                held.append(request(address, b" " * chance.randrange(400_000), length=900_000))
            elif kind == 3 and chance.random() < 0.2:
                held.append(request(address, long_answer))
        for connection in list(held):
            with contextlib.suppress(OSError):
                if chance.random() < 0.01:
                    connection.sendall(b"a")
        while len(held) > 200:
            held.pop(0).close()
        counts["slow"] += 1
    for connection in held:
        connection.close()


def vanishing(address, _, counts, stop) -> None:
    """Ask, and leave before or in the midst of the answer."""
    chance = random.Random(3)
    body = json.dumps({"model": "tiny", "prompt": "the time", "max_tokens": 50, "stream": True}).encode()
    while not stop.is_set():
        time.sleep(PAUSE)
        with contextlib.suppress(OSError), request(address, body) as connection:
            if chance.random() < 0.5:
                connection.recv(200)
            if chance.random() < 0.5:  # by a reset
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        counts["vanishing"] += 1


def measure(pid: int) -> dict[str, int]:
    """Memory, open files and threads of a process."""
    process = pathlib.Path(f"/proc/{pid}")
    rss = int((process / "statm").read_text().split()[1]) * PAGE
    return {"rss": rss, "files": len(list((process / "fd").iterdir())), "threads": len(list((process / "task").iterdir()))}


def soak(seconds: float) -> int:
    """Run all clients for a time; returns the exit code."""
    with subprocess.Popen([sys.executable, __file__, "--serve"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        host, port = process.stdout.readline().strip().removeprefix("http://").split(":")
        address = (host, int(port))
        expected = [(path, body, ask(address, path, body)) for path, body in good_calls()]
        again = [ask(address, path, body) == wanted for path, body, wanted in expected]
        assert all(again) and all(wanted[0] == 200 for *_, wanted in expected), expected
        time.sleep(1)
        before = measure(process.pid)
        rows, counts = load(process.pid, address, expected, seconds)
        time.sleep(QUIET_SECONDS)
        after, still = measure(process.pid), [ask(address, path, body) == wanted for path, body, wanted in expected]
        told = process.communicate("")[0].splitlines()[-1]
    return judge(before, rows, after, counts, all(still), json.loads(told))


def load(pid: int, address, expected, seconds: float) -> tuple[list[dict[str, int]], collections.Counter]:
    """Run the clients; returns measurements in time and what was done."""
    counts, stop = collections.Counter(), threading.Event()
    kinds = (good, good, good, bad, slow, vanishing)
    threads = [threading.Thread(target=kind, args=(address, expected, counts, stop)) for kind in kinds]
    for thread in threads:
        thread.start()
    rows, end = [], time.monotonic() + seconds
    while time.monotonic() < end:
        time.sleep(1)
        rows.append(measure(pid))
    stop.set()
    for thread in threads:
        thread.join()
    return rows, counts


def judge(before, rows, after, counts, still: bool, told) -> int:
    """Print what was found; 0 where all holds."""
    quarter = len(rows) // 4
    warm = max(row["rss"] for row in rows[quarter // 2 : quarter + 1])
    last = max(row["rss"] for row in rows[-max(1, quarter // 2) :])
    found = {
        "every good request got its answer": counts["good"] > 0 and not any(name.startswith("not good") for name in counts),
        "and gets it still": still,
        f"memory grew by at most {MARGIN >> 20} MiB since the first quarter": last - warm <= MARGIN,
        "open files are as before": after["files"] <= before["files"],
        "threads are no more than in the first half": after["threads"] <= max(row["threads"] for row in rows[: len(rows) // 2]),
        "the engine never failed and holds no text": told["failures"] == 0 and told["load"] == 0,
    }
    memory = {"before": before["rss"], "first quarter": warm, "end": last, "after": after["rss"]}
    print(dict(counts))
    print(f"memory in MiB: { {name: round(value / 2**20, 1) for name, value in memory.items()} }")
    tenths = [rows[len(rows) * tenth // 10]["rss"] >> 20 for tenth in range(10)]
    print(f"in the course of the run: {tenths}")
    print(f"most open files: {max(row['files'] for row in rows)}; before {before}; after {after}; {told}")
    for name, holds in found.items():
        print(f"{'holds' if holds else 'FAILS'}: {name}")
    return 0 if all(found.values()) else 1


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=3600)
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    sys.exit(serve() if given.serve else soak(given.seconds))
