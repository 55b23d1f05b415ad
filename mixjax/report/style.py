"""The page's style sheet. Colours are variables, set once for light and once for dark."""

from __future__ import annotations

# The baseline (grey), then six colours for the methods. Chosen by search: each at least 3:1 on its
# ground, and any two apart for normal, protan, deutan and tritan sight (a test computes both).
LIGHT = ('#6b7076', '#1e40a3', '#ba7701', '#2e7e40', '#a50500', '#683b75', '#1996f3')
DARK = ('#9aa0a6', '#5b92ff', '#d9be36', '#3ee28c', '#c46f3f', '#a25faa', '#c7eeff')
GROUND_LIGHT, GROUND_DARK = '#fdfdfc', '#15171a'


def _colours(colours: tuple[str, ...]) -> str:
    return ' '.join(f'--c{index}: {colour};' for index, colour in enumerate(colours))


LIGHT_MODE = f"""
  --ground: {GROUND_LIGHT}; --ink: #1b1d20; --soft: #595f66; --rule: #e3e3de; --panel: #f4f4f1; --mark: #1e40a3;
  {_colours(LIGHT)}
"""
DARK_MODE = f"""
  --ground: {GROUND_DARK}; --ink: #e8e8e5; --soft: #a5abb2; --rule: #30343a; --panel: #1f2226; --mark: #8db4ff;
  {_colours(DARK)}
"""

CHART = """
.chart text { fill: var(--soft); }
.chart .axis { font-size: 11.5px; fill: var(--ink); }
.chart .rule { stroke: var(--rule); stroke-width: 1; }
.chart .line { fill: none; stroke: var(--c); stroke-width: 2; stroke-linejoin: round; stroke-linecap: round; }
.chart .band { fill: var(--c); opacity: 0.13; stroke: none; }
.chart .lead { fill: none; stroke: var(--c); stroke-width: 1; opacity: 0.6; }
.chart .dot { fill: var(--c); fill-opacity: 0.55; stroke: var(--c); stroke-width: 1.2; }
.chart .mean { stroke: var(--c); stroke-width: 2.5; stroke-linecap: round; }
.chart .end { fill: var(--c); }
.chart .name { fill: var(--ink); font-weight: 500; }
.chart .reference { stroke: var(--soft); stroke-width: 1; stroke-dasharray: 3 3; }
.chart .bar { fill: var(--c); }
.chart .cell { fill: var(--mark); }
.chart .right { fill: none; stroke: var(--rule); }
.chart .count { fill: var(--ink); }
.chart .point { fill: var(--c); fill-opacity: 0.6; }
.chart .over { fill: var(--ink); font-weight: 650; paint-order: stroke; stroke: var(--ground); stroke-width: 3; }
.chart .dash .line { stroke-dasharray: 6 4; stroke-linecap: butt; }
"""

BODY = """
*, *::before, *::after { box-sizing: border-box; }
html { color-scheme: light dark; -webkit-text-size-adjust: 100%; text-size-adjust: 100%; }
body { margin: 0; background: var(--ground); color: var(--ink); overflow-wrap: anywhere;
  font: 1rem/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue",
    "Liberation Sans", Arial, sans-serif; }
main, body > header { max-width: 70rem; margin: 0 auto; padding: 0 clamp(1rem, 4vw, 2.5rem); }
body > header { padding-top: clamp(1.5rem, 5vw, 3.5rem); }
main { padding-bottom: 5rem; }
h1, h2, h3 { line-height: 1.2; font-weight: 650; text-wrap: balance; margin: 0; }
h1 { font-size: clamp(1.5rem, 4vw, 2.1rem); letter-spacing: -0.015em; }
h2 { font-size: 1.3rem; margin: 3.5rem 0 1rem; letter-spacing: -0.01em; }
h3 { font-size: 1.05rem; margin: 2.5rem 0 0.8rem; }
p { margin: 0.6rem 0; max-width: 42rem; }
a { color: var(--mark); text-underline-offset: 0.2em; text-decoration-thickness: 1px; }
:focus-visible { outline: 2px solid var(--mark); outline-offset: 3px; border-radius: 2px; }
.sub, .note { color: var(--soft); }
.note { font-size: 0.9rem; }
nav ul { list-style: none; display: flex; flex-wrap: wrap; gap: 0.3rem 1.4rem; margin: 1.2rem 0 0; padding: 0; }
nav a { display: inline-block; padding: 0.25rem 0; }
section.folder + section.folder { border-top: 2px solid var(--rule); margin-top: 4rem; }
section.closed + section.closed { border: 0; margin: 0; }
section.closed > details { margin: 0; }
section.closed summary h2 { display: inline; font-size: 1rem; font-weight: 500; }
section.folder > h2 { font-size: 1.6rem; margin-top: 2.5rem; }

.answer { border-left: 4px solid var(--mark); padding: 0.2rem 0 0.2rem 1.3rem; margin: 2rem 0 0; }
.answer .headline { font-size: clamp(1.25rem, 3.2vw, 1.7rem); line-height: 1.3; font-weight: 600; margin: 0 0 1rem;
  text-wrap: balance; }
.answer dl { display: flex; flex-wrap: wrap; gap: 1rem 3rem; margin: 0 0 1rem; }
.answer dl > div { max-width: 24rem; display: flex; flex-direction: column-reverse; justify-content: flex-end; }
.answer dt { color: var(--soft); font-size: 0.9rem; line-height: 1.4; }
.answer dd { margin: 0; font-size: 1.6rem; font-weight: 600; font-variant-numeric: tabular-nums; white-space: nowrap; }

.filters { margin: 2rem 0 0; }
.filters fieldset { border: 0; padding: 0; margin: 0 0 0.7rem; min-width: 0; }
.filters legend { color: var(--soft); font-size: 0.9rem; padding: 0; }
.boxes { display: flex; flex-wrap: wrap; gap: 0 1.3rem; }
.boxes label { display: inline-flex; align-items: center; gap: 0.4rem; padding: 0.35rem 0; cursor: pointer; }
.boxes input { width: 1.1rem; height: 1.1rem; margin: 0; accent-color: var(--mark); }
button { font: inherit; color: var(--mark); background: none; border: 1px solid var(--rule); border-radius: 6px;
  padding: 0.3rem 0.9rem; cursor: pointer; }
.runs { display: flex; flex-direction: column; counter-reset: shown; margin-top: 1.5rem; }
.runs .scroll { order: 1; }
.runs .line { counter-increment: shown; }
.runs .now::before { content: counter(shown); }
.runs [scope="rowgroup"] span { position: sticky; left: 0; display: inline-block; max-width: calc(100vw - 2.2rem); }
.runs td:last-child { white-space: nowrap; color: var(--soft); font-weight: 400; }
.runs [scope="rowgroup"] { padding-top: 1.6rem; color: var(--soft); border-bottom-color: var(--soft); }

.two { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 24rem), 1fr)); gap: 2rem 3rem;
  align-items: start; }
.two > * { min-width: 0; }
/* A table before a picture: the last of its columns, the difference, is not to be cut off. */
@media (min-width: 64rem) { .two.broad { grid-template-columns: minmax(0, max-content) minmax(24rem, 1fr); } }
.stack { display: grid; gap: 2rem; grid-template-columns: minmax(0, 1fr); }
/* A shade at the side where there is more to see. */
.scroll { overflow-x: auto; background:
  linear-gradient(to right, var(--ground) 30%, transparent) 0 0 / 2.5rem 100% no-repeat local,
  linear-gradient(to left, var(--ground) 30%, transparent) 100% 0 / 2.5rem 100% no-repeat local,
  linear-gradient(to right, var(--rule), transparent) 0 0 / 1rem 100% no-repeat scroll,
  linear-gradient(to left, var(--rule), transparent) 100% 0 / 1rem 100% no-repeat scroll; }
table { border-collapse: collapse; overflow-wrap: break-word; font-variant-numeric: tabular-nums; font-size: 0.95rem;
  min-width: min(100%, 20rem); }
caption { text-align: left; color: var(--soft); font-size: 0.9rem; padding: 0 0 0.5rem;
  max-width: min(42rem, 100vw - 2.2rem); }
th, td { text-align: left; vertical-align: top; padding: 0.42rem 1.2rem 0.42rem 0;
  border-bottom: 1px solid var(--rule); }
th:last-child, td:last-child { padding-right: 0.2rem; }
thead th { font-weight: 500; color: var(--soft); font-size: 0.85rem; border-bottom-color: var(--soft);
  vertical-align: bottom; }
tbody th { font-weight: 500; }
.num { text-align: right; }
td.num { white-space: nowrap; }
tr.best > * { font-weight: 700; }
details { margin: 1rem 0; }
summary { cursor: pointer; color: var(--mark); padding: 0.3rem 0; width: fit-content; }
pre { background: var(--panel); border-radius: 6px; padding: 1rem 1.2rem; overflow: auto; max-height: 34rem;
  margin: 0.8rem 0; font: 0.85rem/1.5 ui-monospace, "SF Mono", Menlo, Consolas, "Liberation Mono", monospace; }

figure { margin: 0; }
figcaption { font-size: 0.9rem; }
.plot figcaption { color: var(--soft); max-width: 32rem; margin-top: 0.4rem; }
.chart { display: block; width: 100%; max-width: 34rem; height: auto; overflow: visible; font-size: 11.5px;
  font-variant-numeric: tabular-nums; }
CHART_RULES

img { display: block; width: 100%; height: auto; border-radius: 3px; background: var(--panel); }
.pixels { image-rendering: pixelated; border-radius: 1px; }
.pairs { list-style: none; margin: 1rem 0; padding: 0; display: grid; gap: 1.5rem 2rem;
  grid-template-columns: repeat(auto-fill, minmax(min(100%, calc(var(--n) * 4.9rem)), 1fr)); }
.pairs .pictures { display: flex; align-items: center; gap: 0.5rem; }
.pairs img { width: auto; flex: 0 1 4rem; min-width: 0; }
.pairs .arrow { color: var(--soft); }
.pairs p { margin: 0.4rem 0 0; font-size: 0.9rem; line-height: 1.4; }
.pairs .value { color: var(--soft); font-variant-numeric: tabular-nums; }
.matrix { max-width: 30rem; }
.mistakes { list-style: none; margin: 0.8rem 0 1.6rem; padding: 0; display: grid; gap: 1.2rem 1rem;
  grid-template-columns: repeat(auto-fill, minmax(5.6rem, 1fr)); max-width: 54rem; }
.mistakes p { margin: 0.3rem 0 0; font-size: 0.85rem; line-height: 1.35; }
.mistakes .value { color: var(--soft); font-variant-numeric: tabular-nums; }
.samples { margin: 1.6rem 0 2.2rem; max-width: 54rem; --cell: 5rem; }
.samples.large { --cell: 7.5rem; }
.samples .row { display: grid; grid-template-columns: 6rem repeat(var(--n), minmax(0, var(--cell))); gap: 0.4rem;
  align-items: center; margin-top: 0.4rem; }
.samples .what, .samples .label { color: var(--soft); font-size: 0.85rem; line-height: 1.2; }
.samples .label { text-align: center; overflow: hidden; text-overflow: ellipsis; white-space: nowrap; }
.samples .label bdi { display: block; overflow: hidden; text-overflow: ellipsis; }
@media (max-width: 40rem) {
  .two { gap: 2.5rem; }
  th, td { padding-right: 0.8rem; }
  .runs table { font-size: 0.82rem; }
  .runs th, .runs td { padding-right: 0.5rem; }
  .runs thead th, .runs tbody .note { font-size: inherit; }
  .runs tbody th[scope="row"] { min-width: 6.2rem; max-width: 6.2rem; overflow-wrap: break-word; }
  table { font-size: 0.9rem; }
  .answer { padding-left: 1rem; }
  .pairs { gap: 1.4rem 1rem; grid-template-columns: repeat(auto-fill, minmax(max(9.8rem, var(--n) * 3.4rem), 1fr)); }
  .samples .row { grid-template-columns: repeat(var(--n), minmax(0, 1fr)); gap: 0.25rem; }
  .samples .what { grid-column: 1 / -1; margin-top: 0.3rem; }
}
@media print { details { break-inside: avoid; } .chart, .pairs li, .samples { break-inside: avoid; } }
"""


def _variables() -> str:
    return f':root {{{LIGHT_MODE}}}\n@media (prefers-color-scheme: dark) {{ :root {{{DARK_MODE}}} }}'


def _chart() -> str:
    classes = '\n'.join(f'.c{index} {{ --c: var(--c{index}); }}' for index in range(len(LIGHT)))
    return f'{CHART.strip()}\n{classes}\n'


def sheet() -> str:
    """Return the whole style sheet."""
    return _variables() + BODY.replace('CHART_RULES\n', _chart())


def of_chart(mode: str | None = None) -> str:
    """Return the part of the style sheet that a chart in a separate file needs.

    mode: `LIGHT_MODE` or `DARK_MODE`, on the ground of the page around it; None follows the reader's, on its own.
    """
    font = 'font: 11.5px system-ui, -apple-system, "Segoe UI", "Liberation Sans", Arial, sans-serif;'
    ground = 'var(--ground)' if mode is None else 'none'
    variables = _variables() if mode is None else f':root {{{mode}}}'
    return f'{variables}\nsvg {{ {font} background: {ground}; }}\n{_chart()}'
