"""The hosts of a multi-worker run, as processes on loopback."""

import json
import socket

from tests.helpers.processes import start


def free_addresses(count):
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    addresses = [f"127.0.0.1:{each.getsockname()[1]}" for each in sockets]
    for each in sockets:
        each.close()
    return addresses


def start_host(addresses, index, *arguments):
    """Starts `python ARGUMENTS` as one worker of the cluster."""
    task = {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}}
    return start(*arguments, TF_CONFIG=json.dumps(task))


def kill_all(processes):
    for process in processes:
        process.kill()
        process.communicate()
