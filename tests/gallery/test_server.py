import asyncio
import io

import httpx
import numpy as np
import pytest
from PIL import Image

from universal_embedding.gallery import pages, server


def png(picture):
    file = io.BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()


def search(running, content, **wishes):
    return httpx.post(f"{running}/api/search", content=content, params=wishes)


def test_search_answers_as_the_gallery_does(running, gallery, picture):
    query = picture("red", 5)
    answer = search(running, png(query), k=3, distance="cosine").json()
    wanted = gallery.nearest(gallery.embed(np.asarray(query)), 3, "cosine")
    assert [(m["name"], m["distance"]) for m in answer["matches"]] == [
        (m.name, pytest.approx(m.distance)) for m in wanted
    ]
    from_gallery = httpx.get(f"{running}/api/search", params={"picture": 7, "k": 4}).json()
    assert [m["picture"] for m in from_gallery["matches"]] == [
        m.number for m in gallery.nearest(7, 4)
    ]
    assert from_gallery["query"]["name"] == gallery.index.names[7]


def test_crop_category_and_threshold(running, picture):
    both = Image.new("RGB", (80, 50))
    both.paste(picture("red", 1), (0, 0))
    both.paste(picture("blue", 1), (40, 0))
    for crop, colour in (("0,0,.5,1", "red"), ("0.5,0,1,1", "blue")):
        assert search(running, png(both), crop=crop).json()["matches"][0]["category"] == colour
    only = search(running, png(both), category="green").json()["matches"]
    assert {m["category"] for m in only} == {"green"}
    assert search(running, png(both), max_distance=0.01).json()["matches"] == []


def test_refusals_tell_nothing_of_the_inside(running, picture, gallery):
    good = png(picture("red", 1))
    refused = [
        (400, "k must be", search(running, good, k=0)),
        (400, "distance must be", search(running, good, distance="x")),
        (400, "max_distance must be", search(running, good, max_distance="nan")),
        (400, "crop must be", search(running, good, crop="0,0,2,1")),
        (422, "grey", search(running, good, category="grey")),
        (422, "no picture", search(running, b"GIF89a nothing")),
        (400, "empty", search(running, b"")),
        (413, "larger than 1 MB", search(running, bytes(2 << 20))),
        (413, "larger than 1 MB", search(running, (bytes(1 << 16) for _ in range(99)))),
        (422, "pixels", search(running, png(Image.new("1", (9000, 9000))))),
        (404, "there is no picture 12", httpx.get(f"{running}/api/search?picture=12")),
        (400, "POST the bytes", httpx.get(f"{running}/api/search")),
    ]
    for status, words, answer in refused:
        assert (answer.status_code, words in answer.json()["error"]) == (status, True), words
        assert "Traceback" not in answer.text and str(gallery.index.gallery) not in answer.text


def test_only_gallery_pictures_are_served(running, gallery, folder, tmp_path):
    picture = httpx.get(f"{running}/pictures/0?size=thumbnail")
    assert picture.headers["content-type"] == "image/jpeg"
    assert Image.open(io.BytesIO(picture.content)).size == (40, 50)
    for path in ("12", "-1", "0?size=9", "..%2f..%2fetc%2fpasswd", "../server.py", "blue/0.png"):
        assert httpx.get(f"{running}/pictures/{path}").status_code == 404, path
    names = gallery.index.names
    Image.new("RGB", (9, 9)).save(tmp_path / "secret.png")
    (folder / names[1]).unlink()
    (folder / names[1]).symlink_to(tmp_path / "secret.png")
    assert httpx.get(f"{running}/pictures/1").status_code == 404
    (folder / names[2]).unlink()
    gone = httpx.get(f"{running}/pictures/2")
    assert gone.status_code == 422 and str(folder) not in gone.text


def test_page_may_load_nothing_from_elsewhere(running):
    page = httpx.get(running)
    assert "default-src 'none'" in page.headers["content-security-policy"]
    for name in ("", "/app.js", "/crop.js", "/style.css"):
        text = httpx.get(running + name).text
        assert "http://" not in text and "https://" not in text, name
    assert "POST /api/search" in httpx.get(f"{running}/api").text


def test_other_host_names_are_refused(running):
    assert httpx.get(running, headers={"host": "evil.example"}).status_code == 400


def test_unforeseen_errors_are_a_plain_500(gallery, monkeypatch):
    def fail(*args):
        raise RuntimeError("secret inside")

    monkeypatch.setattr(gallery, "nearest", fail)
    app = server.application(gallery, pages.Limits(), None, ("*",))
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)

    async def ask():
        async with httpx.AsyncClient(transport=transport, base_url="http://x") as client:
            return await client.get("/api/search?picture=1")

    answer = asyncio.run(ask())
    assert answer.status_code == 500 and "secret" not in answer.text
    assert answer.headers["x-content-type-options"] == "nosniff"


def test_200_at_once_get_each_its_own_answer(running, gallery, picture):
    queries = [picture(("red", "green", "blue")[i % 3], 1000 + i) for i in range(200)]
    wanted = [gallery.nearest(gallery.embed(np.asarray(q)), 3) for q in queries]

    async def ask_all():
        limits = httpx.Limits(max_connections=200)
        async with httpx.AsyncClient(limits=limits, timeout=60) as client:
            posts = [client.post(f"{running}/api/search?k=3", content=png(q)) for q in queries]
            return await asyncio.gather(*posts)

    for answer, matches in zip(asyncio.run(ask_all()), wanted, strict=True):
        assert answer.status_code == 200
        got = [(m["picture"], m["distance"]) for m in answer.json()["matches"]]
        assert got == [(m.number, pytest.approx(m.distance, abs=1e-6)) for m in matches]
