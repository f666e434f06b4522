"""Errors a reader can act on: each message names the file or argument and says what to do."""


class DataError(ValueError):
    """A dataset, image, mask or array is not usable as it is."""


class WeightsError(RuntimeError):
    """A backbone's weights are missing or are not the published ones."""


class StorageError(OSError):
    """A file could not be written: disk full, read-only or not permitted."""


class NotebookError(RuntimeError):
    """A notebook could not be found, read, executed or exported."""
