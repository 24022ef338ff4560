"""Makes small animations with every way of putting frames together, and records what Pillow makes of them.

    peers/bin/pip install pillow==13.0.0
    peers/bin/python tools/record_animations.py        # writes crates/vila-u/tests/videos/animations/

Each frame covers a part of the canvas; it is laid over what was before or takes its place, and then it stays, is cleared
or gives way to what was there. NAME.png has the frames of NAME one below the other.
"""

import io
import random
import struct
from pathlib import Path

from PIL import Image, ImageDraw

OUTPUT = Path(__file__).parent.parent / "crates/vila-u/tests/videos/animations"
WIDTH, HEIGHT, FRAMES = 24, 16, 6


def parts(seed, translucent=True):
    """The frames: left, top, and a picture of some transparency, or of all and none alone."""
    choose = random.Random(seed)
    colour = lambda opacities: (*(choose.randrange(256) for _ in range(3)), choose.choice(opacities))
    for index in range(FRAMES):
        left, top, width, height = 0, 0, WIDTH, HEIGHT
        if index > 0:
            width, height = 2 * choose.randrange(4, 12), 2 * choose.randrange(3, 8)
            left = 2 * choose.randrange((WIDTH - width) // 2 + 1)
            top = 2 * choose.randrange((HEIGHT - height) // 2 + 1)
        picture = Image.new("RGBA", (width, height), colour([255, 255, 120, 0] if translucent else [255, 255, 255, 0]))
        for _ in range(3):
            x, y = choose.randrange(width), choose.randrange(height)
            box = [x, y, min(width - 1, x + 5), min(height - 1, y + 3)]
            fill = colour([255, 200, 90, 0] if translucent else [255, 255, 0, 0])
            ImageDraw.Draw(picture).rectangle(box, fill=fill)
        yield left, top, picture


def chunk(name, content):
    return name + struct.pack("<I", len(content)) + content + b"\0" * (len(content) % 2)


def three_bytes(number):
    return struct.pack("<I", number)[:3]


def pictures_chunks(file):
    """The chunks of a still WebP that hold its picture."""
    at = 12
    while at < len(file):
        name, length = file[at : at + 4], struct.unpack("<I", file[at + 4 : at + 8])[0]
        if name in (b"ALPH", b"VP8 ", b"VP8L"):
            yield chunk(name, file[at + 8 : at + 8 + length])
        at += 8 + length + length % 2


def webp(path, blends, disposes, seed, **options):
    """`blends` and `disposes`: whether a frame, by its number, is laid over the canvas, and cleared after it."""
    body = chunk(b"VP8X", bytes([0x12, 0, 0, 0]) + three_bytes(WIDTH - 1) + three_bytes(HEIGHT - 1))
    body += chunk(b"ANIM", bytes([10, 200, 30, 255, 0, 0]))
    for index, (left, top, picture) in enumerate(parts(seed)):
        still = io.BytesIO()
        picture.save(still, "WEBP", exact=True, **options)
        flags = (0 if blends(index) else 2) | (1 if disposes(index) else 0)
        numbers = [left // 2, top // 2, picture.width - 1, picture.height - 1, 100]
        header = b"".join(map(three_bytes, numbers)) + bytes([flags])
        body += chunk(b"ANMF", header + b"".join(pictures_chunks(still.getvalue())))
    path.write_bytes(chunk(b"RIFF", b"WEBP" + body))


def compressed(pixels, size, palette):
    """The image data of a GIF of these palette indices."""
    picture = Image.frombytes("P", size, pixels)
    picture.putpalette(palette)
    file = io.BytesIO()
    picture.save(file, "GIF", optimize=False)
    file = file.getvalue()
    table = lambda flags: 3 * (2 << (flags & 7)) if flags & 0x80 else 0
    at = 13 + table(file[10])
    while file[at] == 0x21:
        at += 2
        while file[at]:
            at += 1 + file[at]
        at += 1
    return file[at + 10 + table(file[at + 9]) : file.rindex(b"\x3b")]


def gif(path, disposals, seed, transparent):
    choose = random.Random(1)
    palette = [choose.randrange(256) for _ in range(3 * 256)]
    file = b"GIF89a" + struct.pack("<HH", WIDTH, HEIGHT) + bytes([0xF7, 0, 0]) + bytes(palette)
    for index, (left, top, picture) in enumerate(parts(seed)):
        hidden = lambda x, y: transparent and (x * y + index) % 3 == 0
        value = lambda x, y: 255 if hidden(x, y) else (7 * x + 13 * y + 31 * index) % 200
        pixels = bytes(value(x, y) for y in range(picture.height) for x in range(picture.width))
        flags = disposals[index % len(disposals)] << 2 | transparent
        file += bytes([0x21, 0xF9, 4, flags, 10, 0, 255, 0])
        file += b"\x2c" + struct.pack("<HHHH", left, top, *picture.size) + b"\0"
        file += compressed(pixels, picture.size, palette)
    path.write_bytes(file + b"\x3b")


def png(path, disposal, blend, seed):
    # Of a translucent frame over another, and of one that gives way to what was there, Pillow makes other than the format
    # says.
    frames = []
    for left, top, picture in parts(seed, translucent=False):
        frame = Image.new("RGBA", (WIDTH, HEIGHT))
        frame.paste(picture, (left, top))
        frames.append(frame)
    first, *others = frames
    first.save(path, save_all=True, append_images=others, disposal=disposal, blend=blend, duration=100)


def record(path):
    animation = Image.open(path)
    column = Image.new("RGBA", (WIDTH, HEIGHT * FRAMES))
    for index in range(FRAMES):
        animation.seek(index)
        column.paste(animation.convert("RGBA"), (0, HEIGHT * index))
    column.save(f"{path}.png")


def main():
    OUTPUT.mkdir(parents=True, exist_ok=True)
    always, never, odd, third = (lambda _: True), (lambda _: False), (lambda n: n % 2 == 1), (lambda n: n % 3 == 0)
    made = []

    def make(name, writer, *arguments, **options):
        writer(OUTPUT / name, *arguments, **options)
        made.append(OUTPUT / name)

    lossless = {"lossless": True, "quality": 0}
    make("over.webp", webp, always, never, 7, **lossless)
    make("instead.webp", webp, never, never, 7, **lossless)
    make("over_cleared.webp", webp, always, always, 7, **lossless)
    make("instead_cleared.webp", webp, never, always, 7, **lossless)
    make("mixed.webp", webp, odd, third, 7, **lossless)
    make("lossy.webp", webp, odd, third, 9, quality=90)
    make("keep.gif", gif, [1], 7, True)
    make("background.gif", gif, [2], 7, True)
    make("previous.gif", gif, [1, 3], 7, True)
    make("mixed.gif", gif, [0, 1, 2, 3, 2, 1], 7, True)
    make("opaque.gif", gif, [1, 2, 3], 7, False)
    make("none_source.png", png, 0, 0, 7)
    make("none_over.png", png, 0, 1, 7)
    make("background_over.png", png, 1, 1, 7)
    make("mixed.png", png, [0, 1, 0, 1, 1, 0], [0, 1, 1, 0, 1, 1], 7)
    for path in made:
        record(path)


if __name__ == "__main__":
    main()
