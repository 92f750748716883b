"""The look of report.html."""

CSS = """
:root{--ink:#1b2330;--soft:#5d6878;--line:#e3e7ee;--paper:#fff;--right:#1f9d55;--wrong:#d64545;
color-scheme:light}
*{box-sizing:border-box}
body{margin:0;background:#f4f6f9;color:var(--ink);
font:15px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"DejaVu Sans",sans-serif}
main{max-width:1180px;margin:0 auto;padding:36px 24px 80px}
header h1{font-size:30px;margin:0;letter-spacing:-.02em}
header p,.note{color:var(--soft);margin:4px 0 0;max-width:75ch}
section{background:var(--paper);border:1px solid var(--line);border-radius:14px;
padding:24px 28px;margin-top:22px;overflow-x:auto}
h2{font-size:20px;margin:0 0 6px;letter-spacing:-.01em}
h3{font-size:16px;margin:26px 0 8px}
.tiles{display:flex;flex-wrap:wrap;gap:14px;margin-top:20px}
.tile{background:var(--paper);border:1px solid var(--line);border-radius:14px;padding:14px 20px;
flex:1 1 200px}
.tile b{display:block;font-size:32px;letter-spacing:-.03em;line-height:1.2;
font-variant-numeric:tabular-nums}
.tile span{color:var(--soft);font-size:13px}
.tile.main{background:#22375f;border-color:#22375f;color:#fff}
.tile.main span{color:#c6d2ea}
table.numbers{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums;
font-size:14px;margin-top:8px}
.numbers th,.numbers td{padding:6px 12px;text-align:right;border-bottom:1px solid var(--line);
white-space:nowrap}
.numbers th{color:var(--soft);font-weight:500}
.numbers th:first-child,.numbers td:first-child{text-align:left}
.numbers tr.mean td{font-weight:700;border-bottom:0;border-top:2px solid var(--ink)}
.numbers small{color:var(--soft);font-weight:400;margin-left:6px}
.charts{display:flex;flex-wrap:wrap;gap:12px 28px;margin-top:8px}
.charts figure{margin:0}.charts figcaption{font-weight:600;margin-bottom:6px}
svg{max-width:100%;height:auto}
svg text{font-size:12.5px;fill:var(--ink)}
svg text.strong{font-weight:700}
svg text.tick{fill:var(--soft);font-size:11px}
svg text.value{font-size:11px;fill:var(--soft)}
svg .grid{stroke:var(--line)}
svg .ends{stroke:var(--ink);stroke-width:1.3;opacity:.75}
.legend{margin:8px 0 10px;display:flex;flex-wrap:wrap;gap:4px 18px;font-size:13px}
.legend i{display:inline-block;width:11px;height:11px;border-radius:3px;margin-right:6px}
table.heat{border-collapse:separate;border-spacing:3px;margin-top:10px;
font-variant-numeric:tabular-nums;font-size:13px}
.heat th{font-weight:500;text-align:right;padding:0 8px}
.heat tr:first-child th{text-align:center;padding:0 4px 4px}
.heat td{width:78px;height:38px;text-align:center;border-radius:6px}
.heat td.own{outline:2px solid #b9c4d8;outline-offset:-2px}
.heat td.sum,.heat th.sum{color:var(--soft)}
.sheet{display:grid;grid-template-columns:repeat(auto-fill,minmax(500px,1fr));gap:10px 24px}
.row{display:flex;gap:5px;align-items:flex-start;padding:6px 0;border-bottom:1px solid var(--line)}
.pic{width:64px;flex:none;text-align:center;font-size:10.5px;line-height:1.25;color:var(--soft);
overflow:hidden}
.pic img{display:block;width:64px;height:64px;object-fit:contain;background:#fff;
border-radius:8px;border:3px solid var(--line)}
.pic.right img{border-color:var(--right)}.pic.wrong img{border-color:var(--wrong)}
.pic.query{margin-right:6px}.pic.query img{border-color:#22375f}
.pic.best{margin-left:auto}.pic.best img{border-style:dashed;border-color:var(--right)}
.pic b{display:block;color:var(--ink);font-weight:600;white-space:nowrap;overflow:hidden;
text-overflow:ellipsis}
.pic em{display:block;color:var(--wrong);font-style:normal}
.map svg circle{opacity:.72}.map svg circle:hover{opacity:1;stroke:#000}
nav{margin-top:14px;font-size:13.5px}nav a{color:#2b56b0;text-decoration:none;margin-right:14px}
footer{color:var(--soft);font-size:12.5px;margin-top:26px}
footer code{white-space:pre-wrap}
@media print{body{background:#fff}section{break-inside:avoid}}
"""
