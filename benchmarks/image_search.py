"""Response times of the search page: one client, then many at once.

    python benchmarks/image_search.py --backbone=PATH/TO/efficientnet_lite0.keras

The embeddings of the index are random unit rows; its names refer to 100 image files. Server and
clients share the machine and the process, over real HTTP. Every answer to the concurrent clients is
compared with a full sort in NumPy, whose time is compared with that of the search alone.
"""

import asyncio
import logging
import tempfile
import threading
import time
from pathlib import Path

import common
import httpx
import numpy as np
import uvicorn
from absl import flags

from universal_embedding.app.image_index import ImageIndex
from universal_embedding.app.index_files import IndexFiles
from universal_embedding.app.pages import ServerLimits
from universal_embedding.app.server import make_app
from universal_embedding.export.embedder import Embedder
from universal_embedding.export.saved_model import save_model
from universal_embedding.models.backbones import load_backbone
from universal_embedding.models.embedding_model import EmbeddingModel

BACKBONE = flags.DEFINE_string(
    "backbone", "small", "Backbone of the model: `small`, or whatever load_backbone takes."
)
IMAGE_SIZE, DIM = 224, 64
NUM_IMAGES = flags.DEFINE_integer("num_images", 100_000, "Number of images in the index.", 1)
NUM_CLIENTS = flags.DEFINE_integer("num_clients", 200, "Number of concurrent clients.", 1)
REPEATS = flags.DEFINE_integer("repeats", 50, "Timed requests of the single client.", 1)
K = 10
NUM_FILES, FILE_WIDTH = 100, 256
UPLOAD_WIDTH = 1024


def main():
    logging.getLogger("httpx").setLevel(logging.WARNING)  # a line per request otherwise
    with tempfile.TemporaryDirectory() as folder:
        index = make_index(Path(folder), make_model(f"{folder}/model"))
        uploads = [make_jpeg(seed, UPLOAD_WIDTH) for seed in range(NUM_CLIENTS.value)]
        queries = [index.encode(upload) for upload in uploads]
        expected = [search_numpy(index, query) for query in queries]
        result = {"num_images": NUM_IMAGES.value, "upload_width": UPLOAD_WIDTH}
        result["search_ms"] = time_calls(lambda i: index.search(queries[i % len(queries)], K))
        result["numpy_ms"] = time_calls(lambda i: search_numpy(index, queries[i % len(queries)]))
        address, stop = start_server(index)
        upload_url = f"{address}/api/search?k={K}"
        click_url = f"{address}/api/search?k={K}&image="
        with httpx.Client() as client:
            result["upload_ms"] = time_calls(
                lambda i: client.post(upload_url, content=uploads[i % len(uploads)])
            )
            result["click_ms"] = time_calls(lambda i: client.get(click_url + str(i)))
        result["concurrent"] = asyncio.run(measure_concurrent(upload_url, uploads, expected))
        stop()
    for name in ("search_ms", "numpy_ms", "upload_ms", "click_ms"):
        print(f"{name:12} median {result[name]['median']:8.1f}   95 % {result[name]['p95']:8.1f}")
    concurrent = result["concurrent"]
    print(
        f"{concurrent['num_clients']} at once: {concurrent['seconds']:.2f} s, "
        f"{concurrent['num_correct']} answers correct"
    )
    common.print_json(result, ("numpy", "tensorflow", "scann", "starlette", "uvicorn"))


def make_model(folder):
    """An exported model of the backbone and a projection with random weights."""
    backbone = load_backbone(BACKBONE.value, IMAGE_SIZE)
    save_model(EmbeddingModel(backbone, DIM, IMAGE_SIZE), folder)
    return Embedder.from_pretrained(folder)


def make_index(folder, model):
    """An index of random embeddings whose names repeat those of a few files."""
    for i in range(NUM_FILES):
        (folder / f"{i}.jpg").write_bytes(make_jpeg(1000 + i, FILE_WIDTH))
    shape = (NUM_IMAGES.value, model.embedding_dim)
    rows = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    names = [f"{i % NUM_FILES}.jpg" for i in range(len(rows))]
    stamps = [(0, 0)] * len(rows)
    files = IndexFiles(folder, model.name, model.fingerprint, names, stamps, rows)
    return ImageIndex(files, model)


def make_jpeg(seed, width):
    return common.synthetic_jpeg(seed, width, width * 3 // 4, grid=(9, 9))


def search_numpy(index, query):
    return np.argsort(-(index.embeddings @ query), kind="stable")[:K].tolist()


def time_calls(call):
    """Milliseconds of `call(i)`: median and 95th percentile."""
    call(0)
    times = []
    for i in range(REPEATS.value):
        start = time.perf_counter()
        call(i)
        times.append(1000 * (time.perf_counter() - start))
    return {"median": round(np.median(times), 2), "p95": round(np.quantile(times, 0.95), 2)}


def start_server(index):
    """Starts the server in a thread; returns its address and a function that stops it."""
    app = make_app(index, ServerLimits(), None, ("127.0.0.1",))
    web = uvicorn.Server(uvicorn.Config(app, "127.0.0.1", 0, log_level="warning", backlog=512))
    thread = threading.Thread(target=web.run)
    thread.start()
    while not web.started:
        time.sleep(0.01)

    def stop():
        web.should_exit = True
        thread.join()

    return f"http://127.0.0.1:{web.servers[0].sockets[0].getsockname()[1]}", stop


async def measure_concurrent(url, uploads, expected):
    """Sends all uploads at once and compares the answers with the `expected` positions."""

    async def upload_one(client, upload):
        response = await client.post(url, content=upload)
        return time.perf_counter() - start, response

    limits = httpx.Limits(max_connections=len(uploads))
    async with httpx.AsyncClient(limits=limits, timeout=300) as client:
        start = time.perf_counter()
        answers = await asyncio.gather(*(upload_one(client, upload) for upload in uploads))
        seconds = time.perf_counter() - start
    num_correct = sum(
        response.status_code == 200
        and [match["image"] for match in response.json()["matches"]] == positions
        for (_, response), positions in zip(answers, expected, strict=True)
    )
    return {
        "num_clients": len(uploads),
        "seconds": round(seconds, 2),
        "slowest_seconds": round(max(latency for latency, _ in answers), 2),
        "num_correct": num_correct,
    }


if __name__ == "__main__":
    common.run(main, needs_idle=True)
