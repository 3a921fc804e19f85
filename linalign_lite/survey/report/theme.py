"""Colours, light and dark: custom properties that the page and its pictures share.

Text has a contrast of at least 4.5 and lines of 3 on both backgrounds (WCAG 2.2, AA); tests compute
it. Models differ by mark as well as by colour. The colour scale varies in lightness only.
"""

LIGHT = {
    "ground": "#fbfaf7", "card": "#ffffff", "ink": "#1b1f24", "muted": "#59606b",
    "line": "#8a9099", "rule": "#e2dfd8", "accent": "#0b63a5", "wash": "#f2f0ea",
    "good": "#03705a", "bad": "#a03346",
}  # fmt: skip
DARK = {
    "ground": "#14171b", "card": "#1b1f25", "ink": "#e9e7e2", "muted": "#a6adb8",
    "line": "#7c848f", "rule": "#333a44", "accent": "#6db3f2", "wash": "#232830",
    "good": "#45c7a0", "bad": "#f58f9c",
}  # fmt: skip
_MODELS_LIGHT = ("#0b63a5", "#b3470c", "#03705a", "#93477d", "#7a6000", "#4a5fc1", "#a03346",
                 "#4d6b1f")  # fmt: skip
_MODELS_DARK = ("#6db3f2", "#f09a63", "#45c7a0", "#e39bcb", "#dcbf55", "#a7a9ff", "#f58f9c",
                "#a9cf72")  # fmt: skip
# even steps of lightness (OKLab), starting near the background
_RAMP_LIGHT = ("#f1f4f3", "#d6e5e8", "#bcd5dc", "#a1c6d1", "#88b6c7", "#72a6c0", "#5d95b8",
               "#4785b1", "#3672a2", "#2a5f8f", "#1d4c7d", "#123a6b")  # fmt: skip
_RAMP_DARK = ("#20262e", "#24303f", "#273b50", "#2a4662", "#2f5374", "#386487", "#41759a",
              "#4a87ae", "#629cbf", "#81b4cd", "#a0cbdc", "#bfe3ea")  # fmt: skip
_BLACK, _WHITE = "#0b0d10", "#ffffff"

MARKS = ("o", "s", "^", "D", "v", "P", "X", "p")  # of models, as matplotlib names them
N_MODELS = len(MARKS)
STEPS = len(_RAMP_LIGHT)


def contrast(one: str, other: str) -> float:
    """Contrast ratio of two colours #rrggbb, 1 to 21 (WCAG 2.2)."""
    low, high = sorted((_luminance(one), _luminance(other)))
    return (high + 0.05) / (low + 0.05)


def _luminance(colour: str) -> float:
    parts = (int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5))
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def _theme(base: dict[str, str], models: tuple[str, ...], ramp: tuple[str, ...]) -> dict[str, str]:
    return {
        **base,
        **{f"m{i}": colour for i, colour in enumerate(models)},
        **{f"h{i}": colour for i, colour in enumerate(ramp)},
        **{
            f"t{i}": _BLACK if contrast(_BLACK, colour) > contrast(_WHITE, colour) else _WHITE
            for i, colour in enumerate(ramp)
        },
    }


THEMES = {
    "light": _theme(LIGHT, _MODELS_LIGHT, _RAMP_LIGHT),
    "dark": _theme(DARK, _MODELS_DARK, _RAMP_DARK),
}
NAMES = tuple(THEMES["light"])


def variables() -> str:
    """CSS of the themes: the reader's choice (data-theme), or else the system's."""
    light, dark = (
        "".join(f"--{name}:{colour};" for name, colour in theme.items())
        for theme in (THEMES["light"], THEMES["dark"])
    )
    return (
        f":root{{color-scheme:light;{light}}}"
        f"@media(prefers-color-scheme:dark){{:root:not([data-theme=light])"
        f"{{color-scheme:dark;{dark}}}}}"
        f":root[data-theme=dark]{{color-scheme:dark;{dark}}}"
    )


def step(value: float, low: float, high: float) -> int:
    """Index on the colour scale of a value between ``low`` and ``high``."""
    share = (value - low) / (high - low) if high > low else 0.5
    return min(max(round(share * (STEPS - 1)), 0), STEPS - 1)
