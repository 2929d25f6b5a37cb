"""Draw the picture in README.md: the last screen of `python launcher/run.py`, as a person sees it.

python docs/picture.py        (or: make picture)
"""

import fcntl
import io
import os
import pty
import re
import struct
import subprocess
import sys
import tempfile
import termios
from pathlib import Path

import pyte
from rich.console import Console
from rich.text import Text

COLUMNS, LINES = 112, 18
REPOSITORY = Path(__file__).resolve().parents[1]


def screen_after(command: list[str]) -> pyte.Screen:
    """The terminal's screen when the command has ended."""
    screen = pyte.Screen(COLUMNS, LINES)
    stream = pyte.ByteStream(screen)
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", LINES, COLUMNS, 0, 0))
    environment = {**os.environ, "TERM": "xterm-256color", "COLORTERM": "truecolor"}
    process = subprocess.Popen(command, cwd=REPOSITORY, env=environment, stdin=theirs, stdout=theirs, stderr=theirs)
    os.close(theirs)
    try:
        while data := os.read(ours, 65536):
            stream.feed(data)
    except OSError:
        pass  # Linux says so when the last writer has gone.
    if process.wait():
        sys.exit(f"{command} ended with {process.returncode}")
    return screen


def styled(screen: pyte.Screen) -> list[Text]:
    """The screen's lines with their colours; empty ones at the end are left out."""
    lines = []
    for number in range(LINES):
        line = Text()
        for column in range(COLUMNS):
            cell = screen.buffer[number][column]
            colour = f"#{cell.fg}" if len(cell.fg) == 6 and cell.fg != "default" else cell.fg.replace("brown", "yellow")
            line.append(cell.data, style=f"{'bold ' if cell.bold else ''}{colour}")
        line.rstrip()
        lines.append(line)
    while lines and not lines[-1].plain:
        lines.pop()
    return lines


def main() -> None:
    """Train on the digits once and draw what was said."""
    with tempfile.TemporaryDirectory() as folder:
        os.symlink(folder, link := Path(folder) / "runs")
        words = ["run_id=first", f"storage.root={link}"]
        screen = screen_after([sys.executable, "launcher/run.py", *words])
        console = Console(record=True, width=COLUMNS, file=io.StringIO())
        console.print(Text("$ python launcher/run.py run_id=first", style="bold"))
        for line in styled(screen):
            shown = line.plain.replace(f"{link}/", "runs/").replace(str(link), "runs")
            console.print(line if shown == line.plain else Text(shown.replace(" storage.root=runs", "")))
        # Without the fonts that it would fetch from elsewhere.
        svg = re.sub(r"@font-face \{.*?\}", "", console.export_svg(title="Convoy"), flags=re.DOTALL)
        (REPOSITORY / "docs" / "terminal.svg").write_text(svg)


if __name__ == "__main__":
    main()
