"""The look of a report."""

CSS = """
:root { --ink: #1d2329; --quiet: #5d6770; --hair: #e2dfd7; --paper: #f7f5f0; --card: #fffefb; --accent:
  #b93d15; }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink);
  font: 17px/1.55 system-ui, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
main { max-width: 1120px; margin: 0 auto; padding: 56px 32px 72px; }
header { max-width: 860px; }
.kicker { margin: 0 0 14px; color: var(--accent); font-size: 14px; font-weight: 600; letter-spacing: .04em; }
h1, h2 { font-family: "Iowan Old Style", "Palatino Linotype", Palatino, "URW Palladio L", Georgia,
  "Liberation Serif", serif;
  font-weight: 600; text-wrap: balance; }
h1 { margin: 0 0 18px; font-size: clamp(32px, 5vw, 50px); line-height: 1.08; letter-spacing: -.015em; }
.lead { margin: 0; font-size: 20px; line-height: 1.5; color: #343c44; text-wrap: pretty; }
.facts { list-style: none; display: grid; grid-template-columns: repeat(auto-fit, minmax(210px, 1fr)); gap: 0;
  margin: 44px 0 0; padding: 0; border-top: 2px solid var(--ink); border-bottom: 1px solid var(--hair); }
.facts li { padding: 18px 20px 20px; border-left: 1px solid var(--hair); display: flex; flex-direction:
  column; }
.facts li:first-child { border-left: 0; padding-left: 0; }
.facts .label { font-size: 14px; font-weight: 600; }
.facts .value { font-size: 33px; white-space: nowrap; font-weight: 650; letter-spacing: -.02em; line-height:
  1.25; color:
  var(--accent);
  font-variant-numeric: tabular-nums; }
.facts .unit { font-size: 16px; font-weight: 500; letter-spacing: 0; color: var(--quiet); }
.facts .note { font-size: 14px; line-height: 1.4; color: var(--quiet); }
section { margin-top: 64px; }
h2 { margin: 0 0 10px; font-size: 30px; line-height: 1.2; }
h2 .number { display: inline-block; min-width: 1.15em; color: var(--accent); }
.text { max-width: 760px; margin: 0 0 24px; text-wrap: pretty; }
.figures { display: grid; grid-template-columns: repeat(2, minmax(0, 1fr)); gap: 24px; }
figure { margin: 0; padding: 20px 22px 18px; background: var(--card); border: 1px solid var(--hair);
  border-radius: 6px;
  display: flex; flex-direction: column; }
figure.wide { grid-column: 1 / -1; }
figure h3 { margin: 0 0 10px; font-size: 17px; line-height: 1.3; }
figure svg { display: block; width: 100%; height: auto; overflow: visible; margin: auto 0; }
figcaption { margin-top: 12px; padding-top: 10px; border-top: 1px solid var(--hair); font-size: 15px;
  line-height: 1.5;
  color: var(--quiet); }
figure.wide figcaption { max-width: none; }
.table { margin-top: 24px; overflow-x: auto; background: var(--card); border: 1px solid var(--hair);
  border-radius: 6px;
  padding: 6px 22px 10px; }
table { width: 100%; border-collapse: collapse; font-size: 15px; font-variant-numeric: tabular-nums
  lining-nums; }
caption { caption-side: bottom; padding: 12px 0 8px; text-align: left; color: var(--quiet); font-size: 15px; }
th, td { padding: 8px 10px; text-align: right; white-space: nowrap; }
tbody th, thead th:first-child { text-align: left; padding-left: 0; }
tbody th { font-weight: 500; }
thead th { font-size: 14px; font-weight: 600; color: var(--quiet); border-bottom: 1.5px solid var(--ink); }
thead .groups th { border-bottom: 1px solid var(--hair); text-align: center; padding-bottom: 4px; color:
  var(--ink); }
tbody tr + tr > * { border-top: 1px solid var(--hair); }
tr.marked > * { color: var(--accent); font-weight: 650; }
dl { display: grid; grid-template-columns: repeat(2, minmax(0, 1fr)); gap: 0 40px; margin: 0; border-top: 1px
  solid var(--hair); }
dl div { padding: 10px 0; border-bottom: 1px solid var(--hair); }
dt { font-size: 14px; color: var(--quiet); }
dd { margin: 0; font-variant-numeric: tabular-nums; overflow-wrap: anywhere; }
footer { margin-top: 64px; padding-top: 16px; border-top: 1px solid var(--hair); color: var(--quiet);
  font-size: 14px; }
@media (max-width: 760px) {
  main { padding: 32px 18px 48px; }
  .figures, dl { grid-template-columns: minmax(0, 1fr); }
  figure { padding: 16px 14px; }
  .facts li { border-left: 0; border-top: 1px solid var(--hair); padding-left: 0; }
}
@media print { body { background: #fff; } figure, .table { break-inside: avoid; } main { padding: 0; } }
"""
"""One style sheet: light, no script, no font to fetch."""
