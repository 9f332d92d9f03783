"""What reads each kind of file into documents; every class stands for itself and can be given by its path."""

from lm.data.corpus.readers.gutenberg import Gutenberg
from lm.data.corpus.readers.hub import Hub
from lm.data.corpus.readers.imdb import Imdb
from lm.data.corpus.readers.mediawiki import MediaWiki
from lm.data.corpus.readers.rows import Csv, Json, JsonLines, ParquetRows
from lm.data.corpus.readers.texts import Texts
from lm.data.corpus.readers.web import Html, Warc

__all__ = [
    "Csv",
    "Gutenberg",
    "Html",
    "Hub",
    "Imdb",
    "Json",
    "JsonLines",
    "MediaWiki",
    "ParquetRows",
    "Texts",
    "Warc",
]
