"""Standard MIDI Files, byte by byte."""

END = b"\x00\xff\x2f\x00"


def chunk(body: bytes, name: bytes = b"MTrk", length: int | None = None) -> bytes:
    return name + (len(body) if length is None else length).to_bytes(4, "big") + body


def smf(*tracks: bytes, file_type: int = 1, division: int = 480, promised: int | None = None) -> bytes:
    numbers = (file_type, len(tracks) if promised is None else promised, division)
    header = b"".join(number.to_bytes(2, "big") for number in numbers)
    return chunk(header, b"MThd") + b"".join(chunk(track) for track in tracks)


def varlen(number: int) -> bytes:
    digits = [number & 0x7F]
    while number := number >> 7:
        digits.insert(0, number & 0x7F | 0x80)
    return bytes(digits)


def track(*events: tuple[int, bytes], end: bytes = END) -> bytes:
    """Events as (absolute tick, message bytes), in order."""
    body, before = b"", 0
    for tick, message in events:
        body += varlen(tick - before) + message
        before = tick
    return body + end


def on(pitch: int, velocity: int = 64, channel: int = 0) -> bytes:
    return bytes([0x90 | channel, pitch, velocity])


def off(pitch: int, channel: int = 0) -> bytes:
    return bytes([0x80 | channel, pitch, 64])


def pedal(controller: int, value: int, channel: int = 0) -> bytes:
    return bytes([0xB0 | channel, controller, value])


def tempo(microseconds: int) -> bytes:
    return b"\xff\x51\x03" + microseconds.to_bytes(3, "big")
