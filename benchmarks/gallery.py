"""How soon the gallery's page answers: one visitor, then many at once.

python benchmarks/gallery.py --saved_model=DIR [--pictures=100000] [--visitors=200]

The gallery's embeddings are random unit rows, its names point at 100 files. Server and visitors
share the machine and the process, over real HTTP. Every answer is compared with a full sort in
numpy, which is also the rival of the search alone.
"""

import asyncio
import io
import json
import logging
import tempfile
import threading
import time
from pathlib import Path

import httpx
import numpy as np
import uvicorn
from absl import flags
from PIL import Image

from universal_embedding import command
from universal_embedding.gallery import model, pages, server
from universal_embedding.gallery.index import Index
from universal_embedding.gallery.pictures import read
from universal_embedding.gallery.search import Gallery

SAVED_MODEL = flags.DEFINE_string("saved_model", None, "Exported model.", required=True)
PICTURES = flags.DEFINE_integer("pictures", 100_000, "In the gallery.", 1)
VISITORS = flags.DEFINE_integer("visitors", 200, "At once.", 1)
REPEATS = flags.DEFINE_integer("repeats", 50, "Searches of the single visitor.", 1)
SIDE = 1024


def main(argv):
    del argv
    logging.getLogger("httpx").setLevel(logging.WARNING)  # a line for each request otherwise
    with tempfile.TemporaryDirectory() as folder:
        gallery = _gallery(Path(folder), Path(SAVED_MODEL.value))
        uploads = [_jpeg(seed, SIDE) for seed in range(VISITORS.value)]
        rows = [gallery.embed(read(upload)) for upload in uploads]
        wanted = [_naive(gallery, row) for row in rows]
        result = {"pictures": PICTURES.value, "upload_side": SIDE}
        result["search_ms"] = _milliseconds(lambda i: gallery.nearest(rows[i % len(rows)], 10))
        result["numpy_ms"] = _milliseconds(lambda i: _naive(gallery, rows[i % len(rows)]))
        address, stop = _start(gallery)
        with httpx.Client() as client:
            post = f"{address}/api/search?k=10"
            result["upload_ms"] = _milliseconds(
                lambda i: client.post(post, content=uploads[i % len(uploads)])
            )
            get = f"{address}/api/search?k=10&picture="
            result["click_ms"] = _milliseconds(lambda i: client.get(get + str(i)))
        seconds, slowest, right = asyncio.run(_crowd(post, uploads, wanted))
        stop()
    result["crowd"] = {
        "visitors": len(uploads),
        "seconds": round(seconds, 2),
        "slowest_s": round(slowest, 2),
        "right": right,
    }
    for name in ("search_ms", "numpy_ms", "upload_ms", "click_ms"):
        row = result[name]
        print(f"{name:12} median {row['median']:8.1f}   95 % {row['p95']:8.1f}")
    print(f"{len(uploads)} at once: {seconds:.2f} s, {right} answers right")
    print(json.dumps(result))


def _gallery(folder, origin):
    for i in range(100):
        (folder / f"{i}.jpg").write_bytes(_jpeg(1000 + i, 256))
    rows = np.random.default_rng(0).normal(size=(PICTURES.value, 64)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    loaded = model.load(origin)
    names = [f"{i % 100}.jpg" for i in range(len(rows))]
    stamps = [(0, 0)] * len(rows)
    return Gallery(Index(folder, origin, loaded.fingerprint, names, stamps, rows), loaded, origin)


def _jpeg(seed, side):
    grid = np.random.default_rng(seed).integers(0, 256, (9, 9, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(grid).resize((side, side * 3 // 4), Image.Resampling.BICUBIC).save(file, "JPEG")
    return file.getvalue()


def _naive(gallery, row):
    return np.argsort(-(gallery.index.embeddings @ row), kind="stable")[:10].tolist()


def _milliseconds(search):
    search(0)
    times = []
    for i in range(REPEATS.value):
        start = time.perf_counter()
        search(i)
        times.append(1000 * (time.perf_counter() - start))
    return {"median": round(np.median(times), 2), "p95": round(np.quantile(times, 0.95), 2)}


def _start(gallery):
    app = server.application(gallery, pages.Limits(), None, ("127.0.0.1",))
    web = uvicorn.Server(uvicorn.Config(app, "127.0.0.1", 0, log_level="warning", backlog=512))
    thread = threading.Thread(target=web.run)
    thread.start()
    while not web.started:
        time.sleep(0.01)

    def stop():
        web.should_exit = True
        thread.join()

    return f"http://127.0.0.1:{web.servers[0].sockets[0].getsockname()[1]}", stop


async def _crowd(address, uploads, wanted):
    async def visit(client, upload):
        answer = await client.post(address, content=upload)
        return time.perf_counter() - start, answer

    limits = httpx.Limits(max_connections=len(uploads))
    async with httpx.AsyncClient(limits=limits, timeout=300) as client:
        start = time.perf_counter()
        visits = await asyncio.gather(*(visit(client, upload) for upload in uploads))
        seconds = time.perf_counter() - start
    right = sum(
        answer.status_code == 200 and [m["picture"] for m in answer.json()["matches"]] == numbers
        for (_, answer), numbers in zip(visits, wanted, strict=True)
    )
    return seconds, max(t for t, _ in visits), right


if __name__ == "__main__":
    command.run(main)
