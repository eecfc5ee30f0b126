"""The pieces that the status page is drawn from. Everything that comes from a file or a caller is escaped here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from html import escape
from typing import Any

from services.gateway.status_words import clock, ms, number, percent, span

Json = dict[str, Any]
Plot = Sequence[Json]

STYLE = """
:root{color-scheme:light dark;--bg:#fff;--fg:#1b1f24;--dim:#667080;--line:#e3e6ea;--card:#f6f7f9;--good:#1a7f37;
--bad:#c62828;--warn:#9a6700;--plot:#3b6fd4;--badbg:#fdecec}
@media(prefers-color-scheme:dark){:root{--bg:#14171b;--fg:#e4e7eb;--dim:#8d97a5;--line:#2b3037;--card:#1c2026;
--good:#4cc26a;--bad:#ff6b6b;--warn:#e0a940;--plot:#79a6ff;--badbg:#3a1d20}}
*{box-sizing:border-box}
body{font:14px/1.45 system-ui,-apple-system,"Segoe UI",sans-serif;margin:0 auto;padding:1.2rem 1.6rem;
max-width:1500px;background:var(--bg);color:var(--fg)}
h1{font-size:1.25rem;margin:0}h2{font-size:1.05rem;margin:0 1rem 0 0;display:inline-block}
b.good,.good{color:var(--good)}b.bad,.bad{color:var(--bad)}.warn{color:var(--warn)}.dim,.facts{color:var(--dim)}
.facts{margin:.15rem 0 1rem}a{color:inherit}
.tiles{display:flex;flex-wrap:wrap;gap:.7rem;margin:0 0 1.1rem}
.tile{background:var(--card);border-radius:8px;padding:.55rem .9rem;min-width:104px}
.tile span{display:block;color:var(--dim);font-size:.8rem}.tile strong{font-size:1.3rem;font-weight:600;
font-variant-numeric:tabular-nums}.tile small{color:var(--dim)}
.charts{display:grid;grid-template-columns:1fr 1fr;gap:.7rem;margin:-.4rem 0 1.2rem}
.chart{background:var(--card);border-radius:8px;padding:.55rem .9rem}.chart svg{width:100%;margin:.3rem 0 .1rem}
.chart div{display:flex;justify-content:space-between;color:var(--dim);font-size:.8rem}
@media(max-width:800px){.charts{grid-template-columns:1fr}}
svg *{vector-effect:non-scaling-stroke}
svg{display:block}svg .a{fill:var(--plot);opacity:.18}svg .l{fill:none;stroke:var(--plot);stroke-width:1.4}
svg .e{fill:none;stroke:var(--bad);stroke-width:1.4}
.scroll{overflow-x:auto}
table{border-collapse:collapse;width:100%;margin:.5rem 0 1.2rem;font-variant-numeric:tabular-nums}
th{color:var(--dim);font-weight:500;font-size:.8rem;text-align:left;border-bottom:1px solid var(--line)}
td,th{padding:.22rem .5rem;white-space:nowrap;vertical-align:middle}td.n,th.n{text-align:right}
tr.t td,tr.f td{border-top:1px solid var(--line)}tr.t td:first-child{font-weight:600}
tr.i td{color:var(--dim);font-size:.92em;
padding-top:.08rem;padding-bottom:.08rem}
tr.i td:first-child{padding-left:1.6rem}
tr.i td.bad{color:var(--bad)}tr.i td.warn{color:var(--warn)}
.js tr.t{cursor:pointer}.js tbody.closed tr.i{display:none}
.bar{display:inline-block;height:.55em;background:var(--plot);opacity:.55;border-radius:2px;vertical-align:middle;
margin-right:.4em}
pre.problems{background:var(--badbg);color:var(--bad);padding:.7rem .9rem;border-radius:8px;white-space:pre-wrap;
margin:0 0 1.1rem}
td.text{white-space:normal;min-width:260px;max-width:560px;overflow-wrap:anywhere}
input[type=search]{font:inherit;padding:.25rem .6rem;border:1px solid var(--line);border-radius:6px;
background:var(--bg);color:var(--fg);width:240px;margin-right:1rem}
footer{color:var(--dim);border-top:1px solid var(--line);padding:.6rem 0;font-size:.9em}footer a{margin-right:1rem}
main.stale{opacity:.45}
"""

# Replaces the middle every two seconds: what was typed, and which tasks were opened or closed, stays.
SCRIPT = """
(()=>{const m=document.getElementById('m'),own=new Map();let busy=false;document.body.classList.add('js');
const q=()=>document.getElementById('q');
function keep(){for(const b of m.querySelectorAll('tbody[data-t]')){const o=own.get(b.dataset.t);
if(o!==undefined)b.classList.toggle('closed',!o)}}
async function go(){if(busy||document.hidden)return;busy=true;try{const p=new URLSearchParams(location.search);
q().value?p.set('q',q().value):p.delete('q');p.set('part','1');const r=await fetch('/?'+p);
if(!r.ok)throw r.status;const t=await r.text(),i=q(),
v=i.value,f=document.activeElement===i,s=[i.selectionStart,i.selectionEnd];
if(getSelection().toString()&&!f)return;
m.innerHTML=t;keep();q().value=v;if(f){q().focus();q().setSelectionRange(...s)}m.classList.remove('stale')}
catch(e){m.classList.add('stale')}finally{busy=false}}
m.addEventListener('click',e=>{const b=e.target.closest('tr.t')?.closest('tbody');if(!b)return;
b.classList.toggle('closed');own.set(b.dataset.t,!b.classList.contains('closed'))});
m.addEventListener('submit',e=>{e.preventDefault();go()});let w;
m.addEventListener('input',()=>{clearTimeout(w);w=setTimeout(go,200)});
document.addEventListener('visibilitychange',go);setInterval(go,2000)})()
"""

_WIDTH, _HEIGHT = 96, 22
_OPEN = 6  # tasks or fewer show their instances at once
_TROUBLE = {
    "no instance": "bad",
    "down": "bad",
    "failing": "bad",
    "errors": "warn",
    "degraded": "warn",
    "": "good",
}


def problems(lines: Sequence[str]) -> str:
    return f"<pre class=problems>{escape(chr(10).join(lines))}</pre>" if lines else ""


def totals(document: Json) -> str:
    short, long = document["total"]["last_10s"], document["total"]["last_60s"]
    plot = document.get("plots", {}).get("", [])
    gateway = document["gateway"]
    tiles = (
        ("requests/s", number(short["rate"]), f"{number(long['rate'])} over a minute", ""),
        (
            "errors",
            percent(short["error_ratio"]),
            f"{percent(long['error_ratio'])} over a minute",
            _mood(short),
        ),
        ("p50", ms(short["p50_ms"]), f"{ms(long['p50_ms'])} over a minute", ""),
        ("p99", ms(short["p99_ms"]), f"{ms(long['p99_ms'])} over a minute", ""),
        ("in flight", number(gateway["in_flight"]), f"{gateway['connections']} connections", ""),
    )
    drawn = "".join(
        f"<div class=tile><span>{name}</span><strong class='{mood}'>{value}</strong><br><small>{more}</small></div>"
        for name, value, more, mood in tiles
    )
    return (
        f"<div class=tiles>{drawn}</div><div class=charts>"
        + _chart("requests/s, errors/s", plot, ("rate", "error_rate"), number)
        + _chart("p99", plot, ("p99_s",), lambda seconds: ms(seconds * 1000))
        + "</div>"
    )


def _chart(title: str, plot: Plot, keys: Sequence[str], said: Callable[[float], str]) -> str:
    highest = max((point[key] or 0 for point in plot for key in keys), default=0)
    drawn = spark(plot, keys, width=600, height=70).replace("<svg", "<svg preserveAspectRatio=none", 1)
    return (
        f"<div class=chart><div><span>{title}</span><span>highest {said(highest)}</span></div>{drawn}"
        "<div><span>5 minutes ago</span><span>now</span></div></div>"
    )


def spark(
    plot: Plot, keys: Sequence[str], *, width: int = _WIDTH, height: int = _HEIGHT, points: int = 60
) -> str:
    """A small plot, the newest point at the right. The first key is drawn as an area, a second one in red."""
    highest = max((point[key] or 0 for point in plot for key in keys), default=0)
    if not highest:
        return f'<svg width={width} height={height} viewBox="0 0 {width} {height}"></svg>'
    step = width / (points - 1)
    start = (points - len(plot)) * step
    drawn = []
    for key, line in zip(keys, ("l", "e"), strict=False):
        values = [
            (start + n * step, height - 1 - (height - 3) * (point[key] or 0) / highest)
            for n, point in enumerate(plot)
        ]
        if line == "e" and not any(point[key] for point in plot):
            continue
        text = " ".join(f"{x:.1f},{y:.1f}" for x, y in values)
        if line == "l":
            drawn.append(
                f'<polygon class=a points="{values[0][0]:.1f},{height} {text} {values[-1][0]:.1f},{height}"/>'
            )
        drawn.append(f'<polyline class={line} points="{text}"/>')
    return f'<svg width={width} height={height} viewBox="0 0 {width} {height}">{"".join(drawn)}</svg>'


def tasks(document: Json, names: Sequence[str]) -> str:
    if not names:
        return "<p class=dim>No task matches.</p>"
    head = (
        "<tr><th>task<th>state<th class=n>requests/s<th class=n>errors<th class=n>p50<th class=n>p99"
        "<th class=n>in flight<th class=n>weight<th>calls and errors<th>p99<th class=n>timeout</tr>"
    )
    bodies = [_task(document, name, few=len(names) <= _OPEN) for name in names]
    return f"<div class=scroll><table><thead>{head}</thead>{''.join(bodies)}</table></div>"


def _task(document: Json, name: str, *, few: bool) -> str:
    task = document["tasks"][name]
    short, plot = task["last_10s"], document.get("plots", {}).get(name, [])
    instances = [(pool, instance) for pool in task["pools"] for instance in pool["instances"]]
    up = sum(instance["health"] == "healthy" for _, instance in instances)
    reasons = ", ".join(f"{reason}: {count}" for reason, count in task["reasons"].items())
    state = task["trouble"] or "well"
    row = (
        f"<tr class=t><td>{escape(name)}<td class={_TROUBLE[task['trouble']]}>{escape(state)}"
        f"<span class=dim> {up} of {len(instances)} up</span>"
        f"<td class=n>{number(short['rate'])}<td class='n {_mood(short)}' title='{escape(reasons)}'>"
        f"{percent(short['error_ratio'])}<td class=n>{ms(short['p50_ms'])}<td class=n>{ms(short['p99_ms'])}"
        f"<td class=n>{sum(i['in_flight'] for _, i in instances)}<td class=n>"
        f"<td>{spark(plot, ('rate', 'error_rate'))}<td>{spark(plot, ('p99_s',))}"
        f"<td class=n>{ms(task['timeout_ms'])}</tr>"
    )
    rows = "".join(_instance(pool, instance) for pool, instance in instances)
    if not task["instances"]:
        rows += (
            f"<tr class=i><td colspan=11 class=bad>no instance: {escape(', '.join(task['configured']))}"
            " has no address</tr>"
        )
    closed = "" if few or task["trouble"] else " class=closed"
    return f"<tbody data-t='{escape(name)}'{closed}>{row}{rows}</tbody>"


def _instance(pool: Json, instance: Json) -> str:
    role = pool["role"] + (f" {pool['percent']:g} %" if "percent" in pool else "")
    where = [] if role == "main" else [role]
    if instance["from"]:
        where.append("fallback")
    mood = "" if instance["health"] == "healthy" else "bad"
    weight = instance["weight"]
    full = "" if weight == instance["full_weight"] else f" of {instance['full_weight']}"
    bar = f"<i class=bar style='width:{round(instance['share'] * 60)}px'></i>{percent(instance['share'])}"
    return (
        f"<tr class=i><td title='{escape(instance['from'] or pool['name'])}'>{escape(instance['address'])}"
        f"<span class=dim> {escape(', '.join(where))}</span>"
        f"<td class='{mood}'>{escape(instance['health'])}<td class=n>{number(instance['rate'])}"
        f"<td class='n {_mood(instance)}'>{percent(instance['error_ratio'])}"
        f"<td class=n title='mean'>{ms(instance['mean_ms'])}<td class=n>"
        f"<td class=n>{instance['in_flight']}<td class='n {'warn' if full else ''}'>{weight}{full}"
        f"<td>{bar if instance['rate'] else ''}<td><td></tr>"
    )


def failed_calls(calls: Sequence[Json], now: float) -> str:
    """Like calls in one row, the newest first."""
    if not calls:
        return "<h2>Failed calls</h2><p class=dim>None yet.</p>"
    alike: dict[tuple[str, ...], list[Json]] = {}
    for call in calls:
        key = tuple(call[field] for field in ("task", "status", "reason", "instance", "message", "details"))
        alike.setdefault(key, []).append(call)
    rows = "".join(_failed_call(group[0], len(group), now) for group in alike.values())
    return (
        f"<h2>Failed calls</h2><span class=dim>the last {len(calls)}, like ones together</span><div class=scroll>"
        "<table><thead><tr><th>last<th class=n>calls<th>task<th>status<th>reason<th class=n>took<th>instance"
        f"<th>caller<th>message</tr></thead><tbody>{rows}</tbody></table></div>"
    )


def _failed_call(call: Json, count: int, now: float) -> str:
    return (
        f"<tr class=f><td title='{escape(clock(call['time']))}'>{span(now - call['time'])} ago<td class=n>{count}"
        f"<td>{escape(call['task']) or '-'}<td class=bad>{escape(call['status'])}<td>{escape(call['reason'])}"
        f"<td class=n>{ms(call['duration_ms'])}<td>{escape(call['instance']) or '-'}<td>{escape(call['caller'])}"
        f"<td class=text>{escape(call['message'])}<span class=dim> {escape(call['details'])}</span></tr>"
    )


def certificates(found: Sequence[Json], now: float) -> str:
    if not found:
        return ""
    rows = "".join(
        f"<tr><td>{escape(c['file'])}<td>{escape(clock(c['expires_at']))}"
        f"<td class='{'bad' if c['expires_at'] - now < 14 * 86400 else ''}'>in {span(c['expires_at'] - now)}</tr>"
        for c in found
    )
    return f"<h2>Certificates</h2><table><tr><th>file<th>expires<th></tr>{rows}</table>"


def _mood(window: Json) -> str:
    ratio = window["error_ratio"]
    return "bad" if ratio >= 0.05 else "warn" if ratio >= 0.01 else ""
