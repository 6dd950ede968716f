"""Draw docs/toypets.png: the toy pets' breeds, styles and knobs, rendered anew.

python tools/contact_sheet.py
"""

import io
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont
from toypets import BREEDS, POSES, STYLES, Difficulty, Pet, render, sample

OUT = Path(__file__).parents[1] / "docs" / "toypets.png"
SIDE, GAP, LINE = 96, 4, 17  # an image, the space beside it, the height of a line of text
WIDTH = 8 * (SIDE + GAP) + 3 * GAP
CLEAR = Difficulty(clutter=0.3, occlusion=0)
FEW = 256  # colours: a PNG of fur is large otherwise
KNOBS = {"view": (0, 1), "clutter": (0, 1), "contrast": (1, 0.35), "occlusion": (0, 1)}
SEEDS = {"breeds": 40, "styles": (66, 31), "knobs": 77}  # looked at, and found to show what they should


@dataclass
class Sheet:
    """A white page that is filled from the top; `place` puts an image with words below it."""

    page: Image.Image = field(default_factory=lambda: Image.new("RGB", (WIDTH, 2000), "white"))
    y: int = GAP

    def title(self, text: str) -> None:
        """Write a heading across the page."""
        font = ImageFont.load_default(size=15)
        ImageDraw.Draw(self.page).text((GAP, self.y), text, fill=(30, 30, 30), font=font)
        self.y += LINE + GAP

    def place(self, column: int, pet: Pet, text: str = "", *, style: str = "photo", gap: int = 0) -> None:
        """Put an image into a column of the current row, `gap` pixels to the right of its usual place."""
        x = GAP + column * (SIDE + GAP) + gap
        image = render([pet], SIDE, style=style)[0]
        self.page.paste(Image.fromarray(image.permute(1, 2, 0).numpy()), (x, self.y))
        font = ImageFont.load_default(size=12)
        ImageDraw.Draw(self.page).text((x, self.y + SIDE), text, fill=(70, 70, 70), font=font)

    def next(self, *, words: bool) -> None:
        """Go on below the current row."""
        self.y += SIDE + (LINE if words else 0) + GAP


def draw() -> Image.Image:
    """Return the sheet."""
    sheet = Sheet()
    sheet.title("Eight breeds, any pose, any coat: the shape alone tells them apart")
    for row, names in enumerate(zip(*BREEDS.values(), strict=True)):
        for label, breed in enumerate(names):
            for i, pose in enumerate((*POSES, POSES[row % 3])):
                pet = sample(label, SEEDS["breeds"] + 4 * row + i, breed=breed, pose=pose, difficulty=CLEAR)
                sheet.place(4 * label + i, pet, "" if i else breed, gap=2 * GAP * label)
        sheet.next(words=True)
    sheet.title("Four styles of the same animals")
    for label, seed in enumerate(SEEDS["styles"]):
        for i, style in enumerate(STYLES):
            sheet.place(4 * label + i, sample(label, seed, difficulty=CLEAR), style, style=style, gap=2 * GAP * label)
    sheet.next(words=True)
    sheet.title("Four knobs")
    for i, (knob, values) in enumerate(KNOBS.items()):
        for j, value in enumerate(values):
            pet = sample(i % 2, SEEDS["knobs"] + i, difficulty=Difficulty(**{"occlusion": 0, knob: value}))
            sheet.place(2 * i + j, pet, f"{knob} {value}", gap=2 * GAP * (i > 1))
    sheet.next(words=True)
    return sheet.page.crop((0, 0, WIDTH, sheet.y))


def main() -> None:
    stream, sheet = io.BytesIO(), draw()
    few = sheet.quantize(FEW)
    sheet.quantize(palette=few, dither=Image.Dither.FLOYDSTEINBERG).save(stream, "PNG", optimize=True)
    OUT.parent.mkdir(exist_ok=True)
    OUT.write_bytes(stream.getvalue())


if __name__ == "__main__":
    main()
