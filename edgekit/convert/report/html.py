"""HTML and SVG as Python values: what is text is escaped when it is put in, always; only `Html` goes in as it is."""

from __future__ import annotations

import html

_EMPTY = frozenset(["meta", "img", "br", "rect", "line", "path", "polyline", "circle"])


class Html(str):
    """Text that is HTML already."""

    __slots__ = ()


def escaped(value: object) -> Html:
    """A value as HTML text; control characters, which no browser shows, as their pictures."""
    if isinstance(value, Html):
        return value
    text = "".join(chr(0x2400 + ord(c)) if ord(c) < 32 and c not in "\n\t" else c for c in str(value))
    # lone halves of surrogate pairs cannot be written as UTF-8; directional marks would reorder what follows
    text = text.encode("utf-8", "replace").decode()
    text = "".join("�" if c in "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069" else c for c in text)
    return Html(html.escape(text, quote=True))


def tag(name: str, /, *children: object, **attributes: object) -> Html:
    """An element. `class_` is class, `data_v` data-v; an attribute that is None is left out, True has no value."""
    words = [name]
    for key, value in attributes.items():
        label = key.rstrip("_").replace("_", "-")
        if value is True:
            words.append(label)
        elif value is not None and value is not False:
            words.append(f'{label}="{escaped(value)}"')
    opening = f"<{' '.join(words)}>"
    if name in _EMPTY:
        return Html(opening[:-1] + "/>")
    return Html(f"{opening}{join(*children)}</{name}>")


def join(*children: object) -> Html:
    """Several in a row; None is nothing."""
    return Html("".join(escaped(child) for child in children if child is not None))
