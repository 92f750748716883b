"""Parses and validates search parameters and request bodies."""

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass

from starlette.datastructures import QueryParams
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request

from universal_embedding.app.searchable import METRICS
from universal_embedding.datasets.image_files import IMAGE_FORMATS, Box
from universal_embedding.datasets.image_limits import starts_as_image

MAX_RESULTS = 100
MAX_DISTANCE = 2
GRACE_SECONDS = 5.0
_FORMATS = ", ".join(IMAGE_FORMATS)
BYTES_PER_SECOND = 64 << 10  # the least rate of an upload, after the grace


@dataclass(frozen=True)
class SearchParams:
    """The parameters of one search; see page/api.txt."""

    image: int | None
    k: int
    metric: str
    category: str | None
    max_distance: float | None
    crop: Box | None


def parse_params(
    query_params: QueryParams, num_images: int, max_distance: float | None
) -> SearchParams:
    """Parses the parameters of a search.

    Args:
        query_params: The query string of the URL.
        num_images: Number of images in the index.
        max_distance: Value where the request has none.

    Raises:
        HTTPException: 400 for a wrong value, 404 for an image that is not in the index.
    """
    image = _parse_int(query_params, "image", None)
    if image is not None and image >= num_images:
        raise HTTPException(404, f"there is no image {image}")
    metric = query_params.get("metric", "euclidean")
    if metric not in METRICS:
        raise HTTPException(400, f"metric must be {' or '.join(METRICS)}")
    k = _parse_int(query_params, "k", 5)
    if not k or k > MAX_RESULTS:
        raise HTTPException(400, f"k must be a number, 1 to {MAX_RESULTS}")
    limit = _parse_float(query_params, "max_distance", max_distance)
    crop = _parse_crop(query_params.get("crop"))
    return SearchParams(image, k, metric, query_params.get("category"), limit, crop)


class Uploads:
    """Receives bodies, with bounds on each and on all of them together.

    A body that arrives too slowly is given up, and so is the oldest one when all of them together
    hold more than `max_bytes`: a client that sends at once is served, however many are slow.

    Args:
        body_bytes: Maximum size of one body.
        max_bytes: Maximum size of all bodies that are received or worked on.
    """

    def __init__(self, body_bytes: int, max_bytes: int) -> None:
        self._body_bytes, self._max_bytes = body_bytes, max_bytes
        self._sizes: dict[asyncio.Timeout, int] = {}  # oldest first

    @contextlib.asynccontextmanager
    async def receive(self, request: Request) -> AsyncIterator[bytes]:
        """Reads a request's body, and counts it until the block ends.

        Raises:
            HTTPException: 413 or 408 beyond the bounds, 400 if the body is empty.
        """
        too_large = HTTPException(413, f"the image is larger than {self._body_bytes >> 20} MB")
        length = request.headers.get("content-length", "0")
        if length.isdecimal() and len(length) < 20 and int(length) > self._body_bytes:
            raise too_large
        body = bytearray()
        timer = asyncio.timeout(GRACE_SECONDS)
        start = asyncio.get_running_loop().time()
        try:
            async with timer:
                self._sizes[timer] = 0
                async for part in request.stream():
                    body += part
                    if len(body) > self._body_bytes:
                        raise too_large
                    if len(body) >= 4 and not starts_as_image(body):
                        raise HTTPException(
                            422, f"cannot decode image; supported formats: {_FORMATS}"
                        )
                    if timer in self._sizes:  # not given up meanwhile
                        self._sizes[timer] = len(body)
                        timer.reschedule(start + GRACE_SECONDS + len(body) / BYTES_PER_SECOND)
                        self._make_room(timer)
            if not body:
                raise HTTPException(400, "the body is empty: send the bytes of an image")
            content = bytes(body)
            del body  # a decoder may take seconds, and many may wait for it
            yield content
        except TimeoutError:
            raise HTTPException(408, "the image took too long to arrive") from None
        except ClientDisconnect:
            raise HTTPException(400, "the connection was closed") from None
        finally:
            self._sizes.pop(timer, None)

    def _make_room(self, newest: asyncio.Timeout) -> None:
        for timer in list(self._sizes):
            if sum(self._sizes.values()) <= self._max_bytes:
                return
            if timer is not newest and timer.when() is not None and not timer.expired():
                del self._sizes[timer]
                with contextlib.suppress(RuntimeError):  # it has arrived, and is worked on
                    timer.reschedule(0)


def _parse_int(query_params: QueryParams, name: str, default: int | None) -> int | None:
    text = query_params.get(name)
    if text is None:
        return default
    if not re.fullmatch("[0-9]{1,12}", text):
        raise HTTPException(400, f"{name} must be a number, 0 or more")
    return int(text)


def _parse_float(query_params: QueryParams, name: str, default: float | None) -> float | None:
    text = query_params.get(name)
    if text is None:
        return default
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= MAX_DISTANCE:  # nan too
        raise HTTPException(400, f"{name} must be a number, 0 to {MAX_DISTANCE}")
    return value


def _parse_crop(text: str | None) -> Box | None:
    if text is None:
        return None
    try:
        left, top, right, bottom = (float(part) for part in text.split(","))
        if 0 <= left < right <= 1 and 0 <= top < bottom <= 1:
            return left, top, right, bottom
    except ValueError:
        pass
    raise HTTPException(
        400, "crop must be left,top,right,bottom in 0..1, left < right, top < bottom"
    )
