"""The handwritten digits that ship with scikit-learn: pictures for those who have none yet."""

import gzip
import importlib.util
import io
import tarfile
from pathlib import Path

import numpy as np

from lm.errors import not_installed
from lm.files import atomic

DIGITS = "digits"  # stands where a path would
_TEST = 5  # every fifth is for the test part


def digits(folder: Path) -> Path:
    """A tar archive of 1,797 pictures of 8×8 pixels as `train/7/0007.png` and `test/…`, made where there is
    none yet (Alpaydin and Kaynak 1998, CC BY 4.0).

    Raises:
        UserError: scikit-learn is not installed.
    """
    archive = folder / "digits.tar"
    if archive.exists():
        return archive
    found = importlib.util.find_spec("sklearn")
    if found is None:
        raise not_installed("the digits", "scikit-learn", "images")
    from PIL import Image

    table = Path(found.submodule_search_locations[0]) / "datasets/data/digits.csv.gz"
    with gzip.open(table) as file:
        rows = np.loadtxt(file, delimiter=",", dtype=np.int64)  # 64 greys of 0 to 16 and the digit
    folder.mkdir(parents=True, exist_ok=True)
    with atomic(archive) as target, tarfile.open(fileobj=target, mode="w") as made:
        for number, row in enumerate(rows):
            picture = io.BytesIO()
            Image.fromarray((row[:64].reshape(8, 8) * 255 // 16).astype(np.uint8)).save(picture, "PNG")
            part = "train" if number % _TEST else "test"
            info = tarfile.TarInfo(f"{part}/{row[64]}/{number:04}.png")
            info.size = picture.tell()
            made.addfile(info, io.BytesIO(picture.getvalue()))
    return archive
