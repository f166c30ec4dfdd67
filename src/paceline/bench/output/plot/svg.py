"""Elements of an SVG drawing as text."""

from __future__ import annotations

from html import escape

TEXT_WIDTH = 6.3  # pixels of a character at the size of tick labels, on average


def element(tag: str, content: str = "", **attributes: str | float | None) -> str:
    """``content`` is markup already. Names: ``class_`` is class, ``stroke_width`` is stroke-width; None is left out."""
    told = "".join(
        f' {name.rstrip("_").replace("_", "-")}="{_quoted(value) if isinstance(value, str) else pixels(value)}"'
        for name, value in attributes.items()
        if value is not None
    )
    return f"<{tag}{told}>{content}</{tag}>" if content else f"<{tag}{told}/>"


def _quoted(text: str) -> str:
    return escape(text).replace("\n", "&#10;")  # or readers of XML would make it a space


def pixels(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")


def words(text: str, x: float, y: float, *, class_: str = "", anchor: str = "", turn: float = 0.0) -> str:
    """A line of text; ``anchor``: start (default), middle or end; ``turn``: degrees around its anchor."""
    return element(
        "text",
        escape(text),
        x=x,
        y=y,
        class_=class_ or None,
        text_anchor=anchor or None,
        transform=f"rotate({pixels(turn)} {pixels(x)} {pixels(y)})" if turn else None,
    )


def wrapped(text: str, width: float) -> list[str]:
    """Lines of at most ``width`` pixels, broken between words; a longer word stays whole. None of no words."""
    lines: list[str] = []
    for word in text.split():
        joined = f"{lines[-1]} {word}" if lines else word
        if lines and text_width(joined) <= width:
            lines[-1] = joined
        else:
            lines.append(word)
    return lines


def text_width(text: str) -> float:
    """An estimate; characters from Hangul and CJK on are about twice as wide."""
    return sum(
        TEXT_WIDTH * (1.9 if ord(letter) >= 0x1100 and not 0x2000 <= ord(letter) < 0x2E80 else 1) for letter in text
    )


def shortened(text: str, width: float) -> str:
    while text and text_width(text) > width:
        text = text[:-2] + "…" if len(text) > 2 else ""
    return text
