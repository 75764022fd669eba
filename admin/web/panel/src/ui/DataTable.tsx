// Tables: one stop of the Tab key, arrows move from row to row, Enter opens; sorting, export, the next page.
import type { ComponentChildren } from "preact";
import { useEffect, useMemo, useRef, useState } from "preact/hooks";
import { csv, save, type Cell } from "../export";
import { Link } from "../router";
import { S } from "../strings/ui";
import { Button } from "./Button";
import { Empty, Loading } from "./Empty";
import { Icon } from "./Icon";

export interface Column<T> {
  key: string;
  title: string;
  cell: (row: T) => ComponentChildren;
  /** For sorting and export; without it the column is neither. */
  value?: (row: T) => Cell;
  align?: "right";
  /** Not on narrow screens. */
  wideOnly?: boolean;
  /** Takes what is left, and is cut with an ellipsis. */
  grow?: boolean;
  sortable?: boolean;
}

export interface DataTableProps<T> {
  label: string;
  columns: readonly Column<T>[];
  rows: readonly T[] | undefined;
  rowKey: (row: T) => string | number;
  /** Where a row leads to; its first cell is the link. */
  to?: (row: T) => string;
  /** Or what happens when it is opened; its first cell is the button. */
  onOpen?: (row: T) => void;
  /** The row that is open now. */
  current?: string | number | undefined;
  empty?: ComponentChildren;
  loading?: boolean;
  /** There are more: called for the next page. */
  onMore?: (() => void) | undefined;
  /** The name of exported files; without it there is no export. */
  exportName?: string;
  /** What is exported, where that is not `rows` as they are. */
  exportRows?: () => Promise<readonly T[]> | readonly T[];
  rowClass?: (row: T) => string;
}

export function DataTable<T>(props: DataTableProps<T>) {
  const { label, columns, rows, rowKey, to, onOpen, current, empty, loading, onMore, exportName, rowClass } = props;
  const [sort, setSort] = useState<{ key: string; down: boolean }>();
  const [at, setAt] = useState(0);
  const body = useRef<HTMLTableSectionElement>(null);
  const sorted = useMemo(() => sortRows(rows ?? [], columns, sort), [rows, columns, sort]);
  useEffect(() => { if (at >= sorted.length) setAt(Math.max(0, sorted.length - 1)); }, [sorted.length, at]);
  if (!rows) return <Loading lines={6} />;
  if (rows.length === 0 && !loading) return <>{empty ?? <Empty />}</>;

  const move = (event: KeyboardEvent) => {
    if (event.altKey || event.ctrlKey || event.metaKey || !(event.target as Element).matches(".row-open")) return;
    const i = [...body.current!.rows].indexOf((event.target as Element).closest("tr")!);
    const next = { ArrowDown: i + 1, ArrowUp: i - 1, j: i + 1, k: i - 1, Home: 0, End: sorted.length - 1, PageDown: i + 10, PageUp: i - 10 }[event.key];
    if (next === undefined) return;
    event.preventDefault();
    const bounded = Math.min(sorted.length - 1, Math.max(0, next));
    setAt(bounded);
    const link = body.current!.rows[bounded]?.querySelector<HTMLElement>(".row-open");
    link?.focus();
    link?.scrollIntoView({ block: "nearest" });
  };
  const download = async (as: "csv" | "json") => {
    const all = (await props.exportRows?.()) ?? sorted;
    const told = columns.filter((one) => one.value);
    if (as === "csv") save(`${exportName}.csv`, "text/csv", csv(told.map((one) => one.title), all.map((row) => told.map((one) => one.value!(row)))));
    else save(`${exportName}.json`, "application/json", JSON.stringify(all, null, 2));
  };
  const first = (row: T, i: number, content: ComponentChildren) => {
    const tabIndex = i === at ? 0 : -1;
    if (to) return <Link class="row-open" tabIndex={tabIndex} to={to(row)} onFocus={() => setAt(i)}>{content}</Link>;
    if (onOpen) return <button type="button" class="row-open" tabIndex={tabIndex} onFocus={() => setAt(i)} onClick={() => onOpen(row)}>{content}</button>;
    return content;
  };
  const opens = Boolean(to || onOpen);
  return (
    <div class="table-frame">
      <Scroll label={label}>
        <table class={`table ${opens ? "opens" : ""}`} aria-busy={loading || undefined}>
          <caption class="hidden-visually">{label}</caption>
          <thead><tr>{columns.map((one) => <Head key={one.key} column={one} sort={sort} onSort={setSort} />)}</tr></thead>
          <tbody ref={body} onKeyDown={move}>
            {sorted.map((row, i) => {
              const key = rowKey(row);
              return (
                <tr key={key} class={`${rowClass?.(row) ?? ""} ${current === key ? "current" : ""}`} aria-current={current === key || undefined}
                  onClick={(event) => openRow(event)}>
                  {columns.map((one, c) => <td key={one.key} class={classOf(one)}>{c === 0 ? first(row, i, one.cell(row)) : one.cell(row)}</td>)}
                </tr>
              );
            })}
          </tbody>
        </table>
      </Scroll>
      {(exportName || onMore) && (
        <div class="table-foot">
          <span class="quiet">{S.rows(rows.length, Boolean(onMore))}</span>
          {onMore && <Button size="s" busy={loading ?? false} onClick={onMore}>{loading ? S.loadingMore : S.more}</Button>}
          <span class="spacer" />
          {exportName && (["csv", "json"] as const).map((as) => (
            <Button key={as} size="s" kind="quiet" icon="download" aria-label={S.exportAs(as.toUpperCase(), label)} onClick={() => void download(as)}>
              {as === "csv" ? S.exportCsv : S.exportJson}
            </Button>
          ))}
        </div>
      )}
    </div>
  );
}

/** A click anywhere in a row is one on its link or button; not one on something else to click, nor the end of a selection. */
function openRow(event: MouseEvent & { currentTarget: HTMLElement }): void {
  if ((event.target as Element).closest("a, button, input, select, summary, label")) return;
  if (getSelection()?.toString()) return;
  const link = event.currentTarget.querySelector<HTMLElement>(".row-open");
  if (event.ctrlKey || event.metaKey) { if (link instanceof HTMLAnchorElement) open(link.href, "_blank", "noopener"); }
  else link?.click();
}

function classOf<T>(column: Column<T>): string {
  return `${column.align ?? ""} ${column.wideOnly ? "wide-only" : ""} ${column.grow ? "grow" : ""}`;
}

function Head<T>({ column, sort, onSort }: {
  column: Column<T>; sort: { key: string; down: boolean } | undefined; onSort: (sort: { key: string; down: boolean } | undefined) => void;
}) {
  const mine = sort?.key === column.key ? sort : undefined;
  if (!column.title) return <td class={classOf(column)} />;
  if (!column.value || column.sortable === false) return <th scope="col" class={classOf(column)}>{column.title}</th>;
  const next = () => onSort(!mine ? { key: column.key, down: column.align === "right" } : mine.down === (column.align === "right")
    ? { key: column.key, down: !mine.down } : undefined);
  return (
    <th scope="col" class={classOf(column)} aria-sort={mine ? (mine.down ? "descending" : "ascending") : undefined}>
      <button type="button" class="sort" onClick={next} title={S.sortBy(column.title)}>
        {column.title}{mine && <Icon name={mine.down ? "down" : "up"} size={12} />}
      </button>
    </th>
  );
}

export function sortRows<T>(rows: readonly T[], columns: readonly Column<T>[], sort: { key: string; down: boolean } | undefined): readonly T[] {
  const value = columns.find((one) => one.key === sort?.key)?.value;
  if (!sort || !value) return rows;
  const sign = sort.down ? -1 : 1;
  return rows.map((row, i) => ({ row, i, v: value(row) })).sort((a, b) => {
    const none = Number(a.v === null || a.v === undefined) - Number(b.v === null || b.v === undefined);
    if (none) return none;
    if (a.v === null || a.v === undefined || b.v === null || b.v === undefined || a.v === b.v) return a.i - b.i;
    if (typeof a.v === "string" && typeof b.v === "string") return sign * a.v.localeCompare(b.v) || a.i - b.i;
    return sign * (a.v < b.v ? -1 : 1);
  }).map((one) => one.row);
}

/** Scrolls sideways where it must, and can then be reached by the keyboard. */
export function Scroll({ label, children }: { label: string; children: ComponentChildren }) {
  const frame = useRef<HTMLDivElement>(null);
  const [scrolls, setScrolls] = useState(false);
  useEffect(() => {
    const look = () => { const f = frame.current; if (f) setScrolls(f.scrollWidth > f.clientWidth + 1); };
    const seen = new ResizeObserver(look);
    seen.observe(frame.current!);
    if (frame.current!.firstElementChild) seen.observe(frame.current!.firstElementChild);
    return () => seen.disconnect();
  }, []);
  return <div ref={frame} class="scroll" {...(scrolls ? { tabIndex: 0, role: "region", "aria-label": label } : {})}>{children}</div>;
}
