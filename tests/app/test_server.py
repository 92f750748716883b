import asyncio
import io

import httpx
import pytest
from PIL import Image

from tests.helpers.image_folder import draw_color
from universal_embedding.app import pages, server


def png(image):
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def post_search(url, content, **params):
    return httpx.post(f"{url}/api/search", content=content, params=params)


def test_search_over_http_equals_search_of_the_index(url, index):
    query = draw_color("red", 5)
    answer = post_search(url, png(query), k=3, metric="cosine").json()
    expected = index.search(index.encode(query), 3, "cosine")
    assert [(m["name"], m["distance"]) for m in answer["matches"]] == [
        (m.name, pytest.approx(m.distance)) for m in expected
    ]
    from_index = httpx.get(f"{url}/api/search", params={"image": 7, "k": 4}).json()
    assert [m["image"] for m in from_index["matches"]] == [m.index for m in index.search(7, 4)]
    assert from_index["query"]["name"] == index.names[7]


def test_crop_category_and_threshold(url):
    both = Image.new("RGB", (80, 50))
    both.paste(draw_color("red", 1), (0, 0))
    both.paste(draw_color("blue", 1), (40, 0))
    for crop, color in (("0,0,.5,1", "red"), ("0.5,0,1,1", "blue")):
        assert post_search(url, png(both), crop=crop).json()["matches"][0]["category"] == color
    only = post_search(url, png(both), category="green").json()["matches"]
    assert {m["category"] for m in only} == {"green"}
    assert post_search(url, png(both), max_distance=0.01).json()["matches"] == []


def test_refusals_reveal_no_paths(url, index):
    good = png(draw_color("red", 1))
    refused = [
        (400, "k must be", post_search(url, good, k=0)),
        (400, "metric must be", post_search(url, good, metric="x")),
        (400, "max_distance must be", post_search(url, good, max_distance="nan")),
        (400, "crop must be", post_search(url, good, crop="0,0,2,1")),
        (422, "gray", post_search(url, good, category="gray")),
        (422, "cannot decode image", post_search(url, b"GIF89a nothing")),
        (400, "empty", post_search(url, b"")),
        (413, "larger than 1 MB", post_search(url, bytes(2 << 20))),
        (413, "larger than 1 MB", post_search(url, (b"BM" + bytes(1 << 16) for _ in range(99)))),
        (422, "pixels", post_search(url, png(Image.new("1", (9000, 9000))))),
        (404, "there is no image 12", httpx.get(f"{url}/api/search?image=12")),
        (400, "POST the bytes", httpx.get(f"{url}/api/search")),
    ]
    for status, words, answer in refused:
        assert (answer.status_code, words in answer.json()["error"]) == (status, True), words
        assert "Traceback" not in answer.text and str(index.files.images_dir) not in answer.text


def test_only_images_of_the_index_are_served(url, index, folder, tmp_path):
    image = httpx.get(f"{url}/images/0?size=thumbnail")
    assert image.headers["content-type"] == "image/jpeg"
    assert Image.open(io.BytesIO(image.content)).size == (40, 50)
    for path in ("12", "-1", "0?size=9", "..%2f..%2fetc%2fpasswd", "../server.py", "blue/0.png"):
        assert httpx.get(f"{url}/images/{path}").status_code == 404, path
    names = index.names
    Image.new("RGB", (9, 9)).save(tmp_path / "secret.png")
    (folder / names[1]).unlink()
    (folder / names[1]).symlink_to(tmp_path / "secret.png")
    assert httpx.get(f"{url}/images/1").status_code == 404
    (folder / names[2]).unlink()
    gone = httpx.get(f"{url}/images/2")
    assert gone.status_code == 422 and str(folder) not in gone.text


def test_page_loads_nothing_from_other_hosts(url):
    page = httpx.get(url)
    assert "default-src 'none'" in page.headers["content-security-policy"]
    for name in ("", "/app.js", "/crop.js", "/style.css"):
        text = httpx.get(url + name).text
        assert "http://" not in text and "https://" not in text, name
    assert "POST /api/search" in httpx.get(f"{url}/api").text


def test_other_host_names_are_refused(url):
    assert httpx.get(url, headers={"host": "evil.example"}).status_code == 400


def test_unexpected_errors_are_a_plain_500(index, monkeypatch):
    def fail(*args):
        raise RuntimeError("secret inside")

    monkeypatch.setattr(index, "search", fail)
    app = server.make_app(index, pages.ServerLimits(), None, ("*",))
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)

    async def ask():
        async with httpx.AsyncClient(transport=transport, base_url="http://x") as client:
            return await client.get("/api/search?image=1")

    answer = asyncio.run(ask())
    assert answer.status_code == 500 and "secret" not in answer.text
    assert answer.headers["x-content-type-options"] == "nosniff"


def test_200_concurrent_uploads_get_their_own_answers(url, index):
    queries = [draw_color(("red", "green", "blue")[i % 3], 1000 + i) for i in range(200)]
    expected = [index.search(index.encode(q), 3) for q in queries]

    async def ask_all():
        limits = httpx.Limits(max_connections=200)
        async with httpx.AsyncClient(limits=limits, timeout=60) as client:
            posts = [client.post(f"{url}/api/search?k=3", content=png(q)) for q in queries]
            return await asyncio.gather(*posts)

    for answer, matches in zip(asyncio.run(ask_all()), expected, strict=True):
        assert answer.status_code == 200
        got = [(m["image"], m["distance"]) for m in answer.json()["matches"]]
        assert got == [(m.index, pytest.approx(m.distance, abs=1e-6)) for m in matches]
