"""WebShop's pages as text: what upstream's templates show, joined by " [SEP] "."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from affine.envs.engines.webshop.catalogue import Options, Product

SEPARATOR = " [SEP] "
BACK, NEXT, PREVIOUS, BUY = "Back to Search", "Next >", "< Prev", "Buy Now"
DETAILS = ("Description", "Features", "Reviews")

Kind = Literal["search", "results", "item", "details", "done"]


@dataclass(frozen=True, slots=True)
class Row:
    """One product on a results page; the identifier is its button."""

    asin: str
    title: str
    price_tag: str


@dataclass(frozen=True, slots=True)
class Page:
    """What the shopper sees: `texts` in order, and which of them are `buttons`.

    The other fields hold the same things by name, and nothing that a shopper does not know: `rows` of a results
    page, `options` and `row` of an item page. `details` is the button that led to a details page.
    """

    kind: Kind
    texts: tuple[str, ...]
    buttons: tuple[str, ...] = ()
    rows: tuple[Row, ...] = ()
    row: Row | None = None
    options: Options = ()
    details: str = ""

    def text(self) -> str:
        """The observation."""
        return SEPARATOR.join(text.strip() for text in self.texts)


@dataclass(frozen=True, slots=True)
class Layout:
    """How pages look at a level: results per page, whether the instruction is repeated on each page and
    whether items have a rating and details pages. `fixed` mends upstream's pages: "Next >" is shown only
    where a page follows, and chosen options are marked."""

    page_size: int = 10
    repeat: bool = True
    details: bool = True
    fixed: bool = True

    def _head(self, instruction: str) -> tuple[str, ...]:
        return ("Instruction:", instruction) if self.repeat else ()

    def search(self, instruction: str) -> Page:
        """The first page, with the search field."""
        return Page("search", ("WebShop", "Instruction:", instruction, "Search"))

    def results(self, instruction: str, hits: list[Product], total: int, number: int) -> Page:
        """Page `number` (from 1) of `total` results; `hits` are those on it."""
        buttons = [BACK]
        if number > 1:
            buttons.append(PREVIOUS)
        if not self.fixed or number * self.page_size < total:
            buttons.append(NEXT)
        rows = tuple(Row(hit.asin, hit.name, hit.price_tag) for hit in hits)
        texts = (
            *self._head(instruction),
            BACK,
            f"Page {number} (Total results: {total})",
            *buttons[1:],
            *(text for row in rows for text in (row.asin, row.title, row.price_tag)),
        )
        return Page("results", texts, (*buttons, *(row.asin for row in rows)), rows)

    def item(self, instruction: str, product: Product, chosen: dict[str, str]) -> Page:
        """A product's page; `chosen` options (name -> value) are marked in the fixed layout."""
        texts = [*self._head(instruction), BACK, PREVIOUS]
        for name, values in product.options:
            marked = chosen.get(name) if self.fixed else None
            texts += [name, *(f"{value} (selected)" if value == marked else value for value in values)]
        texts += [product.name, f"Price: {product.price_tag}"]
        details = DETAILS if self.details else ()
        if self.details:
            texts += [f"Rating: {product.rating}", *details]
        values = tuple(value for _, axis in product.options for value in axis)
        row = Row(product.asin, product.name, product.price_tag)
        return Page(
            "item",
            (*texts, BUY),
            (BACK, PREVIOUS, *values, *details, BUY),
            row=row,
            options=product.options,
        )

    def detail(self, instruction: str, product: Product, button: str) -> Page:
        """What one of the `DETAILS` buttons shows."""
        content = {"Description": (product.description,), "Features": product.bullets, "Reviews": product.reviews}
        texts = (*self._head(instruction), BACK, PREVIOUS, *content[button])
        return Page("details", texts, (BACK, PREVIOUS), details=button)


DONE = Page("done", ("Thank you for shopping with us!",))
