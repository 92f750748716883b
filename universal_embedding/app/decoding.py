"""Decodes images of strangers in worker processes, which are killed and replaced at their limits.

A decoder is a large C program that reads hostile bytes: it may loop, take all memory, crash, or be
taken over. Workers are forked from a server that has imported the decoders and holds nothing else,
have little time and memory, and answer with raw pixels, never with pickles.
"""

import contextlib
import json
import multiprocessing
import os
import queue
import resource
import sys
import threading
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess

import numpy as np

from universal_embedding.datasets.image_files import (
    CorruptImageError,
    read_image,
    read_image_size,
)

DECODE_SECONDS = 5.0
START_SECONDS = 60.0  # the first worker waits for TensorFlow
MEMORY_BYTES = 1536 << 20  # of address space, beyond that of an idle worker
LARGE_PIXELS = 4_000_000  # larger images take turns, so that small ones never wait for them

_Worker = tuple[BaseProcess, Connection]


class DecodePool:
    """Worker processes that decode one image each; safe to use from several threads.

    Args:
        num_workers: Images decoded at once.
        max_pixels: Width x height above which an image is refused.
        seconds: Time for one image.
    """

    def __init__(self, num_workers: int, max_pixels: int, seconds: float = DECODE_SECONDS) -> None:
        self._seconds, self._max_pixels = seconds, max_pixels
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(["tensorflow", __name__])
        self._idle: queue.LifoQueue[_Worker] = queue.LifoQueue()
        self._large = threading.Semaphore(max(1, num_workers - 1))
        self._closed = False
        for worker in [self._start() for _ in range(num_workers)]:
            self._idle.put(worker)

    def decode(self, data: bytes) -> np.ndarray:
        """Decodes an image file by the rules of `datasets.image_files`: `[H, W, 3]` uint8.

        Raises:
            CorruptImageError: It cannot be decoded, or not within the limits.
        """
        height, width = json.loads(self._call(b"size", data))
        with self._large if width * height > LARGE_PIXELS else contextlib.nullcontext():
            answer = self._call(b"read", data)
        header, _, pixels = answer.partition(b"\n")
        height, width = json.loads(header)
        return np.frombuffer(pixels, np.uint8).reshape(height, width, 3)

    def close(self) -> None:
        """Ends the workers."""
        self._closed = True
        with contextlib.suppress(queue.Empty):
            while True:
                _kill(self._idle.get_nowait())

    def _call(self, command: bytes, data: bytes) -> bytes:
        worker = self._idle.get()
        _, connection = worker
        answer = b""
        try:
            connection.send_bytes(command + self._max_pixels.to_bytes(8, "big") + data)
            if not connection.poll(self._seconds):
                raise CorruptImageError(f"the image takes more than {self._seconds:g} s to decode")
            answer = connection.recv_bytes(16 + 3 * self._max_pixels + 64)
        except (EOFError, OSError):
            raise CorruptImageError("the image needs too much memory to decode") from None
        finally:
            if not answer:
                _kill(worker)
                worker = self._start()
            self._idle.put(worker)
        if answer[:1] == b"!":
            raise CorruptImageError(answer[1:].decode(errors="replace"))
        return answer[1:]

    def _start(self) -> _Worker:
        ours, theirs = self._context.Pipe()
        process = self._context.Process(target=_work, args=(theirs, self._seconds), daemon=True)
        process.start()
        theirs.close()
        if not ours.poll(START_SECONDS) or ours.recv_bytes(16) != b"ready":
            raise RuntimeError("no worker process to decode images starts")
        return process, ours


def _kill(worker: _Worker) -> None:
    process, connection = worker
    process.kill()
    process.join()
    connection.close()


def _work(connection: Connection, seconds: float) -> None:
    """The main loop of a worker process."""
    import tensorflow as tf

    sys.stderr = open(os.devnull, "w")  # noqa: SIM115 - libraries describe damaged files there
    os.dup2(sys.stderr.fileno(), 2)
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    tf.config.set_visible_devices([], "GPU")
    tf.io.decode_image(tf.io.encode_png(np.zeros((1, 1, 3), np.uint8)))  # start its threads
    with open("/proc/self/statm") as file:
        limit = int(file.read().split()[0]) * resource.getpagesize() + MEMORY_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    connection.send_bytes(b"ready")
    with contextlib.suppress(EOFError):
        while True:
            request = connection.recv_bytes()
            used = resource.getrusage(resource.RUSAGE_SELF)
            cpu_seconds = int(used.ru_utime + used.ru_stime + 2 * seconds) + 1
            resource.setrlimit(resource.RLIMIT_CPU, (cpu_seconds, resource.RLIM_INFINITY))
            max_pixels, data = int.from_bytes(request[4:12], "big"), request[12:]
            connection.send_bytes(_answer(request[:4], max_pixels, data))


def _answer(command: bytes, max_pixels: int, data: bytes) -> bytes:
    """`.` and the size or the pixels, or `!` and the reason why there are none."""
    try:
        if command == b"size":
            return b"." + json.dumps(read_image_size(data, max_pixels)).encode()
        pixels = read_image(data, max_pixels=max_pixels)
        return b"." + json.dumps(pixels.shape[:2]).encode() + b"\n" + pixels.tobytes()
    except CorruptImageError as error:
        return b"!" + str(error).encode()
