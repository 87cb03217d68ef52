"""media/errors.py: what is wrong with a media file, said in one sentence that names the record, the
field and the file."""

from formats.sample import DataError, Sample


class MediaError(DataError):
    """A medium that cannot be used: the record is left out, and the run goes on.

    A file is missing or cannot be read, the model has no sense for it, or the text holds one of the
    model's media tokens. Its arguments are (record, what is wrong) or (record, what is wrong, path
    of the file).
    """

    def __str__(self) -> str:
        return ": ".join(self.args[:2])

    @property
    def reason(self) -> str:
        """What is wrong, without the name of the record."""
        return self.args[1]

    @property
    def path(self) -> str:
        """The bad file; "" when the error is not about a file.

        All files of the record, joined by commas, where it is not known which one is bad.
        """
        return self.args[2] if len(self.args) > 2 else ""


def record_name(sample: Sample) -> str:
    """How messages name a record, by file, line and id: "train.jsonl:12 ('clip7-q1')"."""
    return f"{sample.where or 'record'} ('{sample.id}')"


def first_line(error: BaseException) -> str:
    """The first informative line of an exception's message, without a C++ stack."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0].split("] ")[-1][:160]


def about_files(sample: Sample, what: str) -> MediaError:
    """The error that something happened to a record's files, not known to which one."""
    paths = [path for _, path in sample.media]
    if sample.soundtrack:
        paths.append(sample.soundtrack)
    files = ", ".join(dict.fromkeys(paths))
    return MediaError(
        record_name(sample), f"{files} {what}; replace the file or remove the record", files
    )
