"""The listening page: links lead to the files whatever their names."""

import urllib.parse
from html.parser import HTMLParser

from midi2wave.plotting import listening_page


class Page(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags, self.texts = [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.texts.append(data.strip())

    def sources(self, tag: str) -> list[str]:
        return [attributes["src"] for name, attributes in self.tags if name == tag]


UNUSUAL_NAMES = [
    "plain",
    "a b",
    "50%",
    "x#1?q=2",
    'say "so" & <b>',
    "it's",
    "javascript:alert(1)",
    "ピアノ",
    "{title}",
    "bytes\udcff",
]


def test_links_lead_to_the_files_whatever_their_names(tmp_path):
    clips = [
        listening_page.ListeningClip(n, f"{n}.png", [("recording", f"{n}.wav"), ("model <1>", f"sub/{n}.wav")])
        for n in UNUSUAL_NAMES
    ]
    listening_page.write_listening_page(
        tmp_path / "index.html", "Clips & <more>", clips, {"model <x>": "a & b", "steps": "{}"}
    )
    page = Page((tmp_path / "index.html").read_text(encoding="utf-8"))

    def paths(links):
        return [urllib.parse.unquote(link, errors="surrogateescape") for link in links]

    links = page.sources("img") + page.sources("audio")
    assert all(not urllib.parse.urlsplit(link).scheme and not urllib.parse.urlsplit(link).query for link in links)
    assert paths(page.sources("img")) == [f"{n}.png" for n in UNUSUAL_NAMES]
    assert paths(page.sources("audio")) == [name for n in UNUSUAL_NAMES for name in (f"{n}.wav", f"sub/{n}.wav")]
    assert all("controls" in attributes for tag, attributes in page.tags if tag == "audio")
    for text in ("Clips & <more>", "model <x>", "a & b", "{}", "model <1>", *UNUSUAL_NAMES[:-1], "bytes?"):
        assert text in page.texts
    assert not {"b", "x", "more"} & {tag for tag, _ in page.tags}
    assert not [link for tag, attributes in page.tags for link in [attributes.get("href")] if link]


def test_an_empty_page_is_a_page(tmp_path):
    listening_page.write_listening_page(tmp_path / "index.html", "nothing yet", [], {})
    assert "nothing yet" in Page((tmp_path / "index.html").read_text(encoding="utf-8")).texts
