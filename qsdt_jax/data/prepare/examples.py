"""From the content of a record to what is stored, and the proof that it can be read again."""

import io
from typing import Any

from PIL import Image

from qsdt_jax.data.dense.coco_source import require_size
from qsdt_jax.data.dense.tfds_detection import stored
from qsdt_jax.data.events.files import read_event_file
from qsdt_jax.data.events.formats.aedat3 import read_interval
from qsdt_jax.data.events.record import as_columns, check_within, upright
from qsdt_jax.data.images import DECODE_ERRORS, FORMATS, decode_reason, image_size, in_bytes
from qsdt_jax.data.prepare.records import Content, DataSet, Record
from qsdt_jax.errors import CorruptRecord, UserError
from qsdt_jax.retry import retried

STORED_AS_IS = ("JPEG", "MPO", "PNG")  # MPO: a JPEG of a camera with a preview behind it.


class LostRecord(UserError):
    """The source did not give the content of a record, which tells nothing of it; another time it may."""


def example_of(record: Record, dataset: DataSet) -> dict[str, Any]:
    """What the features of the record's data set encode; of an annotation, its numbers (H, W).

    Raises:
      LostRecord: the content cannot be read, also not after a while (see `retried`).
      CorruptRecord: it is damaged; the message begins with the record's name in both cases.
    """
    content = _content(record.content, record.name)
    if dataset.kind == "detection":
        assert record.listed is not None
        image = checked_image(content, record.name)
        require_size(image_size(image, record.name), record.listed.size, record.name)
        return {**stored(record.listed), "image": image}
    # The name of a file need not be text.
    example: dict[str, Any] = {"file_name": record.name.encode("utf-8", "backslashreplace").decode()}
    if dataset.kind == "segmentation":
        assert record.annotation is not None and dataset.numbering is not None
        image = checked_image(content, record.name)
        annotation = dataset.numbering.decode(
            _content(record.annotation, record.name), image_size(image, record.name), record.name
        )
        return {**example, "image": image, "annotation": annotation}
    example["label"] = record.label
    if dataset.kind == "image":
        return {**example, "image": checked_image(content, record.name)}
    if record.interval is None:
        events = read_event_file(content, record.name).events
    else:
        events = read_interval(content, record.interval, record.name)
    if dataset.on_its_side:
        events = upright(events)
    check_within(events, dataset.sensor_size, record.name)
    return {**example, "events": as_columns(events, dataset.sensor_size), "sensor_size": dataset.sensor_size}


def _content(content: Content, name: str) -> bytes:
    try:
        return retried(content.read, name)
    except UserError as error:
        raise LostRecord(str(error)) from None
    except OSError as error:
        raise LostRecord(f"{name}: cannot be read ({error.strerror or error})") from None


def checked_image(encoded: bytes, name: str) -> bytes:
    """The image as it is stored: JPEG and PNG byte for byte, whatever other format Pillow reads as PNG.

    A JPEG stays as it is with its colour model and its note of an orientation; a PNG may be called .JPEG.

    Raises:
      CorruptRecord: it cannot be decoded.
    """
    try:
        with Image.open(io.BytesIO(encoded), formats=FORMATS) as image:
            pixels = in_bytes(image).convert("RGB")  # Decodes all of it.
            if image.format in STORED_AS_IS:
                return encoded
            png = io.BytesIO()
            pixels.save(png, "PNG")
            return png.getvalue()
    except DECODE_ERRORS as error:
        raise CorruptRecord(f"{name}: not a readable image ({decode_reason(error)})") from None
