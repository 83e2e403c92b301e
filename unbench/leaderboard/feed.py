"""An Atom feed of new results: no clock, ids made from run-ids."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from datetime import datetime
from xml.etree import ElementTree

from unbench.leaderboard.entries import Entry, entry_key
from unbench.leaderboard.labels import printable
from unbench.leaderboard.reader import created
from unbench.leaderboard.scores import score_of

SPACE = uuid.uuid5(uuid.NAMESPACE_OID, "unbench.leaderboard")
MOST = 50
NOTHING = "1970-01-01T00:00:00Z"


def as_atom(entries: Sequence[Entry], pages: Mapping[tuple[str, ...], str]) -> str:
    """The newest results first, 50 at most. The feed is as old as its newest result."""
    newest = sorted(entries, key=lambda entry: (created(entry.result), entry_key(entry)), reverse=True)[:MOST]
    feed = ElementTree.Element("feed", {"xmlns": "http://www.w3.org/2005/Atom", "xml:lang": "en"})
    _text(feed, "id", f"urn:uuid:{SPACE}")
    _text(feed, "title", "UnBench: new results")
    _text(feed, "updated", _moment(newest[0]) if newest else NOTHING)
    ElementTree.SubElement(feed, "link", {"rel": "alternate", "href": "index.html"})
    ElementTree.SubElement(feed, "link", {"rel": "self", "href": "feed.xml"})
    for entry in newest:
        _entry(feed, entry, pages[entry_key(entry)])
    ElementTree.indent(feed, " ")
    return '<?xml version="1.0" encoding="utf-8"?>\n' + ElementTree.tostring(feed, encoding="unicode") + "\n"


def _entry(feed: ElementTree.Element, entry: Entry, page: str) -> None:
    result = entry.result
    one = ElementTree.SubElement(feed, "entry")
    _text(one, "id", f"urn:uuid:{uuid.uuid5(SPACE, chr(0).join(entry_key(entry)))}")
    _text(one, "title", f"{result.method.removeprefix('unbench:')} on {result.task}, {result.model}")
    _text(one, "updated", _moment(entry))
    author = ElementTree.SubElement(one, "author")
    _text(author, "name", (entry.submission.submitter if entry.submission is not None else "") or "not named")
    ElementTree.SubElement(one, "link", {"rel": "alternate", "href": f"runs/{page}.html"})
    names = ("overall_worst", "overall", "forget", "retain", "specificity")
    values = [(name, score_of(result, name).value) for name in names]
    said = ", ".join(f"{name} {value:.2f}" for name, value in values if value is not None)
    _text(one, "summary", f"{said or 'no scores'}; {entry.badge}")


def _moment(entry: Entry) -> str:
    moment = created(entry.result)
    return NOTHING if moment.year == datetime.min.year else moment.isoformat(timespec="seconds").replace("+00:00", "Z")


def _text(parent: ElementTree.Element, tag: str, text: str) -> None:
    ElementTree.SubElement(parent, tag).text = printable(text)
