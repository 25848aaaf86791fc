"""A small drawing of lines on logarithmic axes, as SVG."""

import math
from html import escape

WIDTH, HEIGHT, MARGIN, LEGEND = 420, 300, 45, 190
COLOURS = ("#1b6ca8", "#c8553d", "#588157", "#8e5ea2", "#b5892e", "#444444", "#2a9d8f")


def log_plot(lines, *, x, y):
    """The drawing.

    Args:
        lines: name to points ``(x, y)``, positive, in order.
        x: label of the horizontal axis.
        y: label of the vertical axis.
    """
    points = [point for found in lines.values() for point in found]
    low = [min(math.log10(p[axis]) for p in points) for axis in (0, 1)]
    high = [max(math.log10(p[axis]) for p in points) for axis in (0, 1)]

    def place(point):
        across = (math.log10(point[0]) - low[0]) / (high[0] - low[0] or 1)
        up = (math.log10(point[1]) - low[1]) / (high[1] - low[1] or 1)
        return MARGIN + across * (WIDTH - MARGIN - 10), HEIGHT - MARGIN - up * (HEIGHT - MARGIN - 10)

    text = 'font-family="sans-serif" font-size="11" fill="#333"'
    drawn = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH + LEGEND}" height="{HEIGHT}" role="img">',
        f'<rect width="{WIDTH + LEGEND}" height="{HEIGHT}" fill="white"/>',
    ]
    for value in sorted({p[0] for p in points}):
        left, _ = place((value, 10 ** low[1]))
        drawn.append(f'<path d="M{left:.1f} 10V{HEIGHT - MARGIN}" stroke="#ddd"/>')
        drawn.append(f'<text x="{left:.1f}" y="{HEIGHT - 28}" text-anchor="middle" {text}>{value:g}</text>')
    for exponent in range(math.ceil(low[1]), math.floor(high[1]) + 1):
        _, top = place((10 ** low[0], 10**exponent))
        drawn.append(f'<path d="M{MARGIN} {top:.1f}H{WIDTH - 10}" stroke="#ddd"/>')
        drawn.append(f'<text x="{MARGIN - 4}" y="{top + 4:.1f}" text-anchor="end" {text}>{10.0**exponent:g}</text>')
    drawn.append(f'<text x="{WIDTH / 2}" y="{HEIGHT - 8}" text-anchor="middle" {text}>{escape(x)}</text>')
    drawn.append(f'<text x="4" y="10" {text}>{escape(y)}</text>')
    for number, (name, found) in enumerate(lines.items()):
        colour = COLOURS[number % len(COLOURS)]
        path = " ".join(f"{a:.1f},{b:.1f}" for a, b in map(place, found))
        drawn.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        row = 24 + 18 * number
        drawn.append(f'<path d="M{WIDTH + 4} {row - 4}h16" stroke="{colour}" stroke-width="2"/>')
        drawn.append(f'<text x="{WIDTH + 24}" y="{row}" {text}>{escape(name)}</text>')
    return "\n".join([*drawn, "</svg>", ""])
