// A chart with its heading, and the button that shows its numbers as a table instead.
import type { ComponentChildren } from "preact";
import { useId, useState } from "preact/hooks";
import { S } from "../strings/charts";
import "./charts.css";

export interface Table { columns: string[]; rows: (string | number)[][] }

interface FrameProps {
  title: string;
  /** Under the heading, in small letters. */
  hint?: string;
  table: Table;
  actions?: ComponentChildren;
  compact?: boolean;
  children: ComponentChildren;
}

export function Frame({ title, hint, table, actions, compact, children }: FrameProps) {
  const [tabular, show] = useState(false), id = useId();
  const Heading = compact ? "h3" : "h2";
  return (
    <section class={compact ? "chart compact" : "chart"} aria-labelledby={id}>
      <header class="chart-head">
        <div>
          <Heading id={id}>{title}</Heading>
          {hint && <p class="chart-hint">{hint}</p>}
        </div>
        {actions}
        <button type="button" class="chart-toggle" aria-label={(tabular ? S.asChart : S.asTable)(title)} onClick={() => show(!tabular)}>
          {tabular ? S.chart : S.table}
        </button>
      </header>
      {tabular ? <Rows table={table} label={title} /> : children}
    </section>
  );
}

function Rows({ table, label }: { table: Table; label: string }) {
  return (
    <div class="chart-rows" tabIndex={0} role="group" aria-label={label}>
      <table>
        <thead><tr>{table.columns.map((column) => <th scope="col" key={column}>{column}</th>)}</tr></thead>
        <tbody>
          {table.rows.map((row, i) => (
            <tr key={i}>{row.map((cell, j) => (j === 0 ? <th scope="row" key={j}>{cell}</th> : <td key={j}>{cell}</td>))}</tr>
          ))}
        </tbody>
      </table>
    </div>
  );
}
