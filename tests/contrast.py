"""Contrast of two colours by WCAG 2.2, computed apart from the library."""


def luminance(colour):
    """Relative luminance of #rrggbb."""
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    r, g, b = (c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in parts)
    return 0.2126 * r + 0.7152 * g + 0.0722 * b


def ratio(one, other):
    a, b = luminance(one) + 0.05, luminance(other) + 0.05
    return max(a, b) / min(a, b)
