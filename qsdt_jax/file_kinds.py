"""What a file is by its first bytes, so that a message can say what was found."""

import re

# Each of three bytes or more: none of them begins a recording of five bytes an event, whose third byte holds
# the polarity and the highest bits of the first time.
BEGINNINGS = (
    (b"#!AER-DAT", "an AEDAT recording"),
    (b"\x1f\x8b\x08", "gzip"),
    (b"PK\x03\x04", "a zip archive"),
    (b"\xfd7zXZ\x00", "xz"),
    (b"BZh", "bzip2"),
    (b"\x28\xb5\x2f\xfd", "zstd"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive"),
    (b"\x89HDF\r\n\x1a\n", "HDF5"),
    (b"\x93NUMPY", "an array of NumPy"),
    (b"MATLAB 5.0", "a file of MATLAB"),
    (b"version https://git-lfs", "a pointer of Git LFS"),
    (b"#ROSBAG", "a bag of ROS"),
    (b"%PDF", "a PDF document"),
    (b"\x89PNG\r\n", "a PNG image"),
    (b"\xff\xd8\xff", "a JPEG image"),
)
AEDAT = re.compile(rb"#!AER-DAT(\d+\.\d+)")
PROPHESEE = re.compile(rb"% [A-Za-z]")  # Two bytes alone are the pixel (32, 37) of a recording.
HTML = re.compile(rb"<(!doctype html|!--|html|head|body|script|meta|title)", re.IGNORECASE)
SPACE = b"\xef\xbb\xbf \t\r\n"  # The first three mark UTF-8.
LOOKED_AT = 1024


def kind_of(data: bytes) -> str | None:
    """Words for what the content of a file is, "an HTML page" or "AEDAT 3.1"; None where nothing tells."""
    beginning = data[:LOOKED_AT]
    if version := AEDAT.match(beginning):
        return f"AEDAT {version[1].decode()}"
    if PROPHESEE.match(beginning):
        return "a recording of Prophesee"
    if HTML.match(beginning.lstrip(SPACE)):
        return "an HTML page"
    if beginning.lstrip(SPACE).startswith(b"<?xml"):
        return "XML"
    return next((kind for start, kind in BEGINNINGS if beginning.startswith(start)), None)
