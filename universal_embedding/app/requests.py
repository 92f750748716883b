"""Parses and validates search parameters and request bodies."""

import asyncio
from dataclasses import dataclass

from starlette.datastructures import QueryParams
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request

from universal_embedding.app.image_index import METRICS
from universal_embedding.datasets.image_files import Box

MAX_RESULTS = 100


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


async def read_body(request: Request, limit: int, seconds: float) -> bytes:
    """Reads a request's body, no more than `limit` bytes and no longer than `seconds`.

    Raises:
        HTTPException: 413 or 408 beyond them, 400 if it is empty.
    """
    too_large = HTTPException(413, f"the image is larger than {limit >> 20} MB")
    length = request.headers.get("content-length", "0")
    if length.isdigit() and int(length) > limit:
        raise too_large
    parts, size = [], 0
    try:
        async with asyncio.timeout(seconds):
            async for part in request.stream():
                size += len(part)
                if size > limit:
                    raise too_large
                parts.append(part)
    except TimeoutError:
        raise HTTPException(408, "the image took too long to arrive") from None
    except ClientDisconnect:
        raise HTTPException(400, "the connection was closed") from None
    if not size:
        raise HTTPException(400, "the body is empty: send the bytes of an image")
    return b"".join(parts)


def _parse_int(query_params: QueryParams, name: str, default: int | None) -> int | None:
    text = query_params.get(name)
    if text is None:
        return default
    if not text.isdecimal():
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
    if not value >= 0:  # nan too
        raise HTTPException(400, f"{name} must be a number, 0 or more")
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
