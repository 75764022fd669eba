// A page's frame: its heading, its actions and what is on it; and the cards on it.
import type { ComponentChildren } from "preact";
import { useEffect } from "preact/hooks";
import { S } from "../strings/shell";

export function Page({ title, actions, lead, tools, wide, children }: {
  title: string; actions?: ComponentChildren; lead?: ComponentChildren; tools?: ComponentChildren; wide?: boolean;
  children?: ComponentChildren;
}) {
  useEffect(() => { document.title = `${title} - ${S.product}`; }, [title]);
  return (
    <div class={`page ${wide ? "wide" : ""}`}>
      <header class="page-head">
        <div class="page-title"><h1 tabIndex={-1}>{title}</h1>{lead && <div class="lead">{lead}</div>}</div>
        {actions && <div class="actions">{actions}</div>}
      </header>
      {tools && <div class="page-tools">{tools}</div>}
      {children}
    </div>
  );
}

export function Card({ title, actions, children, class: more, flush }: {
  title?: ComponentChildren; actions?: ComponentChildren; children?: ComponentChildren; class?: string;
  /** No padding: the content reaches the border, as tables do. */
  flush?: boolean;
}) {
  return (
    <section class={`card ${flush ? "flush" : ""} ${more ?? ""}`}>
      {(title || actions) && <header class="card-head">{title && <h2>{title}</h2>}{actions && <div class="actions">{actions}</div>}</header>}
      <div class="card-body">{children}</div>
    </section>
  );
}

/** A number that matters, with what it is and how it was before. `tone` colours it and says so with an icon. */
export function Stat({ label, value, hint, children }: {
  label: ComponentChildren; value: ComponentChildren; hint?: ComponentChildren; children?: ComponentChildren;
}) {
  return (
    <div class="stat">
      <dt>{label}</dt>
      <dd><span class="stat-value">{value}</span>{hint && <span class="stat-hint">{hint}</span>}{children}</dd>
    </div>
  );
}

export function Stats({ children }: { children: ComponentChildren }) { return <dl class="stats">{children}</dl>; }
