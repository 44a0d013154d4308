"""A page of HTML, read by the standard library's parser and looked at as a browser would."""

from __future__ import annotations

from dataclasses import dataclass, field
from html.parser import HTMLParser

VOID = {"meta", "link", "img", "br", "hr", "input", "wbr"}


@dataclass
class Element:
    """attributes: as read. text: of it and all that is in it, words divided by one blank."""

    name: str
    attributes: dict[str, str]
    parts: list[str] = field(default_factory=list)
    children: list[Element] = field(default_factory=list)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.parts).split())


class Page(HTMLParser):
    """Every element in the order of its start; raises AssertionError for a tag that is not closed, or not open."""

    def __init__(self, source: str):
        super().__init__(convert_charrefs=True)
        self.elements: list[Element] = []
        self._open: list[Element] = []
        self.feed(source)
        self.close()
        assert not self._open, f"never closed: {[each.name for each in self._open]}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]], closed: bool = False) -> None:
        assert len({name for name, _ in attrs}) == len(attrs), (tag, attrs)
        new = Element(tag, {name: value or "" for name, value in attrs})
        self.elements.append(new)
        if self._open:
            self._open[-1].children.append(new)
        if tag not in VOID and not closed:
            self._open.append(new)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert any(each.name == "svg" for each in self._open) or tag == "svg", f"<{tag}/> does not close in HTML"
        self.handle_starttag(tag, attrs, closed=True)

    def handle_endtag(self, tag: str) -> None:
        assert self._open and self._open[-1].name == tag, f"</{tag}> in {[each.name for each in self._open]}"
        self._open.pop()

    def handle_data(self, data: str) -> None:
        for each in self._open:
            each.parts.append(data)

    def all(self, name: str, **attributes: str) -> list[Element]:
        """Elements of that name with these attributes; class_ is one of the classes."""
        wanted = attributes.pop("class_", None)
        return [
            each
            for each in self.elements
            if each.name == name
            and all(each.attributes.get(key) == value for key, value in attributes.items())
            and (wanted is None or wanted in each.attributes.get("class", "").split())
        ]

    def rows(self, class_: str) -> list[list[str]]:
        """Texts of the cells of the table of that class, row by row."""
        (table,) = self.all("table", class_=class_)
        bodies = [each for each in table.children if each.name in ("thead", "tbody")]
        return [[cell.text for cell in row.children] for body in bodies for row in body.children]
