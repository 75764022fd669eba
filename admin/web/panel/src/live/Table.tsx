// The table of live sessions: of hundreds only those in sight are drawn, and of those only what changed.
import { Component } from "preact";
import { useEffect, useLayoutEffect, useRef, useState } from "preact/hooks";
import { Link, navigate } from "../router";
import { S } from "../strings/live";
import type { Doing, Live } from "../types";
import { Badge, Icon, Ms, Time, type IconName, type Tone } from "../ui";
import { windowOf } from "./board";

const ROW = 52;
export const DOING: Record<Doing, { icon: IconName; tone: Tone }> = {
  listening: { icon: "ear", tone: "plain" }, user_speaking: { icon: "talk", tone: "user" }, thinking: { icon: "latency", tone: "warn" },
  tool: { icon: "tool", tone: "warn" }, speaking: { icon: "say", tone: "agent" },
};

export function LiveTable({ rows, open, hrefOf }: { rows: readonly Live[]; open: string | null; hrefOf: (id: string) => string }) {
  const frame = useRef<HTMLDivElement>(null), body = useRef<HTMLTableSectionElement>(null);
  const [view, setView] = useState({ top: 0, height: 600 });
  const [at, setAt] = useState<string | null>(null);
  const wanted = useRef<string | null>(null);
  useEffect(() => {
    const box = frame.current!;
    const look = () => setView({ top: box.scrollTop, height: box.clientHeight });
    look();
    box.addEventListener("scroll", look, { passive: true });
    const seen = new ResizeObserver(look);
    seen.observe(box);
    return () => { box.removeEventListener("scroll", look); seen.disconnect(); };
  }, []);
  const { first, last } = windowOf(view.top, view.height, ROW, rows.length);
  const stop = rows.some((row, i) => row.id === at && i >= first && i < last) ? at : rows[Math.min(rows.length - 1, Math.ceil(view.top / ROW))]?.id ?? null;
  useLayoutEffect(() => {
    if (wanted.current === null) return;
    const link = body.current!.querySelector<HTMLElement>(`[data-id="${CSS.escape(wanted.current)}"] .row-open`);
    if (link) { wanted.current = null; link.focus({ preventScroll: true }); }
  });
  const key = (event: KeyboardEvent) => {
    const id = (event.target as Element).closest("tr")?.dataset["id"];
    const i = rows.findIndex((row) => row.id === id);
    if (i < 0 || event.ctrlKey || event.metaKey || event.altKey) return;
    const page = Math.max(1, Math.floor(view.height / ROW) - 1);
    const next = { ArrowDown: i + 1, j: i + 1, ArrowUp: i - 1, k: i - 1, Home: 0, End: rows.length - 1, PageDown: i + page, PageUp: i - page }[event.key];
    if (next === undefined) return;
    event.preventDefault();
    const to = Math.min(rows.length - 1, Math.max(0, next)), row = rows[to]!;
    setAt(row.id);
    wanted.current = row.id;
    const box = frame.current!, head = box.querySelector("thead")!.offsetHeight;
    if (to * ROW < box.scrollTop) box.scrollTop = to * ROW;
    else if ((to + 1) * ROW > box.scrollTop + box.clientHeight - head) box.scrollTop = (to + 1) * ROW - box.clientHeight + head;
  };
  const click = (event: MouseEvent) => {
    if ((event.target as Element).closest("a") || getSelection()?.toString()) return;
    const id = (event.target as Element).closest("tr")?.dataset["id"];
    if (id) navigate(hrefOf(id));
  };
  return (
    <div class="live-frame" ref={frame} tabIndex={-1}>
      <table class="table live-table opens" aria-rowcount={rows.length + 1}>
        <caption class="hidden-visually">{S.sessions}</caption>
        <colgroup><col class="c-agent" /><col class="c-doing" /><col class="c-last" /><col class="c-response" /><col class="c-n wide-only" /><col class="c-n wide-only" /><col class="c-who" /><col class="c-started wide-only" /></colgroup>
        <thead>
          <tr>
            <th scope="col">{S.col.agent}</th><th scope="col">{S.col.doing}</th><th scope="col">{S.col.last}</th><th scope="col" class="right">{S.col.response}</th>
            <th scope="col" class="right wide-only">{S.col.turns}</th><th scope="col" class="right wide-only">{S.col.interruptions}</th><th scope="col">{S.col.who}</th><th scope="col" class="wide-only">{S.col.started}</th>
          </tr>
        </thead>
        <tbody ref={body} onKeyDown={key} onClick={click}>
          {first > 0 && <tr class="filler" aria-hidden="true"><td colSpan={8} style={{ height: `${first * ROW}px` }} /></tr>}
          {rows.slice(first, last).map((row, i) => (
            <Row key={row.id} row={row} index={first + i + 2} open={row.id === open} stop={row.id === stop} href={hrefOf(row.id)} />
          ))}
          {last < rows.length && <tr class="filler" aria-hidden="true"><td colSpan={8} style={{ height: `${(rows.length - last) * ROW}px` }} /></tr>}
        </tbody>
      </table>
    </div>
  );
}

interface RowProps { row: Live; index: number; open: boolean; stop: boolean; href: string }

class Row extends Component<RowProps> {
  override shouldComponentUpdate(next: RowProps): boolean {
    const now = this.props;
    return next.row !== now.row || next.open !== now.open || next.stop !== now.stop || next.index !== now.index || next.href !== now.href;
  }

  override render({ row, index, open, stop, href }: RowProps) {
    const how = DOING[row.doing];
    return (
      <tr class={open ? "current" : ""} data-id={row.id} aria-rowindex={index} aria-current={open || undefined}>
        <td><Link class="row-open" to={href} tabIndex={stop ? 0 : -1}>{row.agent}</Link><div class="quiet live-id">{row.id.slice(-6)}</div></td>
        <td><Badge tone={how.tone} icon={how.icon}>{S.doing[row.doing]}</Badge></td>
        <td class="live-last">
          <div>{row.last_user && <><span class="said-who user">{S.user}</span> {row.last_user}</>}</div>
          <div>{row.last_agent && <><span class="said-who agent">{S.agent}</span> {row.last_agent}</>}</div>
        </td>
        <td class="right"><Ms us={row.last_response_us} /></td>
        <td class="right wide-only">{row.turns}</td>
        <td class="right wide-only">{row.interruptions || ""}{row.errors > 0 && <> <Badge tone="bad" icon="bad">{row.errors}</Badge></>}</td>
        <td>{row.operator !== null && <span class="live-operator" title={row.operator}><Badge tone="operator" icon="account"><span>{row.operator}</span></Badge></span>}{row.listeners > 0 && <span class="live-ears" title={S.listeners(row.listeners)}><Icon name="ear" size={14} label={S.listeners(row.listeners)} />{row.listeners}</span>}</td>
        <td class="wide-only nowrap"><Time at={row.started_at} /></td>
      </tr>
    );
  }
}
