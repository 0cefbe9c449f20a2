"""The listening page: one HTML file with a picture and audio players for each clip."""

import html
import os
import urllib.parse
from dataclasses import dataclass
from pathlib import Path

from midi2wave.plotting.figures import printable
from midi2wave.utils.atomic_files import write_text


@dataclass(frozen=True)
class ListeningClip:
    """One clip on the page; file names are relative to the page.

    Attributes:
        name: Heading of the clip.
        picture: File name of its picture.
        sounds: Label and file name of each wav.
        remark: Text above the players; "" for none.
    """

    name: str
    picture: str
    sounds: list[tuple[str, str]]
    remark: str = ""


_PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>{title}</title>
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 1200px; margin: 2rem auto; padding: 0 1rem; color: #222 }}
h2, td {{ overflow-wrap: anywhere }}
th {{ text-align: left; font-weight: normal; color: #666; padding-right: 2rem; vertical-align: top }}
section {{ border-top: 1px solid #ddd; margin-top: 2rem }}
.sounds {{ display: flex; flex-wrap: wrap; gap: .5rem 2rem; margin-bottom: 1rem }}
label, audio {{ display: block }}
img {{ width: 100% }}
</style>
<h1>{title}</h1>
<table>
{facts}
</table>
{entries}
<script>
document.addEventListener("play", event => document.querySelectorAll("audio").forEach(
  audio => audio === event.target || audio.pause()), true);
</script>
</html>
"""


def write_listening_page(path: str | Path, title: str, clips: list[ListeningClip], facts: dict[str, str]) -> None:
    """Write the page atomically; it works without a server and without network.

    Args:
        path: The HTML file.
        title: Title of the page.
        clips: The clips in the order of the page.
        facts: Rows of the table at the top: name -> value.
    """
    rows = [f"<tr><th>{_text(name)}</th><td>{_text(value)}</td></tr>" for name, value in facts.items()]
    entries = "\n".join(map(_section, clips))
    write_text(path, _PAGE.format(title=_text(title), facts="\n".join(rows), entries=entries))


def _section(clip: ListeningClip) -> str:
    """The HTML of one clip."""
    name = _text(clip.name)
    remark = f"<p>{_text(clip.remark)}</p>\n" if clip.remark else ""
    players = "\n".join(
        f'<label>{_text(label)}<audio controls preload="metadata" src="{_link(wav)}"></audio></label>'
        for label, wav in clip.sounds
    )
    image = f'<img src="{_link(clip.picture)}" alt="Piano roll and spectrograms of {name}" loading="lazy">'
    return f'<section>\n<h2>{name}</h2>\n{remark}<div class="sounds">\n{players}\n</div>\n{image}\n</section>'


def _text(text: str) -> str:
    """Text as HTML."""
    return html.escape(printable(text))


def _link(file_name: str) -> str:
    """A file name as the value of an HTML attribute; bytes that are not UTF-8 are quoted."""
    return html.escape(urllib.parse.quote(os.fsencode(file_name)))
