"""What a visitor asks for, checked."""

import asyncio
import math
from dataclasses import dataclass

from starlette.datastructures import QueryParams
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request

from universal_embedding.gallery.pictures import Box

MOST = 100


@dataclass(frozen=True)
class Wishes:
    """The parameters of one search; see page/api.txt."""

    picture: int | None
    k: int
    distance: str
    category: str | None
    max_distance: float | None
    crop: Box | None


def wishes(given: QueryParams, pictures: int, max_distance: float | None) -> Wishes:
    """Reads a search's parameters.

    Args:
        given: The address's query string.
        pictures: Number of pictures in the gallery.
        max_distance: Where the visitor names none.

    Raises:
        HTTPException: 400 for a wrong value, 404 for a picture that is not in the gallery.
    """
    picture = _number(given, "picture", int, 0, math.inf, None)
    if picture is not None and picture >= pictures:
        raise HTTPException(404, f"there is no picture {picture}")
    if given.get("distance", "euclidean") not in ("euclidean", "cosine"):
        raise HTTPException(400, "distance must be euclidean or cosine")
    return Wishes(
        picture,
        _number(given, "k", int, 1, MOST, 5),
        given.get("distance", "euclidean"),
        given.get("category"),
        _number(given, "max_distance", float, 0, math.inf, max_distance),
        _crop(given.get("crop")),
    )


async def body(request: Request, limit: int, seconds: float) -> bytes:
    """The request's body, read no further than `limit` bytes and no longer than `seconds`.

    Raises:
        HTTPException: 413 or 408 beyond them, 400 if it is empty.
    """
    too_large = HTTPException(413, f"the picture is larger than {limit >> 20} MB")
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
        raise HTTPException(408, "the picture took too long to arrive") from None
    except ClientDisconnect:
        raise HTTPException(400, "the connection was closed") from None
    if not size:
        raise HTTPException(400, "the body is empty: send the bytes of a picture")
    return b"".join(parts)


def _number(given: QueryParams, name: str, kind: type, low: float, high: float, default):  # noqa: ANN001, ANN202
    if name not in given:
        return default
    try:
        value = kind(given[name])
        if low <= value <= high:  # false for nan
            return value
    except (ValueError, OverflowError):
        pass
    upto = f" to {high}" if high < math.inf else " or more"
    raise HTTPException(400, f"{name} must be a number, {low}{upto}")


def _crop(given: str | None) -> Box | None:
    if given is None:
        return None
    try:
        left, top, right, bottom = (float(part) for part in given.split(","))
        if 0 <= left < right <= 1 and 0 <= top < bottom <= 1:
            return left, top, right, bottom
    except ValueError:
        pass
    raise HTTPException(
        400, "crop must be left,top,right,bottom in 0..1, left < right, top < bottom"
    )
