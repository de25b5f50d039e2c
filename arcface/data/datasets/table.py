"""Training images listed in a CSV or Parquet file with the columns path and label; pyarrow reads it, where that is installed."""

from collections.abc import Iterator
from pathlib import Path

from arcface.data.datasets.labels import check_labels
from arcface.data.datasets.listed_images import ListedImages, leads_out
from arcface.errors import UserError
from arcface.io.files import open_file

SUFFIXES = (".csv", ".parquet")
_MAX_LABEL = 2**31 - 1
_ROWS_AT_ONCE = 1 << 16


class TableFile(ListedImages):
    """The training images of a table, in its order; other columns than path and label are ignored.

    labels: int64 [number of images], every class 0 .. num_classes - 1 occurs. The paths stay in pyarrow's array.
    """

    unit = "row"

    def __init__(
        self,
        data_dir: str | Path,
        label_file: str,
        num_classes: int | None = None,
        outside_paths: bool = False,
        gaps: bool = False,
    ):
        """Read the table; raises UserError that names file and row for what is wrong in it; `gaps` between labels may be right.

        That includes paths that lead out of `data_dir` unless `outside_paths` admits them.
        """
        self.directory = Path(data_dir)
        self.file = self.directory / label_file
        self._first_row = 2 if self.file.suffix == ".csv" else 1
        self._column, labels = _read(self.file)
        if not len(labels):
            raise UserError(f"{self.file}: lists no images; write a row with path and label for each")
        if self._column.null_count or labels.null_count:
            row = min(column.is_null().index(True).as_py() for column in (self._column, labels) if column.null_count)
            raise UserError(f"{self.place(row)}: has no path or no label; complete or remove the row")
        self.labels = labels.to_numpy()
        if (bad := (self.labels < 0) | (self.labels > _MAX_LABEL)).any():
            row = int(bad.argmax())
            raise UserError(f"{self.place(row)}: label {self.labels[row]} is no class number from 0 up; correct or remove the row")
        if not outside_paths:
            for row, path in enumerate(self._paths()):
                if (path.startswith(b"/") or b".." in path) and leads_out(path):
                    raise self.error_outside(row)
        self.num_classes = check_labels(self.labels, num_classes, self.file, self.place, "row", gaps)

    def number(self, index: int) -> int:
        """Return the number of an image's row, from 1; a CSV file's header has the first."""
        return int(index) + self._first_row

    def _path(self, index: int) -> bytes:
        return self._column[int(index)].as_py()

    def _paths(self) -> Iterator[bytes]:
        for start in range(0, len(self), _ROWS_AT_ONCE):
            yield from self._column[start : start + _ROWS_AT_ONCE].to_pylist()


def _read(file: Path):
    """Return the columns path (binary) and label (int64), each as one array of pyarrow's."""
    try:
        import pyarrow
        from pyarrow import csv, parquet
    except ImportError as error:
        raise UserError(f"{file}: pyarrow reads it, which is not installed; pip install pyarrow, or pass a label.txt") from error
    types = {"path": pyarrow.large_binary(), "label": pyarrow.int64()}
    try:
        with open_file(file) as opened:
            if file.suffix == ".csv":  # in one thread, which counts rows for the message
                options = csv.ConvertOptions(include_columns=list(types), column_types=types)
                table = csv.read_csv(opened, csv.ReadOptions(use_threads=False), convert_options=options)
            else:
                table = parquet.read_table(opened, columns=list(types), use_threads=False).cast(pyarrow.schema(types))
    except (OSError, KeyError, pyarrow.ArrowException) as error:
        detail = " ".join(str(error).split())[:200]
        raise UserError(f"{file}: no table of columns path and label ({detail}); correct the file") from error
    return [table[name].combine_chunks() for name in types]
