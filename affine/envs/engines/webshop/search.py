"""WebShop's search engine: BM25 over stemmed words (tantivy, k1 = 1.2, b = 0.75), any word may match.

Document numbers are catalogue positions because one thread writes one segment; equal scores are therefore
ordered by position, in every process.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path

import tantivy

from affine.envs.engines.webshop.catalogue import Catalogue
from affine.envs.env import EnvError

IN_MEMORY = 20_000
"""Larger catalogues are indexed once on disk, smaller ones in every process that plays."""

MAX_WORDS = 64
"""Words of a query that count; the rest of an endless one is ignored."""

_HEAP_BYTES = 1_000_000_000  # a limit, not an allocation; large enough for a million products in one segment
_WORD = re.compile(r"[^\W_]+")


class SearchIndex:
    """The index of one catalogue."""

    def __init__(self, index: tantivy.Index, size: int) -> None:
        self._index = index
        self._searcher = index.searcher()
        if self._searcher.num_segments != 1 or self._searcher.num_docs != size:
            raise EnvError(
                f"webshop: the search index holds {self._searcher.num_docs} of {size} products in "
                f"{self._searcher.num_segments} segments; delete the cache folder {cache_root()} and try again"
            )

    def search(self, words: str, limit: int) -> list[int]:
        """Positions of the best `limit` products, best first; empty where `words` holds no word."""
        # Lower case, because the query parser knows AND, OR, NOT, IN and TO in capitals.
        text = " ".join(_WORD.findall(words.lower())[:MAX_WORDS])
        if not text:
            return []
        # A word that the index's own tokenizer would cut in two is a phrase to the parser, and positions are not
        # indexed: `_WORD` cuts where the tokenizer does. Lenient, because the two may know different Unicodes.
        query, _ = self._index.parse_query_lenient(text, ["text"])
        return [address.doc for _, address in self._searcher.search(query, limit, count=False).hits]


def open_index(catalogue: Catalogue) -> SearchIndex:
    """The index of `catalogue`: built in memory, or for a large one opened on disk, where it is built once.

    Raises EnvError where a cached index is damaged.
    """
    if len(catalogue) <= IN_MEMORY:
        index = tantivy.Index(_schema())
        _fill(index, (product.document() for product in catalogue.stream()))
        return SearchIndex(index, len(catalogue))
    folder = cache_root() / f"webshop-{catalogue.key}"
    if not folder.is_dir():
        _build_on_disk(catalogue, folder)
    return SearchIndex(tantivy.Index.open(str(folder)), len(catalogue))


def cache_root() -> Path:
    """Where indexes of large catalogues live: $AFFINE_CACHE, else affine/ in the user's cache folder."""
    default = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "affine"
    return Path(os.environ.get("AFFINE_CACHE") or default)


def _schema() -> tantivy.Schema:
    builder = tantivy.SchemaBuilder()
    builder.add_text_field("text", stored=False, tokenizer_name="en_stem", index_option="freq")
    return builder.build()


def _fill(index: tantivy.Index, documents: Iterable[str]) -> None:
    writer = index.writer(_HEAP_BYTES, num_threads=1)
    try:
        for text in documents:
            document = tantivy.Document()
            document.add_text("text", text)
            writer.add_document(document)
        writer.commit()
    finally:
        writer.wait_merging_threads()  # ends the writer's thread, which would go on writing files
    index.reload()


def _build_on_disk(catalogue: Catalogue, folder: Path) -> None:
    """Build beside `folder` and rename, so that a killed build leaves nothing that looks whole."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(prefix=f"{folder.name}-", dir=folder.parent))
    try:
        _fill(tantivy.Index(_schema(), path=str(unfinished)), (p.document() for p in catalogue.stream()))
        try:
            unfinished.rename(folder)
        except OSError:
            if not folder.is_dir():  # otherwise another process was faster, and its index is the same
                raise
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
