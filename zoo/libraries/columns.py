"""Arrow files: tables in the stream form, memory-mapped when they are read.

`datasets.Dataset.from_file` reads them too. A file is written beside and renamed, so that it is whole where it is.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy

Numbers = numpy.ndarray[Any, numpy.dtype[Any]]


def write_table(path: Path, columns: dict[str, Any]) -> None:
    """Write columns of one length as one batch."""
    import pyarrow

    batch = pyarrow.RecordBatch.from_arrays(list(columns.values()), names=list(columns))
    beside = path.with_name(f".tmp-{path.name}")
    try:
        with pyarrow.OSFile(str(beside), "wb") as file, pyarrow.ipc.new_stream(file, batch.schema) as stream:
            stream.write_batch(batch)
        os.replace(beside, path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise


def read_table(path: Path) -> dict[str, Any]:
    """The columns of a file that `write_table` wrote; they lie in the file, not in memory."""
    import pyarrow

    with pyarrow.memory_map(str(path)) as file, pyarrow.ipc.open_stream(file) as stream:
        batch = stream.read_next_batch()
    return dict(zip(batch.schema.names, batch.columns, strict=True))


def lists(values: Numbers, offsets: Numbers) -> Any:
    """A column of lists of numbers: row i is `values[offsets[i] : offsets[i + 1]]`."""
    import pyarrow

    return pyarrow.ListArray.from_arrays(offsets.astype(numpy.int32), values)


def texts(values: list[Any]) -> Any:
    """A column of bytes."""
    import pyarrow

    return pyarrow.array(values, type=pyarrow.large_binary())


def numbers(values: Numbers) -> Any:
    """A column of numbers."""
    import pyarrow

    return pyarrow.array(values)


def parts(column: Any) -> tuple[Numbers, Numbers]:
    """Values and offsets of a column of lists, without a copy."""
    return column.values.to_numpy(zero_copy_only=True), column.offsets.to_numpy(zero_copy_only=True)


def text_parts(column: Any) -> tuple[Numbers, Numbers]:
    """Bytes and offsets of a column of `texts`, without a copy."""
    if not len(column):
        return numpy.zeros(0, dtype=numpy.uint8), numpy.zeros(1, dtype=numpy.int64)
    _, offsets, content = column.buffers()
    content = numpy.zeros(0, dtype=numpy.uint8) if content is None else numpy.frombuffer(content, numpy.uint8)
    return content, numpy.frombuffer(offsets, numpy.int64)[: len(column) + 1]


def array(column: Any) -> Numbers:
    """The numbers of a column, without a copy; truth values are copied."""
    return column.to_numpy(zero_copy_only=False)
