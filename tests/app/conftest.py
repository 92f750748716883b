"""An index of twelve images, and a server of it."""

import threading
import time

import pytest
import uvicorn

from tests.helpers.image_folder import MeanColorModel, write_color_folder
from universal_embedding.app import pages, server
from universal_embedding.app.image_index import ImageIndex


@pytest.fixture
def folder(tmp_path):
    return write_color_folder(tmp_path / "images")


@pytest.fixture
def model():
    return MeanColorModel()


@pytest.fixture
def other_model():
    return MeanColorModel("another")


@pytest.fixture
def index(folder, model):
    return ImageIndex.build(model, folder)


@pytest.fixture
def url(index):
    """The URL of a running server of the index."""
    app = server.make_app(index, pages.ServerLimits(upload_bytes=1 << 20), None, ("127.0.0.1",))
    web = uvicorn.Server(uvicorn.Config(app, "127.0.0.1", 0, log_level="critical"))
    thread = threading.Thread(target=web.run)
    thread.start()
    while not web.started:
        time.sleep(0.01)
    yield f"http://127.0.0.1:{web.servers[0].sockets[0].getsockname()[1]}"
    web.should_exit = True
    thread.join()
