"""A server under slow, idle and hostile clients on loopback, and pages of other sites."""

import asyncio
import contextlib
import io
import logging
import socket
import statistics
import threading
import time

import httpx
import numpy as np
import psutil
import pytest
import uvicorn
from PIL import Image

from tests.helpers.corrupt_images import jpeg_with_scans
from tests.helpers.image_folder import MeanColorModel, draw_color, write_color_folder
from tests.helpers.odd_images import encode
from universal_embedding.app import connections, pages, requests, server
from universal_embedding.app.decoding import DecodePool
from universal_embedding.app.image_index import ImageIndex
from universal_embedding.datasets.image_files import CorruptImageError, read_image
from universal_embedding.errors import UserError


@contextlib.contextmanager
def serving(index, hosts=("127.0.0.1",), **limits):
    app = server.make_app(index, pages.ServerLimits(**limits), None, hosts)
    config = uvicorn.Config(
        app, "127.0.0.1", 0, http=connections.BoundedProtocol, log_level="critical", backlog=64
    )
    web = uvicorn.Server(config)
    thread = threading.Thread(target=web.run)
    thread.start()
    while not web.started:
        time.sleep(0.01)
    yield web.servers[0].sockets[0].getsockname()[1]
    web.should_exit = True
    web.force_exit = True
    thread.join()


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    folder = write_color_folder(tmp_path_factory.mktemp("served") / "images")
    return ImageIndex.build(MeanColorModel(), folder)


@pytest.fixture(scope="module")
def port(index):
    with serving(index) as port:
        yield port


def request(port, text):
    """The status of the answer to raw bytes; 0 if the connection was closed."""
    with socket.create_connection(("127.0.0.1", port), timeout=20) as client:
        client.sendall(text.encode())
        head = client.recv(1000).decode(errors="replace")
    return int(head.split()[1]) if head else 0


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ("", 200),
        ("Sec-Fetch-Site: same-origin\r\nOrigin: http://127.0.0.1\r\n", 200),
        ("Sec-Fetch-Site: none\r\n", 200),
        ("Sec-Fetch-Site: cross-site\r\n", 403),
        ("Sec-Fetch-Site: same-site\r\n", 403),
        ("Origin: https://evil.example\r\n", 403),
        ("Origin: null\r\n", 403),
        ("Host: 127.0.0.1\r\n", 400),  # twice
    ],
)
def test_pages_of_other_sites_are_refused(port, headers, status):
    line = "GET /api/search?image=0 HTTP/1.1\r\nHost: 127.0.0.1\r\n"
    assert request(port, f"{line}{headers}Connection: close\r\n\r\n") == status


def test_link_to_the_page_works_from_other_sites(port):
    head = "GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nSec-Fetch-Site: cross-site\r\n"
    assert request(port, f"{head}Connection: close\r\n\r\n") == 200


OWN = ("localhost", "LOCALHOST:80", "my.name", "10.0.0.7", "[::1]:8000", "127.0.0.1:1")
FOREIGN = ("evil.example", "my.name.evil", "2130706433", "0x7f.1", "a@my.name", "", "[::1", "m/n")


@pytest.mark.parametrize("host", [*OWN, *FOREIGN])
def test_hosts(host):
    check = server._CheckSender(None, ("localhost", "my.name"), allow_addresses=True)
    assert check._is_own(host) is (host in OWN)
    local = server._CheckSender(None, ("localhost", "127.0.0.1", "::1"), allow_addresses=False)
    assert local._is_own(host) is (
        host in ("localhost", "LOCALHOST:80", "[::1]:8000", "127.0.0.1:1")
    )


@pytest.mark.parametrize("host", ["", "999.1.1.1", "8.8.8.8"])
def test_addresses_that_cannot_be_served_are_named(index, host):
    with pytest.raises(UserError, match="--host"):
        server.serve(index, host, 0, pages.ServerLimits(), None)


@pytest.mark.parametrize(
    "path",
    [
        "/api/search?image=0&max_distance=inf",
        "/api/search?image=0&max_distance=1e999",
        "/api/search?image=0&k=1_0",
        "/api/search?image=%D9%A3",
        "/images/" + "9" * 5000,
        "/images/0%0a",
        "/images/-1",
    ],
)
def test_odd_numbers_are_client_errors(port, path):
    assert 400 <= httpx.get(f"http://127.0.0.1:{port}{path}").status_code < 500


def test_bombs_are_refused_at_once(port):
    bombs = {
        "scans": (jpeg_with_scans(20_000), "more than 100 scans"),
        "pixels": (encode(Image.new("L", (7000, 7000)), "WEBP"), "7000 x 7000 pixels"),
    }
    for data, words in bombs.values():
        start = time.monotonic()
        answer = httpx.post(f"http://127.0.0.1:{port}/api/search", content=data, timeout=20)
        assert answer.status_code == 422 and words in answer.json()["error"]
        assert time.monotonic() - start < 5


def test_worker_that_is_too_slow_is_replaced():
    pool = DecodePool(1, 10_000_000, seconds=0.02)
    large = encode(Image.effect_noise((3000, 3000), 90), "PNG")
    small = encode(draw_color("red", 1), "PNG")
    with pytest.raises(CorruptImageError, match=r"more than 0.02 s"):
        pool.decode(large)
    pool._seconds = 20
    np.testing.assert_array_equal(pool.decode(small), read_image(small))
    with pytest.raises(CorruptImageError, match="supported formats"):
        pool.decode(b"%!PS-Adobe-3.0")
    pool.close()


def test_slow_uploads_are_given_up_and_hinder_nobody(index, monkeypatch):
    monkeypatch.setattr(requests, "GRACE_SECONDS", 1.0)
    with serving(index) as port:
        slow = []
        for _ in range(64):
            client = socket.create_connection(("127.0.0.1", port))
            client.sendall(
                b"POST /api/search HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 9\r\n\r\nx"
            )
            slow.append(client)
        start = time.monotonic()
        url = f"http://127.0.0.1:{port}/api/search"
        assert httpx.get(url, params={"image": 0}, timeout=20).status_code == 200
        data = encode(draw_color("red", 5), "PNG")
        assert httpx.post(url, content=data, timeout=20).status_code == 200
        assert time.monotonic() - start < 5
        for client in slow:
            client.settimeout(20)
            assert b" 408 " in client.recv(100)
            client.close()


def test_idle_connections_make_room_and_are_closed(index, monkeypatch):
    monkeypatch.setattr(connections, "MAX_CONNECTIONS", 20)
    monkeypatch.setattr(connections, "HEADER_SECONDS", 1.0)
    with serving(index) as port:
        idle = [socket.create_connection(("127.0.0.1", port)) for _ in range(60)]
        for client in idle:
            with contextlib.suppress(OSError):
                client.sendall(b"GET / HT")
        assert httpx.get(f"http://127.0.0.1:{port}/api/index", timeout=20).status_code == 200
        for client in idle:
            client.settimeout(20)
            with contextlib.suppress(ConnectionResetError):
                assert client.recv(100) == b""
            client.close()


def test_log_is_bounded_and_says_so():
    limit = connections.LogLimit()
    records = [logging.makeLogRecord({"msg": f"line {i}"}) for i in range(500)]
    assert sum(map(limit.filter, records)) == connections.LOG_LINES_PER_MINUTE
    limit._minute -= 1
    last = logging.makeLogRecord({"msg": "again"})
    assert limit.filter(last) and last.getMessage() == "again (480 earlier lines left out)"


def test_uploads_together_are_bounded(index, monkeypatch):
    with serving(index, bytes_in_flight=1 << 20) as port:
        head = b"POST /api/search HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 900000\r\n\r\n"
        stalled = [socket.create_connection(("127.0.0.1", port)) for _ in range(4)]
        for client in stalled:
            client.sendall(head + b"BM" + bytes(700_000))
        data = encode(draw_color("red", 5), "PNG")
        url = f"http://127.0.0.1:{port}/api/search"
        assert httpx.post(url, content=data, timeout=20).status_code == 200
        stalled[0].settimeout(4)  # given up long before its time is over
        assert b" 408 " in stalled[0].recv(100)
        for client in stalled:
            client.close()


def noise_png(side):
    out = io.BytesIO()
    Image.effect_noise((side, side), 90).save(out, "PNG", compress_level=1)
    return out.getvalue()


async def attack(port, kind, images, stop):
    while not stop.is_set():
        with contextlib.suppress(OSError, asyncio.TimeoutError):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            if kind == "idle":
                writer.write(b"GET / HT")
            elif kind == "slow":
                writer.write(b"POST /api/search HTTP/1.1\r\nHost: 127.0.0.1\r\n")
                writer.write(b"Content-Length: 1000000\r\n\r\nBM")
            elif kind == "garbage":
                writer.write(b"\x16\x03\x01" + bytes(200))
            else:
                data = images[kind]
                writer.write(b"POST /api/search HTTP/1.1\r\nHost: 127.0.0.1\r\n")
                writer.write(b"Content-Length: %d\r\n\r\n" % len(data) + data)
            await asyncio.wait_for(reader.read(100), 30)
            writer.close()
        await asyncio.sleep(0.5)


async def visit(port, data, times, end):
    async with httpx.AsyncClient(timeout=30) as client:
        while time.monotonic() < end:
            for kind in ("get", "post"):
                start = time.monotonic()
                try:
                    if kind == "get":
                        answer = await client.get(
                            f"http://127.0.0.1:{port}/api/search", params={"image": 1}
                        )
                    else:
                        answer = await client.post(
                            f"http://127.0.0.1:{port}/api/search", content=data
                        )
                    times.append((time.monotonic() - start, answer.status_code))
                except httpx.HTTPError as error:
                    times.append((time.monotonic() - start, type(error).__name__))
            await asyncio.sleep(0.2)


@pytest.mark.robustness
def test_ten_honest_among_500_hostile_clients(index):
    images = {
        "large": noise_png(3900),
        "scans": jpeg_with_scans(20_000),
        "webp": encode(Image.new("L", (7000, 7000)), "WEBP"),
        "noise": b"BM" + bytes(500_000),
    }
    kinds = ["idle", "slow", "garbage", *images]
    times = []
    peak = 0

    async def run(port):
        nonlocal peak
        stop = asyncio.Event()
        hostile = [
            asyncio.create_task(attack(port, kinds[i % len(kinds)], images, stop))
            for i in range(500)
        ]
        await asyncio.sleep(3)
        data = encode(draw_color("red", 5), "PNG")
        end = time.monotonic() + 30
        honest = [asyncio.create_task(visit(port, data, times, end)) for _ in range(10)]
        while not all(task.done() for task in honest):
            peak = max(peak, memory_of(process))
            await asyncio.sleep(0.5)
        stop.set()
        for task in hostile:
            task.cancel()

    process, port = start_process(index)
    try:
        asyncio.run(run(port))
    finally:
        process.terminate()
        process.wait(20)
    seconds = sorted(t for t, _ in times)
    answered = sum(status == 200 for _, status in times)
    median, worst = statistics.median(seconds), seconds[-1]
    print(
        f"500 hostile, 10 honest: {answered} of {len(times)} answered, median {median:.3f} s, "
        f"worst {worst:.1f} s, peak memory {peak / 1e9:.2f} GB"
    )
    assert answered >= 0.95 * len(times) and median < 1 and peak < 1.5e9


def memory_of(process):
    """Memory of a server and its workers; shared pages count once."""
    root = psutil.Process(process.pid)
    total = 0
    for member in [root, *root.children(recursive=True)]:
        with contextlib.suppress(psutil.Error):
            total += member.memory_full_info().pss
    return total


SERVE = """
import sys
sys.path.insert(0, sys.argv[1])
from tests.helpers.image_folder import MeanColorModel
from universal_embedding.app import pages, server
from universal_embedding.app.image_index import ImageIndex
from universal_embedding.app.index_files import IndexFiles
if __name__ == "__main__":
    index = ImageIndex(IndexFiles.read(__import__("pathlib").Path(sys.argv[2])), MeanColorModel())
    server.serve(index, "127.0.0.1", 0, pages.ServerLimits(), None)
"""


def start_process(index):
    import subprocess
    import sys
    import tempfile
    from pathlib import Path

    folder = Path(tempfile.mkdtemp())
    index.save(folder / "i")
    (folder / "serve.py").write_text(SERVE)
    root = str(Path(__file__).resolve().parent.parent.parent)
    process = subprocess.Popen(
        [sys.executable, str(folder / "serve.py"), root, str(folder / "i")],
        stdout=subprocess.PIPE,
        text=True,
    )
    line = process.stdout.readline()
    return process, int(line.rsplit(":", 1)[1])
