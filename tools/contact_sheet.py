"""Draw docs/toypets.png: test pictures of the packaged toy pets, cats and dogs in turn.

python tools/contact_sheet.py
"""

from pathlib import Path

from PIL import Image

import tlcourse as tl

COLUMNS, ROWS, SIDE = 8, 2, 96


def main() -> None:
    test = tl.data.load("toypets").test
    of_class = [(test.labels == label).nonzero().flatten().tolist() for label in (0, 1)]
    sheet = Image.new("RGB", (COLUMNS * SIDE, ROWS * SIDE))
    for i in range(COLUMNS * ROWS):
        row, column = divmod(i, COLUMNS)
        sheet.paste(test.raw(of_class[(i + row) % 2][i // 2]), (column * SIDE, row * SIDE))
    target = Path(__file__).parents[1] / "docs" / "toypets.png"
    target.parent.mkdir(exist_ok=True)
    sheet.save(target, optimize=True)


if __name__ == "__main__":
    main()
